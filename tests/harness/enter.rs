//! `ropeway-peer node` and `ropeway-peer in`: make the namespaces of a machine, and run a program
//! inside them.
//!
//! Both run in a new process with one thread, because a process with several threads cannot change
//! its mount namespace. Called only by [`crate::machine`], through the binary.

mod inside;
mod node;

pub use inside::{Inside, run as run_inside};
pub use node::{NodeOptions, run as run_node};
