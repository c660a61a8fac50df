//! Nodes with real traffic. Needs root and the built binaries: `cargo xtask test --level namespace`.
#![cfg(test)]

mod contracts;
mod counting;
mod endpoints;
mod gate;
mod growth;
mod harness;
mod hostport;
mod limits;
mod loopback;
mod mtu;
mod nodes;
mod reach;
mod restart;
mod rolling;
mod scene;
mod schedulers;
mod sctp;
mod service;
mod small;
mod spoof;
mod stay;
mod transfer;
mod ways;
