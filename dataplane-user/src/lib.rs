//! The node agent's stages and what the operator's command line shares with it.
//!
//! Control flow: `source` (Kubernetes or a directory of manifests) -> `desired` (pure) -> `reconcile` (pure) ->
//! `apply` (the only writer of service maps), driven by one `controller`.
#![forbid(unsafe_code)]

pub mod agent;
pub mod apply;
pub mod cli;
pub mod config;
pub mod controller;
pub mod desired;
pub mod events;
pub mod flows;
pub mod http;
pub mod ipam;
pub mod load;
pub mod metrics;
pub mod nets;
pub mod node;
pub mod reconcile;
pub mod routes;
pub mod source;
pub mod tunnel;
