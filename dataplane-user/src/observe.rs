//! Everything that tells an operator or the API how the agent and its flows are doing.
//!
//! `http` serves `metrics` and health, `events` writes Events of the API, `flows` counts the flow tables and evicts
//! flows that have ended. Called by `agent` only. It reads the snapshots of `proxy` and `network` and writes nothing
//! back to them.

pub mod events;
pub mod flows;
pub mod http;
pub mod metrics;
