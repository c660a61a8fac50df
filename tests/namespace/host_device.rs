//! The node's own way to Services: what no socket hook has led to a backend.

use std::net::SocketAddr;
use std::time::Duration;

use ropeway_tests::cluster::{Cluster, Node, Shape};
use ropeway_tests::load::{self, NodeByPackets, Place};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::Family;
use ropeway_tests::{view, wait};

use crate::contracts::expect::failed;
use crate::fixture::{Scene, cluster_ip};

/// The networks of Services.
pub(crate) const RANGES: &str = "--service-cidr=10.96.0.0/16,fd00:10:96::/112";
/// Longer than a look of the agent.
const SOON: Duration = Duration::from_secs(10);

fn scene(on: &[usize]) -> Scene {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    cluster.filter_strictly().unwrap();
    cluster.start_agents_with(&[RANGES]).unwrap();
    let scene = Scene::of(cluster, on);
    await_open(&scene.cluster.nodes[0]);
    scene
}

/// The way is open once the networks of Services are known.
pub(crate) fn await_open(node: &Node) {
    wait::until_true("routes to Services", SOON, || {
        let table =
            |family| node.space.output(&["ip", family, "route", "show", "dev", "ropeway.out"]).unwrap_or_default();
        table("-4").contains("10.96.0.0/16") && table("-6").contains("fd00:10:96::/112")
    })
    .unwrap();
}

#[test]
fn a_node_without_hooks_reaches_services() {
    let scene = scene(&[0, 1]);
    let node = &scene.cluster.nodes[0].space;
    let from = NodeByPackets { node, elsewhere: &scene.cluster.fabric };
    for family in Family::BOTH {
        let address = cluster_ip(family);
        for (port, protocol) in [(80, Protocol::Tcp), (53, Protocol::Udp), (53, Protocol::UdpConnected)] {
            let report = load::ask(&from, SocketAddr::new(address, port), protocol, 40).unwrap();
            assert_eq!((report.ok, report.failed), (40, 0), "{report:?}");
            assert_eq!(report.by_server.len(), 2, "a local and a remote one: {report:?}");
            assert!(report.seen_as.iter().eq([&scene.cluster.nodes[0].address(family)]), "{report:?}");
        }
        // a Service has no other ports, and nobody has its neighbour's address
        failed(&from, SocketAddr::new(address, 81), Protocol::Tcp, "ECONNREFUSED").unwrap();
        let other = match family {
            Family::V4 => "10.96.77.77:80",
            Family::V6 => "[fd00:10:96::7777]:80",
        };
        for from in [&from as &dyn Place, node] {
            let before = view::drops(node, "unallocated_address").unwrap();
            failed(from, other.parse().unwrap(), Protocol::Tcp, "timeout").unwrap();
            assert!(view::drops(node, "unallocated_address").unwrap() > before, "{}", from.label());
        }
    }
}

#[test]
fn much_goes_through_the_gate() {
    for on in [0, 1] {
        let scene = scene(&[on]);
        let from = NodeByPackets { node: &scene.cluster.nodes[0].space, elsewhere: &scene.cluster.fabric };
        for family in Family::BOTH {
            let target = SocketAddr::new(cluster_ip(family), 80);
            load::transfer(&from, target, 20 << 20).unwrap();
        }
    }
}

#[test]
fn addresses_of_pods_that_are_gone_lead_nowhere() {
    let scene = scene(&[1]);
    let gone = scene.cluster.nodes[0].pod("gone").unwrap();
    let targets = Family::BOTH.map(|family| gone.port(family, 8080).unwrap());
    gone.delete().unwrap();
    let node = &scene.cluster.nodes[0].space;
    for target in targets {
        // its device goes after DEL has answered
        wait::until_true("the pod's route is gone", SOON, || {
            let route = node.output(&["ip", "route", "get", &target.ip().to_string()]);
            route.is_ok_and(|route| route.contains("ropeway.out"))
        })
        .unwrap();
        failed(node, target, Protocol::Tcp, "ECONNREFUSED").unwrap();
        for from in [&scene.client as &dyn Place, &scene.cluster.nodes[1].space, &scene.backends[0]] {
            let before = view::drops(node, "unallocated_address").unwrap();
            failed(from, target, Protocol::Tcp, "timeout").unwrap();
            assert!(view::drops(node, "unallocated_address").unwrap() > before, "{}", from.label());
        }
    }
}

#[test]
fn the_gate_is_made_again_and_removed() {
    let mut scene = scene(&[1]);
    let from = |scene: &Scene| {
        let from = NodeByPackets { node: &scene.cluster.nodes[0].space, elsewhere: &scene.cluster.fabric };
        let report = load::ask(&from, SocketAddr::new(cluster_ip(Family::V4), 80), Protocol::Tcp, 5).unwrap();
        assert_eq!((report.ok, report.failed), (5, 0), "{report:?}");
    };
    for damage in ["link del ropeway.out", "link set ropeway.in down", "link set ropeway.out down arp on"] {
        scene.cluster.nodes[0].space.ip(&[damage]).unwrap();
        await_open(&scene.cluster.nodes[0]);
        from(&scene);
    }
    // what a dead agent has left goes on
    scene.cluster.nodes[0].kill_agent().unwrap();
    from(&scene);
    let node = &scene.cluster.nodes[0].space;
    view::ropeway(node, &["uninstall"]).unwrap();
    let left = node.output(&["ip", "link"]).unwrap();
    assert!(!left.contains("ropeway."), "{left}");
}
