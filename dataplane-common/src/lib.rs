//! The packet logic of Ropeway and every type that both sides of the kernel share.
//!
//! No `std`, no `unsafe`, no panic: the same code is compiled into the eBPF programs, where the verifier judges it,
//! and into host tests, where it runs on byte slices. Maps and packets are reached through traits; this crate
//! decides and never calls the kernel.
#![no_std]
#![cfg_attr(not(feature = "host"), forbid(unsafe_code))]
#![deny(unsafe_code)]

pub mod balance;
pub mod maps;
pub mod packet;
pub mod path;
pub mod types;
pub mod verdict;
pub mod wire;

/// A clock tick of the packet path is `1 << TICK_SHIFT` jiffies: about a second with the usual 250 jiffies a second.
/// Reading it costs nothing (the kernel inlines it), unlike every other clock. The agent asks the kernel how long
/// a jiffy is and gives all limits in ticks.
pub const TICK_SHIFT: u32 = 8;
