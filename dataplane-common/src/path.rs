//! The packet path and the socket path: what the programs at each hook do.
//!
//! [`datapath`] holds the entry points at the tc hooks and the first tail calls; [`socket`] holds
//! the cgroup hooks. Each other module does one task of the packet path. The kernel programs and
//! the tests call this module; no other module of the crate does.

pub mod conntrack;
pub mod datapath;
pub mod deliver;
pub mod flow_pair;
pub mod flow_share;
pub mod forward;
pub mod icmp_error;
pub mod judge;
pub mod new_connection;
pub mod port_reuse;
pub mod recheck;
pub mod reject;
pub mod sctp_ports;
pub mod sender;
pub mod socket;
pub mod tunnel_source;
pub mod udp_failover;
