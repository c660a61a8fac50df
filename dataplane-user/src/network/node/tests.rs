//! Tests of the facts: uplinks, addresses, MTU and the configuration that follows from them.

use std::net::IpAddr;

use dataplane_common::types::clock::Clock;
use dataplane_host::netlink::{Hop, IfIndex, InterfaceAddress, Link, Route};
use ipnetwork::IpNetwork;

use super::cluster_view::with_blocks;
use super::facts_tracker::is_relevant;
use super::*;
use crate::config::{Ipam, Options};
use crate::proxy::source::NodeObject;

fn config(o: Options) -> Config {
    Config::new(Options { node_name: Some("n1".into()), ..o }).unwrap()
}

pub(super) fn link(index: u32, name: &str) -> Link {
    Link {
        index: IfIndex(index),
        name: name.into(),
        mac: [0; 6],
        ethernet: true,
        mtu: if index == 3 { 1400 } else { 1500 },
        up: true,
        running: true,
        kind: None,
        group: 0,
        lower: None,
        peer_netns: None,
        controller: None,
        vxlan: None,
    }
}

fn of_kind(kind: &str, link: Link) -> Link {
    Link { kind: Some(kind.into()), ..link }
}

fn address(index: u32, network: &str, narrow: bool) -> InterfaceAddress {
    InterfaceAddress { index: IfIndex(index), network: network.parse().unwrap(), narrow, tentative: false }
}

fn snapshot() -> KernelSnapshot {
    KernelSnapshot {
        links: vec![link(1, "lo"), link(2, "eth0"), of_kind("bridge", link(3, "eth1")), link(9, "rwpod")],
        addresses: vec![
            address(1, "127.0.0.1/8", true),
            address(1, "::1/128", true),
            address(1, "10.9.9.9/32", false),
            address(2, "192.168.50.11/24", false),
            address(2, "fd00:50::11/64", false),
            address(2, "fe80::1/64", true),
            address(3, "172.16.0.11/24", false),
        ],
        routes: vec![Route {
            protocol: 2,
            ..Route::new("192.168.50.0/24".parse().unwrap(), Hop::Device { index: IfIndex(2) })
        }],
        ipv6: true,
        listening: ips(&["10.9.9.9", "127.0.0.53"]).into_iter().collect(),
    }
}

#[test]
fn link_local_ipv4_addresses_are_the_nodes_but_have_no_node_ports() {
    let mut s = snapshot();
    s.routes.push(default_route(2));
    s.addresses.push(address(9, "169.254.20.10/32", true));
    let route = |range: &str, index| Route {
        protocol: 2,
        ..Route::new(range.parse().unwrap(), Hop::Device { index: IfIndex(index) })
    };
    s.routes.extend([route("169.254.0.0/16", 2), route("169.254.0.0/16", 9), route("169.254.169.254/32", 3)]);
    s.routes.push(Route::new("169.254.7.0/24".parse().unwrap(), Hop::Device { index: IfIndex(9) }));
    let c = config(Options { nodeport_addresses: Some(vec!["0.0.0.0/0".parse().unwrap()]), ..Options::default() });
    let facts = discover::facts(&c, &s, &Nodes::new());
    let cache = "169.254.20.10".parse().unwrap();
    let context = facts.context(&c);
    assert!(context.addresses.contains(&cache) && !context.nodeport_addresses.contains(&cache));
    assert_eq!(facts.link_local, ["169.254.169.254/32".parse().unwrap()], "by a device that is no uplink");
}

/// L7: where an endpoint can be whose slice says that it is on this node.
#[test]
fn local_networks_are_pod_ranges_and_routes_to_devices_of_others() {
    let mut s = snapshot();
    s.routes.push(default_route(2));
    let route = |range: &str, index, protocol| Route {
        protocol,
        ..Route::new(range.parse().unwrap(), Hop::Device { index: IfIndex(index) })
    };
    s.routes.extend([route("172.17.0.0/16", 3, 2), route("10.77.0.9/32", 9, 3)]);
    s.routes.extend([route("192.168.50.0/24", 2, 2), Route { protocol: 82, ..route("10.244.1.5/32", 9, 0) }]);
    let networks = |options| {
        let c = config(options);
        discover::facts(&c, &s, &Nodes::new()).context(&c).local_networks
    };
    let expected = ["10.244.1.0/24", "10.77.0.9/32", "172.17.0.0/16"].map(|n| n.parse().unwrap());
    assert_eq!(networks(Options { pod_cidr: Some(vec![expected[0]]), ..Options::default() }), Some(expected.to_vec()));
    assert_eq!(
        networks(Options { ipam: Some(Ipam::None), ..Options::default() }),
        None,
        "another plugin's addresses are not known"
    );
}

