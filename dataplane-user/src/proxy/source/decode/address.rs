//! Addresses that no Service may have or forward to, in any cluster (CVE-2021-25737,
//! CVE-2020-8558).
//!
//! Used for cluster IPs, external addresses and endpoints. Addresses that depend on the cluster,
//! such as those of nodes, are checked in `desired`.

use std::net::IpAddr;

/// Returns the reason why `addr` can't be an endpoint or an address of a Service, if there is one.
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
    } else {
        None
    }
}
