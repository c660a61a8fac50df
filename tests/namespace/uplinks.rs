//! Nodes with several network cards. Programs are on every device that can carry the node's
//! traffic, and the node's address need not be on that of the default route.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ropeway_tests::cluster::{Cluster, Node, Shape, address_on};
use ropeway_tests::load::{self, RequestLoad};
use ropeway_tests::machine::Machine;
use ropeway_tests::manifest;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::{view, wait};

use crate::fixture::{DNS, Fixture, HTTP};
use crate::node_routes::{SOON, reaches_over, routes};

/// Time within which the agent writes the file for `ropeway status`, every five seconds.
const STATUS_WRITTEN: Duration = Duration::from_secs(10);
/// Number of the second network.
const SECOND: u8 = 1;

/// Returns a node's address in the second network.
fn second(family: IpFamily, node: &Node) -> IpAddr {
    address_on(family, SECOND, 10 + node.name().trim_start_matches('n').parse::<u8>().unwrap())
}

/// Applies Node objects with the nodes' addresses in the second network only.
fn name_second_addresses(cluster: &Cluster) {
    let object = |node: &Node| {
        manifest::node(node.name(), &IpFamily::BOTH.map(|family| second(family, node)), &node.pod_cidrs())
    };
    cluster.apply("nodes", &cluster.nodes.iter().map(object).collect::<Vec<_>>()).unwrap();
}

/// Sends requests from `from` to the node ports at an address, and expects all of them answered.
fn node_ports_answer(from: &Machine, address: IpAddr, servers: usize) {
    for (protocol, port) in [(Protocol::Tcp, HTTP.node_port), (Protocol::Udp, DNS.node_port)] {
        let report = load::send_requests(from, SocketAddr::new(address, port), protocol, 40).unwrap();
        let context = format!("{address} {protocol:?}: {report:?}");
        assert_eq!((report.ok, report.failed, report.by_server.len()), (40, 0, servers), "{context}");
    }
}

/// Returns the names of the pinned links of a node.
fn links(node: &Node) -> Vec<String> {
    let status = view::json(&node.machine, &["status"]).unwrap();
    status["links"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap().to_owned()).collect()
}

/// A load balancer in the nodes' private network asks node ports; the default route leads through
/// the public card.
#[test]
#[ignore = "needs root"]
fn node_ports_and_routes_use_the_card_of_the_node_address() {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    let balancer = cluster.add_network(SECOND, 1450, "balancer").unwrap();
    name_second_addresses(&cluster);
    cluster.start_agents().unwrap();
    let fixture = Fixture::of(cluster, &[0, 1]);
    let nodes = &fixture.cluster.nodes;
    for family in IpFamily::BOTH {
        for node in nodes {
            node_ports_answer(&balancer, second(family, node), fixture.backends.len());
        }
        reaches_over(family, &fixture.client, &fixture.backends[1], 1450);
    }
    let table = routes(&nodes[0]);
    assert!(table.contains("10.244.2.0/24 via 192.168.51.12 dev eth1"), "no direct route: {table}");
    let tunnels = nodes[0].machine.output(&["ip", "-o", "link", "show", "type", "vxlan"]).unwrap();
    assert_eq!(tunnels, "", "all nodes share the second network");
}

/// Addresses can appear after the agent has started, and end.
#[test]
#[ignore = "needs root"]
fn uplinks_follow_addresses() {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    name_second_addresses(&cluster);
    cluster.start_agents().unwrap();
    let fixture = Fixture::of(cluster, &[0, 1]);
    assert!(!links(&fixture.cluster.nodes[0]).contains(&"from_uplink-eth1".to_owned()));
    let balancer = fixture.cluster.add_network(SECOND, 1500, "balancer").unwrap();
    for node in &fixture.cluster.nodes {
        let attached = || links(node).contains(&"from_uplink-eth1".to_owned());
        wait::until_true("eth1 has programs", SOON, attached).unwrap();
        for family in IpFamily::BOTH {
            let target = SocketAddr::new(second(family, node), HTTP.node_port);
            wait::until("the node port is served", SOON, || {
                let report = load::send_requests_with(&balancer, target, Protocol::Tcp, 1, &["--timeout=200"])?;
                Ok((report.ok == 1).then_some(()))
            })
            .unwrap();
            node_ports_answer(&balancer, target.ip(), fixture.backends.len());
        }
    }

    let (node, gone) =
        (&fixture.cluster.nodes[0], || !links(&fixture.cluster.nodes[0]).contains(&"from_uplink-eth1".to_owned()));
    node.machine.ip(&["address flush dev eth1 scope global"]).unwrap();
    name_first_addresses(&fixture.cluster);
    wait::until_true("eth1 has no programs", SOON, gone).unwrap();
    for family in IpFamily::BOTH {
        node_ports_answer(&fixture.cluster.client, node.address(family), fixture.backends.len());
    }
}

/// Applies the Node objects as they are at first.
fn name_first_addresses(cluster: &Cluster) {
    cluster.apply("nodes", &cluster.nodes.iter().map(Node::object).collect::<Vec<_>>()).unwrap();
}