#[test]
fn cluster_ips_on_the_device_of_ipvs_are_no_addresses_of_the_node() {
    let mut s = snapshot();
    s.links.push(link(7, "kube-ipvs0"));
    s.addresses.push(address(7, "10.96.0.10/32", false));
    s.listening.insert("10.96.0.10".parse().unwrap());
    let c = config(Options { nodeport_addresses: Some(vec!["0.0.0.0/0".parse().unwrap()]), ..Options::default() });
    let context = discover::facts(&c, &s, &Nodes::new()).context(&c);
    assert_eq!(context.addresses, ips(&["10.9.9.9", "172.16.0.11", "192.168.50.11", "fd00:50::11"]));
    assert!(!context.nodeport_addresses.contains(&"10.96.0.10".parse().unwrap()));
    assert_eq!(context.listening, ips(&["10.9.9.9"]), "of the node's own addresses");
    let mut reserved = context.reserved_ports;
    reserved.sort_unstable();
    assert_eq!(reserved, [(6, 10249), (6, 10250), (6, 10256), (17, 4789)]);
}

fn default_route(index: u32) -> Route {
    let hop = Hop::Gateway { via: IpAddr::from([192, 168, 50, 1]), index: Some(IfIndex(index)), onlink: false };
    Route { protocol: 4, ..Route::new("0.0.0.0/0".parse().unwrap(), hop) }
}

/// The finding beside the reports: other nodes lost their routes to pods with old addresses.
#[test]
fn pod_cidrs_from_before_pools_stay_routed_unless_a_pool_has_their_addresses() {
    let object = |cidrs: &[&str], host: u8| NodeObject {
        addresses: ips(&[&format!("192.168.50.{host}"), &format!("fd00:50::{host}")]).into(),
        pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        ..NodeObject::default()
    };
    let nodes: Nodes = [
        ("n1".into(), object(&["10.9.1.0/24", "fd00:9:1::/64"], 11)),
        ("n2".into(), object(&["10.9.2.0/24", "fd00:9:2::/64"], 12)),
        ("n3".into(), object(&["10.1.0.0/24"], 13)),
    ]
    .into();
    let ranges = |ranges: &[&str]| ranges.iter().map(|r| r.parse().unwrap()).collect::<Vec<IpNetwork>>();
    let by_node = [
        ("n2".into(), ranges(&["10.1.0.0/26", "fd00:1::/122"])),
        // of a pool that was deleted, with addresses of n2's old range
        ("n1".into(), ranges(&["fd00:9:2::100/122"])),
        ("n4".into(), ranges(&["10.1.0.64/26"])),
    ]
    .into();
    let blocks = Blocks { by_node, pools: ranges(&["10.1.0.0/16", "fd00:1::/112"]), in_sync: true };
    let merged = with_blocks(&nodes, &blocks);
    assert_eq!(merged.keys().map(|name| &**name).collect::<Vec<_>>(), ["n1", "n2", "n3"]);
    assert_eq!(*merged["n2"].pod_cidrs, ranges(&["10.1.0.0/26", "fd00:1::/122", "10.9.2.0/24"]));
    assert_eq!(*merged["n1"].pod_cidrs, ranges(&["fd00:9:2::100/122", "10.9.1.0/24", "fd00:9:1::/64"]));
    assert_eq!(*merged["n3"].pod_cidrs, [], "the pool gives its addresses to others");

    let c = config(Options { ipam: Some(Ipam::Pools), ..Options::default() });
    let facts = discover::facts(&c, &snapshot(), &merged);
    let plan = NodeRoutes::plan(&c, &facts, &merged);
    let routed = ["10.1.0.0/26", "10.9.1.0/24", "10.9.2.0/24"].map(|range| range.parse().unwrap());
    assert!(routed.iter().all(|range| plan.blocks.contains_key(range)), "{:?}", plan.blocks);
    assert_eq!(plan.problems, [""; 0]);
}

/// Returns the Node objects of a cluster in which only the node's own is known.
fn own(node: NodeObject) -> Nodes {
    [("n1".into(), node)].into()
}

