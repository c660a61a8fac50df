//! The packet logic of Ropeway and every type that both sides of the kernel share.
//!
//! No `std`, no `unsafe`, no panic: the same code is compiled into the eBPF programs, where the verifier judges it,
//! and into host tests, where it runs on byte slices. Maps and packets are reached through traits; this crate
//! decides and never calls the kernel.
#![no_std]
#![cfg_attr(not(feature = "host"), forbid(unsafe_code))]
#![deny(unsafe_code)]

pub mod abi;
pub mod addr;
pub mod again;
pub mod checksum;
pub mod connect;
pub mod crc32c;
pub mod event;
pub mod flow;
pub mod forward;
pub mod hooks;
pub mod icmp;
pub mod left;
pub mod load;
pub mod packet;
pub mod parse;
#[cfg(feature = "host")]
mod plain;
pub mod pod;
pub mod refuse;
pub mod rewrite;
pub mod sctp;
pub mod select;
pub mod service;
pub mod sock;
pub mod track;
pub mod verdict;

/// A clock tick of the packet path is `1 << TICK_SHIFT` jiffies: about a second with the usual 250 jiffies a second.
/// Reading it costs nothing (the kernel inlines it), unlike every other clock. The agent asks the kernel how long
/// a jiffy is and gives all limits in ticks.
pub const TICK_SHIFT: u32 = 8;
