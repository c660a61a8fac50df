//! Reports the state of the agent and its flows to operators and to the API.
//!
//! `http` serves `metrics` and health, `events` writes Events of the API, `flows` counts the flow
//! tables and evicts ended flows. Called by `agent` only. It reads the snapshots of `proxy` and
//! `network` and writes nothing back to them.

pub mod events;
pub mod flows;
pub mod http;
pub mod metrics;