fn names(facts: &NodeFacts) -> Vec<&str> {
    facts.uplinks.iter().map(|l| l.name.as_str()).collect()
}

fn ips(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|a| a.parse().unwrap()).collect()
}

#[test]
fn uplink_is_the_device_of_the_default_route() {
    let mut s = snapshot();
    s.routes.push(default_route(2));
    let facts = discover::facts(&config(Options::default()), &s, &Nodes::new());
    assert_eq!(names(&facts), ["eth0"]);
    assert_eq!(facts.node_ips, ips(&["192.168.50.11", "fd00:50::11"]));
    assert_eq!(facts.addresses, ips(&["10.9.9.9", "172.16.0.11", "192.168.50.11", "fd00:50::11"]));
    assert!(facts.on_link.contains(&("192.168.50.11/24".parse().unwrap(), IfIndex(2))));
    assert!(facts.on_link.iter().all(|(_, index)| *index == IfIndex(2)));
    assert_eq!((facts.uplink_mtu, facts.gateways), (1500, ips(&["192.168.50.1"])));
}

#[test]
fn device_of_the_node_address_is_the_first_uplink() {
    let c = config(Options { node_ip: Some(ips(&["172.16.0.11"])), ..Options::default() });
    let facts = discover::facts(&c, &snapshot(), &Nodes::new());
    assert_eq!((names(&facts), facts.uplink_mtu), (vec!["eth1", "eth0"], 1400));
    assert_eq!([0, 1350, 1450].map(|tunnel| facts.pod_mtu(&c, tunnel)), [1400, 1350, 1400]);
    assert_eq!(facts.node_ips, ips(&["172.16.0.11"]));

    let node = NodeObject {
        addresses: ips(&["203.0.113.7", "fd00:50::11"]).into(),
        pod_cidrs: ["10.244.1.0/24".parse().unwrap()].into(),
        ..NodeObject::default()
    };
    let facts = discover::facts(&config(Options::default()), &snapshot(), &own(node));
    assert_eq!(names(&facts), ["eth0"]);
    assert_eq!(facts.node_ips, ips(&["192.168.50.11", "fd00:50::11"]), "203.0.113.7 is no address of this node");
    assert_eq!(facts.pod_cidrs.len(), 1);

    let nothing = discover::facts(&config(Options::default()), &snapshot(), &Nodes::new());
    assert_eq!((names(&nothing), nothing.uplink_mtu), (vec!["eth0"], 1500), "a card with an address");
    let empty = discover::facts(&config(Options::default()), &KernelSnapshot::default(), &Nodes::new());
    assert!(empty.uplinks.is_empty() && empty.node_ips.is_empty());
}

/// Adds a device with an address and the kernel's route to the address's network.
fn add_device(s: &mut KernelSnapshot, link: Link, network: &str) {
    let index = link.index.0;
    let address = address(index, network, false);
    let on_link = IpNetwork::new(address.network.network(), address.network.prefix()).unwrap();
    s.links.push(link);
    s.addresses.push(address);
    s.routes.push(Route { protocol: 2, ..Route::new(on_link, Hop::Device { index: IfIndex(index) }) });
}

/// Returns the cluster of nodes with these addresses, `n1` first.
fn nodes(addresses: &[&str]) -> Nodes {
    let object = |address: &&str| NodeObject { addresses: ips(&[address]).into(), ..NodeObject::default() };
    addresses.iter().map(object).enumerate().map(|(i, node)| (format!("n{}", i + 1).into(), node)).collect()
}

