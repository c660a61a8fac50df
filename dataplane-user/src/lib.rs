//! The node agent and the operator's command line, as a library for the two programs, the tests and
//! the benchmark.
//!
//! The modules are layers: `agent` and `cli` at the top, then `observe`, `ipam`, `network`,
//! `proxy`, `api`, `load` and `config`. Each uses only those that follow it. `policy` stands alone:
//! no module uses it yet.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod ipam;
pub mod load;
pub mod network;
pub mod observe;
pub mod policy;
pub mod proxy;
