//! The door to the kernel: packet bytes, maps, sockets, helpers. All unsafe code of this crate is below.

pub mod machine;
pub mod skb;
pub mod sock;
pub mod tables;