#[test]
fn uplinks_are_the_devices_of_default_routes_node_addresses_and_routes_to_nodes() {
    let mut s = snapshot();
    s.routes.push(default_route(2));
    for (index, name, kind, network) in [
        (4, "ovs2", "openvswitch", "10.8.0.11/24"),
        (5, "docker0", "bridge", "172.17.0.1/16"),
        (6, "kube-ipvs0", "dummy", "10.96.0.10/32"),
        (7, "dummy0", "dummy", "10.7.7.7/32"),
        (8, "ovs3", "openvswitch", "10.6.0.11/24"),
        (10, "vethptp", "veth", "10.22.0.1/32"),
        // A pod's, of another plugin, which gives the node's end an address in the pod's network.
        (11, "vethpod", "veth", "10.77.0.254/24"),
    ] {
        add_device(&mut s, of_kind(kind, link(index, name)), network);
    }
    let c = config(Options::default());
    let of = |s: &KernelSnapshot, addresses: &[&str]| {
        let facts = discover::facts(&c, s, &nodes(addresses));
        assert!(facts.warnings.is_empty(), "{:?}", facts.warnings);
        names(&facts).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of(&s, &[]), ["eth0"], "before the Nodes are known");
    assert_eq!(of(&s, &["192.168.50.11", "192.168.50.12"]), ["eth0"]);
    assert_eq!(of(&s, &["172.16.0.11", "172.16.0.12"]), ["eth0", "eth1"], "the node's address");
    assert_eq!(of(&s, &["192.168.50.11", "10.8.0.12", "203.0.113.2"]), ["eth0", "ovs2"], "another node's address");
    assert_eq!(of(&s, &["192.168.50.11", "172.17.0.9"]), ["eth0"], "a bridge of another runtime");
    assert_eq!(of(&s, &["172.17.0.1"]), ["eth0", "docker0"], "a bridge with the node's address");
    for own in ["10.9.9.9", "10.7.7.7", "10.96.0.10"] {
        assert_eq!(of(&s, &[own]), ["eth0"], "{own} is on lo or a dummy");
    }
    // A more specific route decides, and Ropeway's own never do.
    let via = Hop::Gateway { via: IpAddr::from([10, 6, 0, 1]), index: Some(IfIndex(8)), onlink: false };
    let specific = Route::new("10.8.0.12/32".parse().unwrap(), via);
    s.routes.push(specific);
    assert_eq!(of(&s, &["192.168.50.11", "10.8.0.12"]), ["eth0", "ovs2"], "the route is Ropeway's");
    s.routes.push(Route { protocol: 3, ..specific });
    assert_eq!(of(&s, &["192.168.50.11", "10.8.0.12"]), ["eth0", "ovs3"]);
    s.routes.push(default_route(4));
    assert_eq!(of(&s, &["192.168.50.11"]), ["eth0", "ovs2"], "two default routes");
}

/// `ipv6.disable=1`: the Node object has ranges of both families all the same.
#[test]
fn kernel_without_ipv6_leaves_ipv6_out_and_says_so() {
    let c = config(Options { node_ip: Some(ips(&["192.168.50.11", "fd00:50::11"])), ..Options::default() });
    let pod_cidrs = ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|r| r.parse().unwrap()).into();
    let nodes = own(NodeObject { pod_cidrs, ..NodeObject::default() });
    let with = discover::facts(&c, &snapshot(), &nodes);
    assert_eq!((with.pod_cidrs.len(), with.node_ips.len(), with.warnings.len()), (2, 2, 0));
    let mut s = KernelSnapshot { ipv6: false, ..snapshot() };
    s.addresses.retain(|a| a.network.is_ipv4());
    let facts = discover::facts(&c, &s, &nodes);
    assert_eq!(facts.pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);
    assert_eq!(facts.node_ips, ips(&["192.168.50.11"]));
    assert!(facts.warnings.len() == 1 && facts.warnings[0].contains("ipv6.disable=1"), "{:?}", facts.warnings);
    assert!(!facts.context(&c).ipv6);
}

#[test]
fn device_without_ethernet_is_no_uplink_and_a_warning() {
    let mut s = snapshot();
    s.routes.push(default_route(4));
    let tun = Link { ethernet: false, mtu: 1420, ..of_kind("tun", link(4, "tt0")) };
    add_device(&mut s, tun, "10.9.0.11/24");
    let text = "tt0 (tun) has no Ethernet header, which is not supported";
    let named = Options { uplink: Some(vec!["tt0".into()]), ..Options::default() };
    for (options, uplinks) in [(Options::default(), vec!["eth0"]), (named, vec![])] {
        let c = config(options);
        let facts = discover::facts(&c, &s, &nodes(&["10.9.0.11", "10.9.0.12"]));
        assert_eq!(names(&facts), uplinks);
        assert!(facts.warnings.len() == 1 && facts.warnings[0].starts_with(text), "{:?}", facts.warnings);
        assert_eq!(facts.pod_mtu(&c, 0), 1420, "pods' packets can leave there");
    }
}

