//! The gateway addresses in the default routes of pods and in the node's routes to Services.
//!
//! No device has these addresses, so they are the same on every node and cost no pod address. They
//! need no ARP or neighbour discovery: a pod has a permanent neighbour entry for its gateway, and
//! the host device has ARP switched off (`IFF_NOARP`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The IPv4 gateway, from the link-local range of RFC 3927.
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 gateway, a link-local address.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Returns the gateway of the address's family.
#[must_use]
pub const fn gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(GATEWAY4),
        IpAddr::V6(_) => IpAddr::V6(GATEWAY6),
    }
}
