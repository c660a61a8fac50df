//! Reports the state of the agent and its flows to operators and to the API.
//!
//! `http` serves `metrics` and health, `events` writes Events of the API, `status_file` writes what
//! `ropeway status` shows, `flows` counts the flow tables and evicts ended flows. Called by
//! `agent`, and by `cli` for the status file. It reads the snapshots of `proxy` and `network` and
//! writes nothing back to them.

pub mod events;
pub mod flows;
pub mod http;
pub mod metrics;
pub mod status_file;