/// The kernel's MASQUERADE takes the address of the device too.
#[test]
fn masqueraded_packets_get_an_address_of_their_device() {
    let mut s = snapshot();
    s.routes.push(default_route(2));
    s.addresses.insert(3, address(2, "192.168.99.9/24", false));
    add_device(&mut s, link(4, "eth2"), "10.7.0.1/32");
    add_device(&mut s, link(4, "eth2"), "10.7.0.11/24");
    s.addresses.push(InterfaceAddress { tentative: true, ..address(4, "fd00:7::11/64", false) });
    let via = Hop::Gateway { via: IpAddr::from([10, 7, 0, 254]), index: Some(IfIndex(4)), onlink: false };
    s.routes.push(Route { protocol: 3, ..Route::new("10.0.0.0/8".parse().unwrap(), via) });
    let sources = discover::facts(&config(Options::default()), &s, &nodes(&["192.168.50.11"])).sources;
    let of = |index| {
        let source = sources[&IfIndex(index)];
        (IpAddr::from(source.addr4), IpAddr::from(source.addr6))
    };
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(of(2), (address("192.168.50.11"), address("fd00:50::11")), "the node's address first");
    assert_eq!(
        of(4),
        (address("10.7.0.11"), address("fd00:50::11")),
        "of the router's network; none that is tentative"
    );
    assert_eq!(sources.len(), 2, "eth1 is no uplink");
}

/// A card with an address is an uplink, so that what leaves there comes back to a program. Its MTU
/// is not the pods', because pods' packets need not leave there.
#[test]
fn every_card_with_a_network_is_an_uplink() {
    let mut s = snapshot();
    s.routes.push(default_route(2));
    for (index, kind, network) in [(10, "vlan", "10.7.0.11/24"), (11, "macvlan", "fd00:7::11/64")] {
        let small = Link { mtu: 1300, ..of_kind(kind, link(index, &format!("card{index}"))) };
        add_device(&mut s, small, network);
    }
    let c = config(Options::default());
    let facts = discover::facts(&c, &s, &Nodes::new());
    assert_eq!(names(&facts), ["eth0", "card10", "card11"]);
    let node = facts.node_config(&c, Clock { jiffies_per_second: 250 });
    assert_eq!((facts.pod_mtu(&c, 0), node.mtu, node.uplink), (1500, 1300, 0));
}

#[test]
fn node_address_on_a_device_that_uplink_does_not_name_is_a_warning() {
    let mut s = snapshot();
    s.routes.push(default_route(2));
    let with = |uplinks: &[&str], own: &str| {
        let uplink = Some(uplinks.iter().map(|u| (*u).to_owned()).collect());
        discover::facts(&config(Options { uplink, ..Options::default() }), &s, &nodes(&[own])).warnings
    };
    let warnings = with(&["eth0"], "172.16.0.11");
    let text = "the node's address 172.16.0.11 is on eth1, which --uplink=eth0 does not name";
    assert!(warnings.len() == 1 && warnings[0].starts_with(text), "{warnings:?}");
    assert!(with(&["eth0", "eth1"], "172.16.0.11").is_empty());
    assert!(with(&["eth0"], "10.9.9.9").is_empty(), "an address of lo is reached by every device");
    assert!(with(&["eth0"], "203.0.113.9").is_empty(), "no address of this node");
}

#[test]
fn options_override_discovery() {
    let o = Options {
        uplink: Some(vec!["eth1".into(), "bond0".into()]),
        pod_cidr: Some(vec!["10.1.0.0/24".parse().unwrap()]),
        mtu: Some(9000),
        ..Options::default()
    };
    let c = config(o);
    let mut s = snapshot();
    s.routes.push(default_route(2));
    let facts = discover::facts(&c, &s, &own(NodeObject::default()));
    assert_eq!((names(&facts), &facts.missing[..]), (vec!["eth1"], &["bond0".to_owned()][..]));
    assert_eq!((facts.uplink_mtu, facts.pod_mtu(&c, 0), facts.pod_mtu(&c, 1350)), (1400, 9000, 9000));
    assert_eq!(facts.pod_cidrs, ["10.1.0.0/24".parse().unwrap()]);

    let node = facts.node_config(&c, Clock { jiffies_per_second: 250 });
    // The default route uses another device.
    assert_eq!((node.uplink, node.snat_port_min, node.snat_port_max), (0, 4096, 29999));
    assert_eq!((node.node4.octets, node.node6.octets), ([172, 16, 0, 11], [0; 16]));
    assert_eq!((node.udp_ticks, node.tcp_ticks, node.closing_ticks), (118, 84375, 59));
    assert_eq!((node.unreplied_ticks, node.assured_ticks), (2, 8));
    let quick = facts.node_config(&c, Clock { jiffies_per_second: 1000 });
    assert_eq!((quick.unreplied_ticks, quick.assured_ticks), (5, 32), "at least 1 s, and at least 8 s");
    let context = facts.context(&c);
    assert_eq!(context.nodeport_addresses, ips(&["172.16.0.11", "127.0.0.1", "::1"]));
    assert_eq!(context.pod_ranges.len(), 1);
}

