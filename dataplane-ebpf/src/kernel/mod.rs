//! Access to the kernel: packet bytes, maps, sockets, helpers.
//!
//! The modules implement the traits of `dataplane-common`. All unsafe code of this crate is here,
//! and none of it decides where a packet goes.

pub mod machine;
pub mod route;
pub mod skb;
pub mod sock;
pub mod tables;
