//! The node's part of the pod network: links, routes, tunnels, addresses, settings of the programs.
//!
//! `node` is the task that keeps them in the desired state. `routes`, `tunnel` and `networks` each
//! compute that state (pure) and apply the difference. Called by `agent` and, to remove everything,
//! by `cli`. It never writes a service map.

pub mod blocks;
pub mod networks;
pub mod node;
pub mod routes;
pub mod tunnel;
