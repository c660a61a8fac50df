//! The node agent and the operator's command line, as a library for the two programs, the tests and the benchmark.
//!
//! `agent` and `cli` are at the top. Below them, each using only what follows: `observe`, `ipam`, `network`, `proxy`,
//! `load` and `config`.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod config;
pub mod ipam;
pub mod load;
pub mod network;
pub mod observe;
pub mod proxy;