#[test]
fn rule_2_3_13_node_ports_are_at_the_primary_addresses_or_in_the_ranges() {
    let with = |ranges: &[&str]| {
        let nodeport_addresses = Some(ranges.iter().map(|r| r.parse().unwrap()).collect());
        let c = config(Options { node_ip: Some(ips(&["192.168.50.11"])), nodeport_addresses, ..Options::default() });
        discover::facts(&c, &snapshot(), &Nodes::new()).context(&c).nodeport_addresses
    };
    assert_eq!(with(&["primary"]), ips(&["192.168.50.11", "fd00:50::11", "127.0.0.1", "::1"]));
    assert_eq!(with(&["172.16.0.0/12", "fd00::/8"]), ips(&["172.16.0.11", "fd00:50::11", "127.0.0.1", "::1"]));
    assert_eq!(with(&["198.51.100.0/24"]), ips(&["127.0.0.1", "::1"]), "no address of this node");
}

#[test]
fn host_routing_is_bypassed_only_if_all_routes_use_the_uplink() {
    let c = config(Options::default());
    let routes_and_mtu = |s: &KernelSnapshot| {
        let node = discover::facts(&c, s, &Nodes::new()).node_config(&c, Clock { jiffies_per_second: 250 });
        (node.uplink, node.mtu)
    };
    let mut s = snapshot();
    s.routes.push(default_route(2));
    // A route of Ropeway, and a link-local route, which every device has.
    let ours = Route::new("10.1.0.5/32".parse().unwrap(), Hop::Device { index: IfIndex(9) });
    let link_local =
        Route { protocol: 2, ..Route::new("fe80::/64".parse().unwrap(), Hop::Device { index: IfIndex(3) }) };
    s.routes.extend([ours, link_local]);
    assert_eq!(routes_and_mtu(&s), (2, 1500));
    // A bridge of another runtime, with a smaller MTU than the uplink.
    let bridge =
        Route { protocol: 2, ..Route::new("172.17.0.0/16".parse().unwrap(), Hop::Device { index: IfIndex(3) }) };
    s.routes.push(bridge);
    assert_eq!(routes_and_mtu(&s), (0, 1400));
}

#[test]
fn events_of_pods_are_not_relevant() {
    let mut s = snapshot();
    s.routes.push(default_route(2));
    let c = config(Options::default());
    let facts = discover::facts(&c, &s, &Nodes::new());
    let relevant = |e: &NetlinkEvent| is_relevant(e, &facts, &c);
    let pod_route = Route::new("10.244.1.5/32".parse().unwrap(), Hop::Device { index: IfIndex(9) });
    for event in [
        NetlinkEvent::Link(link(9, "rwpod")),
        NetlinkEvent::LinkGone(link(9, "rwpod")),
        NetlinkEvent::Route(pod_route),
        NetlinkEvent::RouteGone(pod_route),
        NetlinkEvent::Link(link(2, "eth0")),
    ] {
        assert!(!relevant(&event), "{event:?}");
    }
    let node_route = Route::new("10.244.2.0/24".parse().unwrap(), Hop::Blackhole);
    let mut changed = link(2, "eth0");
    changed.mtu = 9000;
    for event in [
        NetlinkEvent::Link(changed),
        NetlinkEvent::LinkGone(link(2, "eth0")),
        NetlinkEvent::RouteGone(node_route),
        NetlinkEvent::RouteGone(default_route(2)),
        NetlinkEvent::Route(default_route(3)),
        NetlinkEvent::Route(Route { destination: "10.8.0.0/24".parse().unwrap(), ..default_route(3) }),
        NetlinkEvent::Lost,
    ] {
        assert!(relevant(&event), "{event:?}");
    }
    assert!(!relevant(&NetlinkEvent::Route(node_route)), "our own");
}
