//! The host device (`ropeway.out` and `ropeway.in`), which translates packets of the node that no
//! socket hook has translated. It also drops packets to unused addresses.

use std::net::SocketAddr;
use std::time::Duration;

use ropeway_tests::cluster::{Cluster, Node, Shape};
use ropeway_tests::load::{self, BypassSocketHooks, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::{view, wait};

use crate::contracts::expect::expect_error;
use crate::fixture::{Fixture, cluster_ip};

/// Flags with the networks of Services.
pub(crate) const RANGES: &str = "--service-cidr=10.96.0.0/16,fd00:10:96::/112";
/// Time limit that is longer than the agent's interval between checks.
const SOON: Duration = Duration::from_secs(10);

fn set_up(on: &[usize]) -> Fixture {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    cluster.filter_strictly().unwrap();
    cluster.start_agents_with(&[RANGES]).unwrap();
    let fixture = Fixture::of(cluster, on);
    await_open(&fixture.cluster.nodes[0]);
    fixture
}

/// Waits until the host device exists, which needs the networks of Services.
pub(crate) fn await_open(node: &Node) {
    wait::until_true("routes to Services", SOON, || {
        let table =
            |family| node.machine.output(&["ip", family, "route", "show", "dev", "ropeway.out"]).unwrap_or_default();
        table("-4").contains("10.96.0.0/16") && table("-6").contains("fd00:10:96::/112")
    })
    .unwrap();
}

#[test]
#[ignore = "needs root"]
fn node_without_socket_hooks_reaches_services() {
    let fixture = set_up(&[0, 1]);
    let node = &fixture.cluster.nodes[0].machine;
    let from = BypassSocketHooks::of_node(node, &fixture.cluster.fabric);
    for family in IpFamily::BOTH {
        let address = cluster_ip(family);
        for (port, protocol) in [(80, Protocol::Tcp), (53, Protocol::Udp), (53, Protocol::UdpConnected)] {
            let report = load::send_requests(&from, SocketAddr::new(address, port), protocol, 40).unwrap();
            assert_eq!((report.ok, report.failed), (40, 0), "{report:?}");
            assert_eq!(report.by_server.len(), 2, "a local and a remote one: {report:?}");
            assert!(
                report.seen_as.iter().eq([&fixture.cluster.nodes[0].address(family)]),
                "the node's address should be seen: {report:?}"
            );
        }
        // an undefined port of the Service, and an unallocated neighbour of its address
        expect_error(&from, SocketAddr::new(address, 81), Protocol::Tcp, "ECONNREFUSED").unwrap();
        let other = match family {
            IpFamily::V4 => "10.96.77.77:80",
            IpFamily::V6 => "[fd00:10:96::7777]:80",
        };
        for from in [&from as &dyn TrafficEndpoint, node] {
            let before = view::drops(node, "unallocated_address").unwrap();
            expect_error(from, other.parse().unwrap(), Protocol::Tcp, "timeout").unwrap();
            assert!(
                view::drops(node, "unallocated_address").unwrap() > before,
                "no drop was counted for {}",
                from.label()
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn bulk_transfer_passes_host_device() {
    for on in [0, 1] {
        let fixture = set_up(&[on]);
        let from = BypassSocketHooks::of_node(&fixture.cluster.nodes[0].machine, &fixture.cluster.fabric);
        for family in IpFamily::BOTH {
            let target = SocketAddr::new(cluster_ip(family), 80);
            load::transfer(&from, target, 20 << 20).unwrap();
        }
    }
}

#[test]
#[ignore = "needs root"]
fn addresses_of_deleted_pods_are_dropped() {
    let fixture = set_up(&[1]);
    let gone = fixture.cluster.nodes[0].pod("gone").unwrap();
    let targets = IpFamily::BOTH.map(|family| gone.port(family, 8080).unwrap());
    gone.delete().unwrap();
    let node = &fixture.cluster.nodes[0].machine;
    for target in targets {
        // the pod's device is removed after DEL has answered
        wait::until_true("the pod's route is gone", SOON, || {
            let route = node.output(&["ip", "route", "get", &target.ip().to_string()]);
            route.is_ok_and(|route| route.contains("ropeway.out"))
        })
        .unwrap();
        expect_error(node, target, Protocol::Tcp, "ECONNREFUSED").unwrap();
        for from in [&fixture.client as &dyn TrafficEndpoint, &fixture.cluster.nodes[1].machine, &fixture.backends[0]] {
            let before = view::drops(node, "unallocated_address").unwrap();
            expect_error(from, target, Protocol::Tcp, "timeout").unwrap();
            assert!(
                view::drops(node, "unallocated_address").unwrap() > before,
                "no drop was counted for {}",
                from.label()
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn host_device_is_recreated_and_uninstalled() {
    let mut fixture = set_up(&[1]);
    let from = |fixture: &Fixture| {
        let from = BypassSocketHooks::of_node(&fixture.cluster.nodes[0].machine, &fixture.cluster.fabric);
        let report =
            load::send_requests(&from, SocketAddr::new(cluster_ip(IpFamily::V4), 80), Protocol::Tcp, 5).unwrap();
        assert_eq!((report.ok, report.failed), (5, 0), "{report:?}");
    };
    for damage in ["link del ropeway.out", "link set ropeway.in down", "link set ropeway.out down arp on"] {
        fixture.cluster.nodes[0].machine.ip(&[damage]).unwrap();
        await_open(&fixture.cluster.nodes[0]);
        from(&fixture);
    }
    // the devices of a killed agent keep working
    fixture.cluster.nodes[0].kill_agent().unwrap();
    from(&fixture);
    let node = &fixture.cluster.nodes[0].machine;
    view::ropeway(node, &["uninstall"]).unwrap();
    let left = node.output(&["ip", "link"]).unwrap();
    assert!(!left.contains("ropeway."), "devices remain: {left}");
}
