//! Packet access: reading, parsing and rewriting headers.
//!
//! Owns [`access::Packet`], the trait that the kernel programs implement over an skb and the tests
//! over bytes, and everything that depends on the layout of a header. The packet path calls it. It
//! never decides where a packet goes.

pub mod access;
pub mod family;
pub mod parse;
pub mod rewrite;
