//! The host-side code shared by agent, CNI plugin and command line: pinned BPF objects, netlink,
//! network namespaces, the address store and the files by which the agent tells the plugin about
//! the node.
//!
//! The agent depends on this crate and so does the plugin, which runs without the agent. Everything
//! here is therefore blocking and needs no async runtime. Unsafe code is confined to [`sys`].
#![deny(unsafe_code)]

pub mod contract;
pub mod durable;
pub mod map;
pub mod netlink;
pub mod netns;
pub mod pins;
pub mod store;
pub mod sys;
pub mod verifier;