/// The Node object says which address has the node ports, and a starting agent does not know it at
/// first.
#[test]
#[ignore = "needs root"]
fn agent_restart_keeps_node_ports_at_the_second_card() {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    let balancer = cluster.add_network(SECOND, 1500, "balancer").unwrap();
    name_second_addresses(&cluster);
    cluster.start_agents().unwrap();
    let mut fixture = Fixture::of(cluster, &[0, 1]);
    let target = SocketAddr::new(second(IpFamily::V4, &fixture.cluster.nodes[0]), HTTP.node_port);
    let load = RequestLoad::start(&balancer, target, Protocol::Tcp, 200).unwrap();
    let node = &mut fixture.cluster.nodes[0];
    node.kill_agent().unwrap();
    node.start_agent(&[]).unwrap();
    node.await_agent().unwrap();
    let report = load.stop().unwrap();
    assert_eq!(report.failed, 0, "{report:?}");
}

#[test]
#[ignore = "needs root"]
fn node_address_that_uplink_option_excludes_is_in_log_and_status() {
    let mut cluster = Cluster::network(Shape { nodes: 1, mtu: 1500 }).unwrap();
    let _balancer = cluster.add_network(SECOND, 1500, "balancer").unwrap();
    name_second_addresses(&cluster);
    cluster.start_agents_with(&["--uplink=eth0"]).unwrap();
    let node = &cluster.nodes[0];
    let text = "the node's address 192.168.51.11 is on eth1, which --uplink=eth0 does not name";
    assert_eq!(node.agent.as_ref().unwrap().log().matches(text).count(), 1, "one line in the log");
    wait::until_true("the status has it", STATUS_WRITTEN, || {
        view::ropeway(&node.machine, &["status"]).is_ok_and(|status| status.contains(text))
    })
    .unwrap();
}

/// A tunnel without Ethernet header (`WireGuard`, tun) carries the node's address.
#[test]
#[ignore = "needs root"]
fn uplink_without_ethernet_header_is_in_log_and_status() {
    let mut cluster = Cluster::network(Shape { nodes: 1, mtu: 1500 }).unwrap();
    let node = &cluster.nodes[0];
    let address: IpAddr = "10.9.0.11".parse().unwrap();
    node.machine.output(&["ip", "tuntap", "add", "dev", "tt0", "mode", "tun"]).unwrap();
    node.machine.ip(&["address add 10.9.0.11/24 dev tt0", "link set tt0 up"]).unwrap();
    cluster.apply("nodes", &[manifest::node("n1", &[address], &node.pod_cidrs())]).unwrap();
    cluster.start_agents().unwrap();
    let node = &cluster.nodes[0];
    let text = "tt0 (tun) has no Ethernet header, which is not supported";
    assert_eq!(node.agent.as_ref().unwrap().log().matches(text).count(), 1, "one line in the log");
    wait::until_true("the status has it", STATUS_WRITTEN, || {
        view::ropeway(&node.machine, &["status"]).is_ok_and(|status| status.contains(text))
    })
    .unwrap();
    let links = links(node);
    assert!(
        links.contains(&"from_uplink-eth0".to_owned()) && !links.contains(&"from_uplink-tt0".to_owned()),
        "{links:?}"
    );
}

/// Sends requests from a pod of the first node to a server, and expects that it sees this address.
fn is_seen_as(fixture: &Fixture, server: IpAddr, address: IpAddr) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let report = load::send_requests(&fixture.client, SocketAddr::new(server, SERVED), protocol, 10).unwrap();
        let context = format!("{server} {protocol:?}: {report:?}");
        assert_eq!((report.ok, report.failed), (10, 0), "{context}");
        assert!(report.seen_as.iter().eq([&address]), "{address} is expected: {context}");
    }
}

/// Port of the servers outside the cluster.
const SERVED: u16 = 8080;

/// A pod reaches a server in each network, and each sees the address of the card in its network.
/// The servers know no other network, so an answer proves that they were asked by a neighbour.
fn masquerade_by_device(second_is_node_address: bool) {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    let inside = cluster.add_network(SECOND, 1500, "inside").unwrap();
    if second_is_node_address {
        name_second_addresses(&cluster);
    }
    // The cards of the test are veths, which are uplinks only for a reason.
    cluster.start_agents_with(&["--masquerade=true", "--uplink=eth0,eth1"]).unwrap();
    let fixture = Fixture::of(cluster, &[0, 1]);
    let _servers = [&inside, &fixture.cluster.client].map(|m| load::serve(m, m.name(), &[SERVED]).unwrap());
    let node = &fixture.cluster.nodes[0];
    // Over IPv6, packets have the node's address on every card.
    is_seen_as(&fixture, address_on(IpFamily::V4, SECOND, 9), second(IpFamily::V4, node));
    is_seen_as(&fixture, address_on(IpFamily::V4, 0, 1), node.address(IpFamily::V4));
    for family in IpFamily::BOTH {
        // A backend on another node, by the card that leads there.
        let address = if second_is_node_address { second(family, node) } else { node.address(family) };
        let from = if second_is_node_address { &inside } else { &fixture.cluster.client };
        node_ports_answer(from, address, fixture.backends.len());
    }
}

/// The node's address is on the second card, and the default route on the first.
#[test]
#[ignore = "needs root"]
fn pods_leave_by_the_default_route_with_its_address() {
    masquerade_by_device(true);
}

/// The node's address is on the card of the default route; the second leads to a storage network.
#[test]
#[ignore = "needs root"]
fn pods_leave_by_a_further_card_with_its_address() {
    masquerade_by_device(false);
}
