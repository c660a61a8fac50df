//! The contract of a service proxy, cell by cell: `cargo xtask test contracts` makes
//! docs/service-matrix.md of what is recorded here.
//!
//! A test for each section, or part of one, each with one cluster that all its rules share. A rule
//! that fails does not keep the others from being tried.

mod affinity;
mod choice;
mod connection_state;
mod existing_connections;
pub(crate) mod expect;
mod health;
mod objects;
mod observations;
mod policy;
mod reachability;
mod sync;
mod world;
