//! Tests of the classification of networks and of the difference that is written.
//!
//! All tests use one plan with a local block, a neighbour and a node behind a router.

use std::net::IpAddr;

use dataplane_host::netlink::IfIndex;

use super::*;
use crate::network::tunnel::Peers;

const KEEP: u32 = network_flags::KEEP_SOURCE;
const SERVICE: u32 = network_flags::SERVICE;
const OWN: u32 = network_flags::OWN | network_flags::LOCAL;
const REMOTE: u32 = network_flags::REMOTE;
const NODE: u32 = network_flags::NODE;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn plan() -> RoutePlan {
    let tunnel = |via: &str| NextHop::Tunnel { remote: ip("192.168.51.13"), via: ip(via) };
    RoutePlan {
        blocks: [
            (net("10.244.1.0/24"), NextHop::Own),
            (net("10.244.2.0/24"), NextHop::Direct { via: ip("192.168.50.12"), index: IfIndex(3) }),
            (net("10.244.3.0/24"), tunnel("192.168.51.13")),
            (net("fd00:3::/64"), tunnel("fe80::1")),
        ]
        .into(),
        hosts: [
            (ip("192.168.50.12"), None),
            (ip("192.168.51.13"), Some(ip("192.168.51.13"))),
            (ip("fd00:51::13"), None),
        ]
        .into(),
        numbers: [
            ("10.244.2.0/24", 2),
            ("10.244.3.0/24", 3),
            ("fd00:3::/64", 3),
            ("192.168.50.12/32", 2),
            ("192.168.51.13/32", 3),
            ("fd00:51::13/128", 3),
        ]
        .map(|(range, number)| (net(range), number))
        .into(),
        peers: Peers::new(),
        problems: Vec::new(),
    }
}

fn make(service: &[IpNetwork], service_proxy: bool) -> NetworkEntries {
    let (plan, cluster) = (plan(), [net("10.244.0.0/16")]);
    desired(&Inputs {
        plan: &plan,
        devices: Devices { indices: [Some(IfIndex(74)), None] },
        pod_networks: &[&cluster],
        non_masquerade: &[net("10.0.0.0/8"), net("10.96.0.0/12")],
        link_local: &[],
        masquerade: true,
        service_ranges: service,
        service_proxy,
    })
}

/// Report 7: what is masqueraded has no entry, like the rest of the outside.
#[test]
fn link_local_networks_are_left_to_the_host_unless_they_are_masqueraded() {
    let plan = RoutePlan::default();
    let (exempt, elsewhere) = ([net("169.254.170.0/24"), net("10.0.0.0/8")], [net("169.254.42.0/28")]);
    let with = |masquerade, service_proxy| {
        let entries = desired(&Inputs {
            plan: &plan,
            devices: Devices::default(),
            pod_networks: &[],
            non_masquerade: &exempt,
            link_local: &elsewhere,
            masquerade,
            service_ranges: &[],
            service_proxy,
        });
        let by_host =
            entries.iter().filter(|(_, net)| **net == Network { oif: 0, flags: KEEP | network_flags::OWN, node: 0 });
        by_host.map(|(range, _)| range.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(with(true, true), ["169.254.42.0/28", "169.254.170.0/24"]);
    assert_eq!(with(false, true), ["169.254.0.0/16", "169.254.42.0/28", "169.254.170.0/24"]);
    assert_eq!(with(true, false), [""; 0], "all packets take the host's routes");
}

#[test]
fn every_entry_carries_all_flags_of_its_network() {
    let entries = make(&[net("10.96.0.0/12"), net("fd00:96::/112")], true);
    let shown: Vec<_> = entries.iter().map(|(range, net)| (range.to_string(), net.oif, net.flags, net.node)).collect();
    let expected = [
        ("10.0.0.0/8", 0, KEEP, 0),
        ("10.96.0.0/12", 0, KEEP | SERVICE, 0),
        ("10.244.0.0/16", 0, KEEP, 0),
        ("10.244.1.0/24", 0, KEEP | OWN, 0),
        ("10.244.2.0/24", 0, KEEP | REMOTE, 2),
        ("10.244.3.0/24", 74, KEEP | REMOTE, 3),
        ("192.168.50.12/32", 0, KEEP | NODE, 2),
        ("192.168.51.13/32", 74, KEEP | NODE, 3),
        ("fd00:3::/64", 74, KEEP | REMOTE, 3),
        ("fd00:51::13/128", 0, KEEP | NODE, 3),
        ("fd00:96::/112", 0, SERVICE, 0),
    ];
    assert_eq!(shown, expected.map(|(r, o, f, n)| (r.to_owned(), o, f, n)));
}

#[test]
fn lookups_without_effect_are_off() {
    let entries = make(&[], true);
    assert_eq!(features(&entries, false, true), node_features::NETWORKS, "for the tunnel");
    assert_eq!(features(&entries, true, true), node_features::NETWORKS | node_features::MASQUERADE);
    let direct: NetworkEntries = entries.into_iter().filter(|(_, net)| net.oif == 0 && net.flags & OWN == 0).collect();
    assert_eq!((features(&direct, false, true), features(&NetworkEntries::new(), false, true)), (0, 0));
    let unallocated = [(net("10.96.0.0/12"), Network { oif: 0, flags: SERVICE, node: 0 })].into();
    assert_eq!(features(&unallocated, false, true), node_features::NETWORKS);
    let own = [(net("10.244.1.0/24"), Network { oif: 0, flags: KEEP | OWN, node: 0 })].into();
    assert_eq!(features(&own, false, true), node_features::NETWORKS);
}

#[test]
fn cluster_ips_are_left_to_another_proxy() {
    let entries = make(&[net("fd00:96::/112")], false);
    assert_eq!(entries[&net("fd00:96::/112")], Network { oif: 0, flags: KEEP, node: 0 });
    assert_eq!(entries[&net("10.244.1.0/24")], Network { oif: 0, flags: KEEP | network_flags::LOCAL, node: 0 });
    assert_eq!(features(&NetworkEntries::new(), false, false), node_features::HOST_ROUTING);
}

#[test]
fn only_the_difference_is_written() {
    let before = make(&[], true);
    assert!(NetworkChanges::between(&before, &before).is_empty());
    let mut after = before.clone();
    after.remove(&net("10.0.0.0/8"));
    after.remove(&net("10.244.3.0/24"));
    after.insert(net("10.244.2.0/24"), Network { oif: 74, flags: KEEP, node: 0 });
    after.insert(net("10.128.0.0/9"), Network { oif: 0, flags: KEEP, node: 0 });
    let changes = NetworkChanges::between(&before, &after);
    assert_eq!(changes.len(), 4);
    let set: Vec<_> = changes.set.iter().map(|(range, net)| (range.to_string(), net.oif)).collect();
    assert_eq!(set, [("10.244.2.0/24".to_owned(), 74), ("10.128.0.0/9".to_owned(), 0)]);
    assert_eq!(changes.remove, [net("10.0.0.0/8"), net("10.244.3.0/24")]);
}
