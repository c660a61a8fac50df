//! The contract of a service proxy. Each test covers a section, or a part of one, and starts one
//! cluster for all its rules. It records the outcome of each cell; a failed cell does not keep the
//! others from being checked.
//!
//! `cargo xtask test contracts` runs them all and compares the records with docs/service-matrix.md.

mod affinity;
mod choice;
mod connection_state;
mod counters;
mod existing_connections;
pub(crate) mod expect;
mod fixture;
mod health;
mod objects;
mod observations;
mod paths;
mod policy;
mod reachability;
mod sync;
