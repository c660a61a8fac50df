//! The contract of a service proxy, cell by cell: `cargo xtask test contracts` makes docs/service-matrix.md of what is recorded here.
//!
//! A test for each section, or part of one, each with one cluster that all its rules share. A rule that fails does not keep the others from
//! being tried.

mod affinity;
pub(crate) mod asks;
mod before;
mod choice;
mod health;
mod looks;
mod objects;
mod policy;
mod reach;
mod remembered;
mod sync;
mod world;
