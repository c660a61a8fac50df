//! Nodes with real traffic. Needs root and the built binaries: `cargo xtask test --level
//! namespace`.
#![cfg(test)]

mod anti_spoofing;
mod bandwidth;
mod connection_counts;
mod contracts;
mod egress_routes;
mod endpoints;
mod fixture;
mod harness;
mod host_device;
mod hostport;
mod loopback;
mod map_resize;
mod mtu;
mod node_changes;
mod node_routes;
mod restart;
mod rolling_update;
mod schedulers;
mod sctp;
mod service;
mod small;
mod transfer;
mod udp_failover;
