//! Tests of next hops, overlapping ranges, and changes to the routing table.
//!
//! Routes are compared in the notation of `ip route`.

use std::net::IpAddr;
use std::time::Instant;

use dataplane_host::netlink::IfIndex;

use super::*;
use crate::config::RouteMode;
use crate::network::tunnel::{self, Devices};
use crate::proxy::source::NodeObject;

const DEVICES: Devices = Devices { indices: [Some(IfIndex(74)), Some(IfIndex(76))] };

fn node(addresses: &[&str], ranges: &[&str]) -> NodeObject {
    NodeObject {
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        pod_cidrs: ranges.iter().map(|r| r.parse().unwrap()).collect(),
        ..NodeObject::default()
    }
}

fn make_with(nodes: &[(&str, NodeObject)], mode: RouteMode, own_ips: &[&str]) -> RoutePlan {
    let own = ["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()];
    let on_link = [("192.168.50.11/24".parse().unwrap(), IfIndex(3)), ("fd00:50::11/64".parse().unwrap(), IfIndex(3))];
    let node_ips: Vec<IpAddr> = own_ips.iter().map(|a| a.parse().unwrap()).collect();
    let local_node =
        LocalNode { node: "n1", node_ips: &node_ips, pod_cidrs: &own, on_link: &on_link, ipv6: true, mode };
    plan(nodes.iter().map(|(name, node)| (*name, node)), &local_node)
}

#[test]
fn kernel_without_ipv6_gets_no_ipv6_routes() {
    let on_link = [("192.168.50.11/24".parse().unwrap(), IfIndex(3))];
    let (node_ips, pod_cidrs) = (["192.168.50.11".parse().unwrap()], ["10.244.1.0/24".parse().unwrap()]);
    let (node_ips, pod_cidrs, on_link) = (&node_ips[..], &pod_cidrs[..], &on_link[..]);
    let local_node = LocalNode { node: "n1", node_ips, pod_cidrs, on_link, ipv6: false, mode: RouteMode::Auto };
    let other = node(&["192.168.50.12", "fd00:50::12"], &["10.244.2.0/24", "fd00:2::/64"]);
    let plan = plan([("n2", &other)].into_iter(), &local_node);
    assert!(plan.blocks.len() == 2 && plan.blocks.keys().all(IpNetwork::is_ipv4), "{:?}", plan.blocks);
    assert!(plan.problems.is_empty() && plan.peers.is_empty(), "{plan:?}");
}

fn make(nodes: &[(&str, NodeObject)], mode: RouteMode) -> RoutePlan {
    make_with(nodes, mode, &["192.168.50.11", "fd00:50::11"])
}

fn described(r: &Route) -> String {
    match r.hop {
        Hop::Gateway { via, index, onlink } => {
            let onlink = if onlink { " onlink" } else { "" };
            let source = r.source.map(|s| format!(" src {s}")).unwrap_or_default();
            format!("{} via {via} dev {}{onlink}{source}", r.destination, index.unwrap_or_default())
        }
        Hop::Blackhole => format!("{} nowhere", r.destination),
        Hop::Device { .. } => "?".into(),
    }
}

fn show(plan: &RoutePlan) -> Vec<String> {
    let sources = ["192.168.50.11".parse().unwrap(), "fd00:50::11".parse().unwrap()];
    plan.routes(DEVICES, &sources, None, None).iter().map(described).collect()
}

#[test]
fn nodes_on_link_get_direct_routes() {
    let nodes = [
        ("n1", node(&["192.168.50.11"], &["10.244.1.0/24"])),
        ("n2", node(&["192.168.50.12", "fd00:50::12"], &["10.244.2.0/24", "fd00:2::/64"])),
        ("n3", node(&["172.16.0.1", "192.168.50.13"], &["10.244.3.0/24"])),
    ];
    for mode in [RouteMode::Auto, RouteMode::Direct] {
        let plan = make(&nodes, mode);
        assert_eq!(plan.problems, [""; 0]);
        assert!(plan.peers.is_empty() && plan.hosts.values().all(Option::is_none));
        let expected = [
            "10.244.1.0/24 nowhere",
            "10.244.2.0/24 via 192.168.50.12 dev 3",
            "10.244.3.0/24 via 192.168.50.13 dev 3",
            "fd00:1::/64 nowhere",
            "fd00:2::/64 via fd00:50::12 dev 3",
        ];
        assert_eq!(show(&plan), expected);
        assert!(plan.routes(DEVICES, &[], None, Some(7)).iter().all(|r| r.metric == 7 && r.protocol == PROTOCOL));
    }
}

/// A kubelet writes its Node's addresses: pods would show theirs to any address that it claims.
#[test]
fn hosts_are_the_first_internal_addresses_of_nodes() {
    let addresses = ["192.168.50.12", "192.168.50.99", "fd00:50::12", "fd00:50::99", "198.51.100.1", "2001:db8::1"];
    let nodes = [
        ("n2", NodeObject { external: 2, ..node(&addresses, &[]) }),
        ("n3", NodeObject { external: 1, ..node(&["198.51.100.2"], &[]) }),
    ];
    let hosts: Vec<_> = make(&nodes, RouteMode::Auto).hosts.keys().map(ToString::to_string).collect();
    assert_eq!(hosts, ["192.168.50.12", "fd00:50::12"]);
}

/// F3: the programs compare the sender of a datagram in the tunnel with the inner source.
#[test]
fn ranges_and_addresses_of_one_node_have_one_number() {
    let nodes = [
        ("n1", node(&["192.168.50.11"], &["10.244.1.0/24"])),
        ("n2", node(&["192.168.50.12", "fd00:50::12"], &["10.244.2.0/24", "fd00:2::/64"])),
        ("n3", node(&["192.168.51.13"], &["10.244.3.0/24"])),
    ];
    let numbers = make(&nodes, RouteMode::Auto).numbers;
    let of = |ranges: &[&str]| -> BTreeSet<u32> {
        ranges.iter().map(|range| numbers[&range.parse::<IpNetwork>().unwrap()]).collect()
    };
    let second = of(&["192.168.50.12/32", "fd00:50::12/128", "10.244.2.0/24", "fd00:2::/64"]);
    let third = of(&["192.168.51.13/32", "10.244.3.0/24"]);
    assert_eq!((second.len(), third.len(), numbers.len()), (1, 1, 6), "{numbers:?}");
    assert!(second.is_disjoint(&third) && !second.contains(&0), "{numbers:?}");
}

#[test]
fn nodes_behind_a_router_are_reached_through_the_tunnel() {
    let nodes = [
        ("n2", node(&["192.168.50.12", "fd00:51::12"], &["10.244.2.0/24", "fd00:2::/64"])),
        ("n3", node(&["192.168.51.13", "fd00:51::13"], &["10.244.3.0/24", "fd00:3::/64"])),
    ];
    let plan = make(&nodes, RouteMode::Auto);
    assert_eq!(plan.problems, [""; 0]);
    let expected = [
        "10.244.1.0/24 nowhere",
        "10.244.2.0/24 via 192.168.50.12 dev 3",
        "10.244.3.0/24 via 192.168.51.13 dev 74 onlink src 192.168.50.11",
        "fd00:1::/64 nowhere",
        // Its IPv6 address is behind a router, its IPv4 address is on link: the tunnel uses IPv4.
        "fd00:2::/64 via fe80::5057:c0ff:fea8:320c dev 74 src fd00:50::11",
        "fd00:3::/64 via fe80::5057:c0ff:fea8:330d dev 74 src fd00:50::11",
    ];
    assert_eq!(show(&plan), expected);
    let ip = |a: &str| a.parse::<IpAddr>().unwrap();
    assert_eq!(plan.peers[&ip("192.168.50.12")], [ip("fe80::5057:c0ff:fea8:320c")].into());
    assert_eq!(plan.peers[&ip("192.168.51.13")], [ip("192.168.51.13"), ip("fe80::5057:c0ff:fea8:330d")].into());
    assert_eq!(plan.hosts[&ip("192.168.51.13")], Some(ip("192.168.51.13")));
    assert_eq!((plan.hosts[&ip("fd00:51::13")], plan.hosts[&ip("192.168.50.12")]), (None, None));
    // A missing device only loses the routes through it.
    assert_eq!(plan.routes(Devices::default(), &[], None, None).len(), 3);

    let always = make(&nodes, RouteMode::Vxlan);
    assert!(show(&always).contains(&"10.244.2.0/24 via 192.168.50.12 dev 74 onlink src 192.168.50.11".to_owned()));
    let six = make_with(&nodes, RouteMode::Vxlan, &["fd00:50::11"]);
    assert!(six.peers.keys().all(IpAddr::is_ipv6), "the family that both have: {six:?}");
    assert!(show(&six).iter().any(|r| r.starts_with("10.244.3.0/24 via 192.168.51.13 dev 76 onlink")), "{six:?}");
}

#[test]
fn node_can_have_many_blocks() {
    let nodes = [
        ("n2", node(&["192.168.50.12"], &["10.244.2.64/26", "10.244.2.0/24", "10.9.0.64/26"])),
        ("n3", node(&["192.168.51.13"], &["10.9.0.128/26", "10.244.2.128/26", "10.244.2.96/28"])),
    ];
    let plan = make_with(&nodes, RouteMode::Auto, &["192.168.50.11"]);
    let routes = show(&plan);
    for route in [
        "10.244.2.0/24 via 192.168.50.12 dev 3",
        "10.9.0.64/26 via 192.168.50.12 dev 3",
        "10.244.2.64/26 via 192.168.50.12 dev 3",
        "10.9.0.128/26 via 192.168.51.13 dev 74 onlink src 192.168.50.11",
    ] {
        assert!(routes.contains(&route.to_owned()), "{route}: {routes:?}");
    }
    let expected = [
        "range 10.244.2.128/26 of node n3 overlaps 10.244.2.0/24 of node n2: no route",
        "range 10.244.2.96/28 of node n3 overlaps 10.244.2.0/24 of node n2: no route",
    ];
    assert_eq!(plan.problems, expected);
}

#[test]
fn unroutable_ranges_are_reported() {
    let nodes = [
        ("n2", node(&["172.16.0.1"], &["10.244.2.0/24"])),
        ("n3", node(&["192.168.50.13"], &["fd00:3::/64"])),
        ("n4", node(&["192.168.50.14"], &["10.244.1.128/25"])),
        ("n5", node(&["192.168.50.15"], &["10.244.5.0/24"])),
        ("n6", node(&["192.168.50.16"], &["10.244.4.0/23"])),
    ];
    let plan = make(&nodes, RouteMode::Direct);
    assert_eq!(show(&plan).len(), 3, "{plan:?}");
    let expected = [
        "range 10.244.2.0/24 of node n2: its address 172.16.0.1 is behind a router, and --route-mode is direct: no route",
        "range fd00:3::/64 of node n3: the node has no IPv6 address: no route",
        "range 10.244.1.128/25 of node n4 overlaps 10.244.1.0/24 of node n1: no route",
        "range 10.244.4.0/23 of node n6 overlaps 10.244.5.0/24 of node n5: no route",
    ];
    assert_eq!(plan.problems, expected);
    let six = make_with(&nodes[..1], RouteMode::Auto, &["fd00:50::11"]);
    assert!(six.problems[0].contains("no address of the same family"), "{six:?}");
}

/// The hardware addresses of the two nodes are equal: the hashes of their addresses end in the same
/// five bytes. One entry of the tunnel's tables would lead the packets for both to one of them.
#[test]
fn second_node_with_the_same_tunnel_hash_gets_no_route() {
    let (first, second) = ("fd00:51::1286:653f:e02b:26bf", "fd00:51::77a8:6e61:1f07:d8c6");
    let ip = |a: &str| a.parse::<IpAddr>().unwrap();
    assert_eq!(tunnel::mac(ip(first)), tunnel::mac(ip(second)));
    let nodes = [
        ("n2", node(&[first], &["fd00:2::/64", "fd00:22::/64"])),
        ("n3", node(&[second], &["fd00:3::/64"])),
        ("n4", node(&["fd00:51::4"], &["fd00:4::/64"])),
    ];
    let plan = make_with(&nodes, RouteMode::Auto, &["fd00:50::11"]);
    let problem = format!(
        "range fd00:3::/64 of node n3: {second} and {first} have the same hash and can't both be reached through the \
         tunnel: no route"
    );
    assert_eq!(plan.problems, [problem]);
    let led: Vec<_> = plan.blocks.iter().filter(|(_, hop)| **hop != NextHop::Own).map(|(b, _)| b.to_string()).collect();
    assert_eq!(led, ["fd00:2::/64", "fd00:4::/64", "fd00:22::/64"]);
    assert_eq!(plan.peers.keys().copied().collect::<Vec<_>>(), [ip("fd00:51::4"), ip(first)]);
}

#[test]
fn host_device_is_gateway_to_services_and_own_blocks() {
    let plan = make(&[], RouteMode::Auto);
    let services = ["10.96.0.0/12".parse().unwrap(), "fd00:96::/112".parse().unwrap()];
    let led = |node_ips: &[IpAddr]| {
        let host_device = HostDeviceRoutes { index: IfIndex(9), node_ips, services: &services };
        plan.routes(DEVICES, &[], Some(&host_device), None).iter().map(described).collect::<Vec<_>>()
    };
    let four = ["10.96.0.0/12 via 169.254.1.1 dev 9 onlink src 192.168.50.11"];
    let own = ["10.244.1.0/24 via 169.254.1.1 dev 9 onlink src 192.168.50.11"];
    let six = ["fd00:1::/64 via fe80::1 dev 9 src fd00:50::11", "fd00:96::/112 via fe80::1 dev 9 src fd00:50::11"];
    let (v4, v6) = ("192.168.50.11".parse().unwrap(), "fd00:50::11".parse().unwrap());
    assert_eq!(led(&[v4, v6]), [&four[..], &own, &six].concat());
    assert_eq!(led(&[v4]), [&four[..], &own, &["fd00:1::/64 nowhere"]].concat(), "no address to send from");
}

#[test]
fn only_the_difference_is_applied_and_foreign_routes_stay() {
    let plan = make(&[("n2", node(&["192.168.50.12"], &["10.244.2.0/24"]))], RouteMode::Auto);
    let wanted = plan.routes(DEVICES, &[], None, None);
    let range = |r: &str| r.parse().unwrap();
    let via = |a: &str| Hop::Gateway { via: a.parse().unwrap(), index: Some(IfIndex(3)), onlink: false };
    let stale = Route::new(range("10.244.9.0/24"), via("192.168.50.19"));
    let moved = Route::new(range("10.244.2.0/24"), via("192.168.50.99"));
    let pod = Route::new(range("10.244.1.5/32"), Hop::Device { index: IfIndex(9) });
    let foreign = Route { protocol: 4, ..Route::new(range("10.0.0.0/8"), via("192.168.50.1")) };
    let changes = RouteChanges::between(&[stale, moved, pod, foreign], &wanted);
    assert_eq!(changes.remove, [stale]);
    assert_eq!(changes.replace, [Route::new(range("10.244.2.0/24"), via("192.168.50.12"))]);
    assert_eq!(changes.add.len(), 2);

    let right: Vec<_> = wanted.iter().copied().chain([pod, foreign]).collect();
    assert!(RouteChanges::between(&right, &wanted).is_empty());
    assert_eq!(RouteChanges::between(&right, &BTreeSet::new()).remove.len(), 3);
}

#[test]
fn planning_time_is_not_quadratic_in_the_number_of_nodes() {
    let large = |count: u32| -> Vec<(String, NodeObject)> {
        let one = |i: u32| {
            let (a, b) = (i / 250, i % 250);
            let addresses = [format!("10.{}.{a}.{b}", 1 + i % 2), format!("fd00:50::{i:x}")];
            let ranges = [format!("10.{}.{b}.0/24", 128 + a), format!("fd00:9:{i:x}::/64")];
            (format!("m{i}"), node(&addresses.each_ref().map(String::as_str), &ranges.each_ref().map(String::as_str)))
        };
        (0..count).map(one).collect()
    };
    let time = |count| {
        let nodes = large(count);
        let named: Vec<_> = nodes.iter().map(|(n, o)| (n.as_str(), o.clone())).collect();
        let start = Instant::now();
        let plan = make(&named, RouteMode::Auto);
        let changes = RouteChanges::between(&[], &plan.routes(DEVICES, &[], None, None));
        assert_eq!((plan.problems.len(), changes.add.len()), (0, 2 * count as usize + 2));
        start.elapsed()
    };
    let (small, big) = ((0..3).map(|_| time(1000)).min().unwrap(), (0..3).map(|_| time(8000)).min().unwrap());
    assert!(big < small * 8 * 4, "{small:?} for 1,000 nodes, {big:?} for 8,000");
}
