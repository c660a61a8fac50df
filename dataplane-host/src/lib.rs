//! What the agent and the CNI plugin share on the host's side: pins and maps in bpffs, netlink, the address store and the files beside it.
//!
//! Everything here is blocking and works without a running agent. Unsafe code only behind [`sys`].
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
