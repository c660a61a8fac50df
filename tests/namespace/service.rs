//! The basics of a Service: even distribution, rejection without endpoints, recovery, hairpin
//! connections, and removal.

use std::net::SocketAddr;

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::manifest::{Port, service};
use ropeway_tests::peer::{Protocol, SPREAD};
use ropeway_tests::pod::IpFamily;
use ropeway_tests::wait;

use crate::fixture::{Access, ClientPath, Fixture, HTTP};

/// Expects two servers to answer with equal chances, in one try.
fn splits_evenly(from: &dyn TrafficEndpoint, target: SocketAddr, protocol: Protocol) {
    let report = load::send_requests(from, target, protocol, SPREAD).unwrap();
    assert_eq!((report.ok, report.failed), (SPREAD, 0), "{} to {target}: {report:?}", from.label());
    assert!(report.is_even(), "{} to {target} {protocol:?}: the choice of servers is uneven: {report:?}", from.label());
}

#[test]
#[ignore = "needs root"]
fn many_connections_are_split_evenly() {
    let fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    for family in IpFamily::BOTH {
        for Access { from, tcp, .. } in fixture.paths(family) {
            splits_evenly(from, tcp, Protocol::Tcp);
        }
        // Datagrams on the packet path, and through the socket hooks.
        let Access { from, udp, .. } = fixture.path(ClientPath::NodePortFromOutside, family);
        splits_evenly(from, udp, Protocol::UdpConnected);
        let Access { from, udp, .. } = fixture.path(ClientPath::PodToClusterIp, family);
        splits_evenly(from, udp, Protocol::UdpConnected);
        splits_evenly(from, udp, Protocol::Udp);
    }
}

#[test]
#[ignore = "needs root"]
fn service_without_endpoints_is_rejected_immediately() {
    let fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0]);
    let addresses = ["10.96.0.99".parse().unwrap(), "fd00:10:96::99".parse().unwrap()];
    fixture
        .cluster
        .apply("empty", &[service("empty", &addresses, &[Port::tcp("http", 80), Port::udp("dns", 53)])])
        .unwrap();
    fixture.cluster.await_backends("default/empty", 0).unwrap();
    for address in addresses {
        for from in [
            &fixture.client as &dyn TrafficEndpoint,
            &fixture.cluster.nodes[0].machine,
            &fixture.cluster.nodes[1].machine,
        ] {
            for (port, protocol) in [(80, Protocol::Tcp), (53, Protocol::UdpConnected), (53, Protocol::Udp)] {
                let report = load::send_requests(from, SocketAddr::new(address, port), protocol, 5).unwrap();
                let context = format!("{} to {address} {protocol:?}: {report:?}", from.label());
                assert_eq!(report.errors.get("ECONNREFUSED"), Some(&5), "{context}");
                assert!(report.slowest_us < 100_000, "a refusal took 100 ms: {context}");
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn service_recovers_with_its_first_endpoint() {
    let fixture = Fixture::new(Shape { nodes: 1, mtu: 1500 }, &[0]);
    fixture.apply(&[]);
    fixture.cluster.await_backends("default/web", 0).unwrap();
    let Access { from, tcp, udp } = fixture.path(ClientPath::PodToClusterIp, IpFamily::V4);
    let refused = load::send_requests(from, tcp, Protocol::Tcp, 1).unwrap();
    assert_eq!(refused.failed, 1, "{refused:?}");
    fixture.apply(&[(&fixture.backends[0], true)]);
    fixture.cluster.await_backends("default/web", 1).unwrap();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let target = if protocol == Protocol::Tcp { tcp } else { udp };
        assert_eq!(load::send_requests(from, target, protocol, 10).unwrap().ok, 10);
    }
}

#[test]
#[ignore = "needs root"]
fn pod_reaches_itself_through_its_service() {
    let fixture = Fixture::new(Shape { nodes: 1, mtu: 1500 }, &[0]);
    for family in IpFamily::BOTH {
        let Access { tcp, udp, .. } = fixture.path(ClientPath::PodToClusterIp, family);
        for (target, protocol) in [(tcp, Protocol::Tcp), (udp, Protocol::UdpConnected)] {
            let report = load::send_requests(&fixture.backends[0], target, protocol, 20).unwrap();
            assert_eq!(report.ok, 20, "{target} {protocol:?}: {report:?}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn deleted_service_is_removed_from_every_node() {
    let fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    fixture.cluster.withdraw("web").unwrap();
    for node in &fixture.cluster.nodes {
        wait::until_true("the Service is gone", std::time::Duration::from_secs(10), || {
            ropeway_tests::view::backends(&node.machine, "default/web").is_ok_and(|frontends| frontends.is_empty())
        })
        .unwrap();
    }
    let report = load::send_requests(
        &fixture.cluster.client,
        fixture.cluster.nodes[0].port(IpFamily::V4, HTTP.node_port),
        Protocol::Tcp,
        1,
    )
    .unwrap();
    assert_eq!(report.errors.get("ECONNREFUSED"), Some(&1), "{report:?}");
}
