//! The packet logic of Ropeway, and every type that both sides of the kernel share.
//!
//! No `std`, no `unsafe`, no panic: the same code is compiled into the eBPF programs, where the
//! verifier checks it, and into host tests, where it runs on byte slices and hash maps. Packets and
//! maps are reached through traits. This crate makes the decisions. It never calls the kernel.
#![no_std]
#![cfg_attr(not(feature = "host"), forbid(unsafe_code))]
#![deny(unsafe_code)]

pub mod balance;
pub mod maps;
pub mod packet;
pub mod path;
pub mod policy;
pub mod types;
pub mod verdict;
pub mod wire;
