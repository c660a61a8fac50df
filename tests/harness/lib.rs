//! The test harness: nodes, pods and the network between them on one kernel, and traffic between
//! them.
//!
//! A node is a set of namespaces (network, mount, cgroup, UTS, IPC) with a bpffs, `/sys`, `/run`
//! and `/var/lib`, so that every path in it is the default one. Everything that a run makes is
//! below one cgroup directory and one temporary directory, both named after the process that made
//! them. Killing the cgroup removes all namespaces, links, pins and programs. That happens when a
//! [`run::Run`] is dropped, on Ctrl-C, and, for a run that was killed, when the next one starts.
//!
//! The harness uses the product only as a user does: it exec's its binaries.
#![forbid(unsafe_code)]

pub mod agent;
pub mod binaries;
pub mod cluster;
pub mod contracts;
pub mod enter;
pub mod load;
pub mod machine;
pub mod manifest;
pub mod peer;
pub mod plugin;
pub mod pod;
pub mod process;
pub mod run;
pub mod view;
pub mod wait;
