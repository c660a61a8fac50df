//! Which addresses no Service may have or lead to, whatever the cluster (CVE-2021-25737, CVE-2020-8558).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where clouds serve each node an API of its own, with that node's credentials, at addresses that are not link-local: the IPv6 address of
/// Amazon's and of Google's instance metadata, Azure's wire server, Alibaba's and Oracle's metadata.
const NODE_LOCAL_4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
const NODE_LOCAL_6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Why `addr` can't be an endpoint or an external address, if so.
pub(super) fn refused(addr: IpAddr) -> Option<&'static str> {
    let (loopback, link_local) = match addr {
        IpAddr::V4(a) => (a.is_loopback(), a.is_link_local()),
        IpAddr::V6(a) => (a.is_loopback(), a.is_unicast_link_local()),
    };
    if addr.is_unspecified() || matches!(addr, IpAddr::V4(a) if a.octets()[0] == 0) {
        Some("is an unspecified address")
    } else if loopback {
        Some("is a loopback address")
    } else if link_local {
        Some("is a link-local address")
    } else if addr.is_multicast() || matches!(addr, IpAddr::V4(a) if a.is_broadcast()) {
        Some("is a multicast or broadcast address")
    } else if matches!(addr, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
        Some("is an IPv4 address written as IPv6")
    } else if is_node_local_api(addr) {
        Some("is where a cloud serves the node its metadata")
    } else {
        None
    }
}

fn is_node_local_api(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => NODE_LOCAL_4.contains(&a),
        IpAddr::V6(a) => NODE_LOCAL_6.contains(&a),
    }
}

/// The form that the maps have: IPv4 as `::ffff:a.b.c.d`.
pub(super) fn octets16(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
    .octets()
}
