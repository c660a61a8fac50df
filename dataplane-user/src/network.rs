//! The node's part of the pod network: links, routes, tunnels, addresses and the programs' settings.
//!
//! `node` is the task that keeps them right. `routes`, `tunnel` and `networks` each compute what should be (pure) and
//! apply the difference. Called by `agent` and, to remove everything, by `cli`. It never writes a service map.

pub mod blocks;
pub mod networks;
pub mod node;
pub mod routes;
pub mod tunnel;
