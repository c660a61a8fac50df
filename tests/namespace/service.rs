//! What a Service promises: an even split, an honest refusal, the frontend's address in every answer.

use std::net::SocketAddr;

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{self, Place};
use ropeway_tests::manifest::service;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::Family;
use ropeway_tests::wait;

use crate::fixture::{PORTS, Scene};

/// A fair coin leaves 45 to 55 % once in 600 runs of 1,000; three tries make that once in 200 million.
fn splits_evenly(from: &dyn Place, target: SocketAddr, protocol: Protocol) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let report = load::ask(from, target, protocol, 1000).unwrap();
        assert_eq!((report.ok, report.failed), (1000, 0), "{} to {target}: {report:?}", from.label());
        if report.by_server.len() == 2 && report.by_server.values().all(|count| (450..=550).contains(count)) {
            return;
        }
        seen.push(report.by_server);
    }
    panic!("{} to {target} {protocol:?}: {seen:?}", from.label());
}

#[test]
fn a_thousand_connections_are_split_evenly() {
    let scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    for family in Family::BOTH {
        for (from, address, kind) in scene.ways(family) {
            splits_evenly(from, kind.tcp(address), Protocol::Tcp);
        }
        // The packet path with datagrams, and the socket hooks with them.
        let (from, address, kind) = scene.ways(family)[3];
        splits_evenly(from, kind.udp(address), Protocol::UdpConnected);
        let (from, address, kind) = scene.ways(family)[0];
        splits_evenly(from, kind.udp(address), Protocol::UdpConnected);
        splits_evenly(from, kind.udp(address), Protocol::Udp);
    }
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0]);
    let addresses = ["10.96.0.99".parse().unwrap(), "fd00:10:96::99".parse().unwrap()];
    scene
        .cluster
        .apply("empty", &[service("empty", &addresses, &[("http", "TCP", 80, 0), ("dns", "UDP", 53, 0)])])
        .unwrap();
    scene.cluster.await_backends("default/empty", 0).unwrap();
    for address in addresses {
        for from in [&scene.client as &dyn Place, &scene.cluster.nodes[0].space, &scene.cluster.nodes[1].space] {
            for (port, protocol) in [(80, Protocol::Tcp), (53, Protocol::UdpConnected), (53, Protocol::Udp)] {
                let report = load::ask(from, SocketAddr::new(address, port), protocol, 5).unwrap();
                let way = format!("{} to {address} {protocol:?}: {report:?}", from.label());
                assert_eq!(report.errors.get("ECONNREFUSED"), Some(&5), "{way}");
                assert!(report.slowest_us < 100_000, "{way}");
            }
        }
    }
}

#[test]
fn a_service_recovers_when_its_first_endpoint_comes() {
    let scene = Scene::new(Shape { nodes: 1, mtu: 1500 }, &[0]);
    scene.apply(&[]);
    scene.cluster.await_backends("default/web", 0).unwrap();
    let (from, address, kind) = scene.ways(Family::V4)[0];
    let refused = load::ask(from, kind.tcp(address), Protocol::Tcp, 1).unwrap();
    assert_eq!(refused.failed, 1, "{refused:?}");
    scene.apply(&[(&scene.backends[0], true)]);
    scene.cluster.await_backends("default/web", 1).unwrap();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let target = if protocol == Protocol::Tcp { kind.tcp(address) } else { kind.udp(address) };
        assert_eq!(load::ask(from, target, protocol, 10).unwrap().ok, 10);
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let scene = Scene::new(Shape { nodes: 1, mtu: 1500 }, &[0]);
    for family in Family::BOTH {
        let (_, address, kind) = scene.ways(family)[0];
        for (target, protocol) in [(kind.tcp(address), Protocol::Tcp), (kind.udp(address), Protocol::UdpConnected)] {
            let report = load::ask(&scene.backends[0], target, protocol, 20).unwrap();
            assert_eq!(report.ok, 20, "{target} {protocol:?}: {report:?}");
        }
    }
}

#[test]
fn a_deleted_service_is_gone_from_every_node() {
    let scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    scene.cluster.withdraw("web").unwrap();
    for node in &scene.cluster.nodes {
        wait::until_true("the Service is gone", std::time::Duration::from_secs(10), || {
            ropeway_tests::view::backends(&node.space, "default/web").is_ok_and(|frontends| frontends.is_empty())
        })
        .unwrap();
    }
    let report =
        load::ask(&scene.cluster.client, scene.cluster.nodes[0].port(Family::V4, PORTS[0].3), Protocol::Tcp, 1)
            .unwrap();
    assert_eq!(report.errors.get("ECONNREFUSED"), Some(&1), "{report:?}");
}
