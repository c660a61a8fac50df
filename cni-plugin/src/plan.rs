//! Names, MACs, interface indexes and routes of an attachment: pure decisions, before anything is
//! created.
//!
//! ADD creates what this module returns; CHECK compares against it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::pod::POD_SLOTS;
pub(crate) use dataplane_host::contract::gateway;
use dataplane_host::netlink::{Hop, IfIndex, Route};
use dataplane_host::store::{AttachmentId, AttachmentRecord};
use ipnetwork::IpNetwork;

/// MAC of the host's end of every pod's veth.
pub(crate) const HOST_MAC: [u8; 6] = [0xee; 6];

/// Lower indexes are left to devices that the kernel numbers itself.
const FIRST_INDEX: u32 = 1024;
/// Number of indexes that are tried.
const INDEX_ATTEMPTS: u32 = 4096;

/// Returns the MAC of the pod's end: the requested one, or one made from the attachment's hash
/// (locally administered, unicast).
pub(crate) fn pod_mac(record: &AttachmentRecord) -> [u8; 6] {
    record.mac.unwrap_or_else(|| hashed_mac(&record.id))
}

fn hashed_mac(id: &AttachmentId) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(&id.hash().to_be_bytes()[..6]);
    mac[0] = mac[0] & 0xfc | 0x02;
    mac
}

/// Returns the interface indexes to try for the host's end, spread by the attachment's hash.
pub(crate) fn indexes(id: &AttachmentId) -> impl Iterator<Item = IfIndex> {
    let span = POD_SLOTS - FIRST_INDEX;
    let start = (id.hash() % u64::from(span)) as u32;
    (0..INDEX_ATTEMPTS).map(move |i| IfIndex(FIRST_INDEX + (start + i) % span))
}

/// Returns the address as a /32 or /128 network.
pub(crate) fn host_network(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// Returns the network of all addresses of a family, the destination of a default route.
pub(crate) fn default_network(address: IpAddr) -> IpNetwork {
    let unspecified = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    IpNetwork::new(unspecified, 0).unwrap_or_else(|_| host_network(address))
}

/// Returns the pod's default route in the family of one of its addresses.
pub(crate) fn pod_route(address: IpAddr, index: IfIndex) -> Route {
    let hop = Hop::Gateway { via: gateway(address), index: Some(index), onlink: address.is_ipv4() };
    Route { protocol: POD_ROUTE_PROTOCOL, ..Route::new(default_network(address), hop) }
}

/// Protocol number of routes inside pods: `RTPROT_BOOT`, as `ip route add` sets it.
pub(crate) const POD_ROUTE_PROTOCOL: u8 = 3;

/// Returns the node's route to one of a pod's addresses.
pub(crate) fn host_route(address: IpAddr, index: IfIndex) -> Route {
    Route::new(host_network(address), Hop::Device { index })
}

/// Returns the addresses of a record in the form of the maps; all zero where it has none.
pub(crate) fn map_addresses(record: &AttachmentRecord) -> (V4, V6) {
    let (mut four, mut six) = (V4::default(), V6::default());
    for address in &record.addresses {
        match *address {
            IpAddr::V4(a) => four = a.into(),
            IpAddr::V6(a) => six = a.into(),
        }
    }
    (four, six)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_stay_within_the_table_and_are_not_repeated() {
        let id = |c: u32| AttachmentId { container: c.to_string(), ifname: "eth0".into() };
        for container in 0..100 {
            let all: Vec<_> = indexes(&id(container)).collect();
            assert!(all.iter().all(|i| (FIRST_INDEX..POD_SLOTS).contains(&i.0)));
            let unique: std::collections::HashSet<_> = all.iter().collect();
            assert_eq!(unique.len(), INDEX_ATTEMPTS as usize);
            assert_eq!(hashed_mac(&id(container))[0] & 3, 2);
        }
    }
}
