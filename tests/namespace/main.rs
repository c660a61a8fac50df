//! Tests of whole nodes with real traffic.
//!
//! Each test makes machines of namespaces, runs the built binaries in them, and removes everything
//! at its end. They need root and the built binaries, so they are ignored in `cargo test`; `cargo
//! xtask test --level namespace` runs them. See tests/README.md.
#![cfg(test)]

mod addresses;
mod anti_spoofing;
mod bandwidth;
mod connection_counts;
mod contracts;
mod egress_routes;
mod endpoints;
mod fixture;
mod floods;
mod flow_ownership;
mod foreign_programs;
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
mod socket_scope;
mod transfer;
mod translation_ports;
mod udp_failover;
mod uplinks;
