//! Host ports, used by processes of the node through the socket hooks and by pods: for all node
//! addresses or for one `hostIP`, over TCP and UDP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ropeway_tests::cluster::{Cluster, Shape};
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::{plugin, view};
use serde_json::{Value, json};

use crate::node_routes::ServingPod;

/// The port on which the servers in pods listen.
const TARGET: u16 = 8080;
const PORT: u16 = 54323;

fn loopback(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
        IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Creates a pod with host ports on the first node and starts a server in it.
fn pod(cluster: &Cluster, name: &str, ports: &Value) -> ServingPod {
    let conflist = plugin::conflist_with(&json!({ "portMappings": ports }));
    let pod = Pod::add_with(&cluster.nodes[0].machine, name, conflist).unwrap();
    let server = load::serve(&pod, name, &[TARGET]).unwrap();
    ServingPod { pod, server }
}

/// Expects all answers from `server`; none: expects no answer at all.
fn answers(from: &dyn TrafficEndpoint, target: SocketAddr, protocol: Protocol, server: Option<&str>) {
    // only an expected silence runs into the timeout
    let flags: &[&str] = if server.is_none() { &["--timeout=300"] } else { &[] };
    let report = load::send_requests_with(from, target, protocol, 5, flags).unwrap();
    let context = format!("{} to {target} {protocol:?}: {report:?}", from.label());
    match server {
        Some(server) => assert_eq!((report.ok, report.by_server.get(server)), (5, Some(&5)), "{context}"),
        None => assert_eq!((report.ok, report.failed), (0, 5), "{context}"),
    }
}

/// Repeats upstream's test of host ports, in both families.
#[test]
#[ignore = "needs root"]
fn same_host_port_differs_by_host_ip_and_protocol() {
    let cluster = Cluster::start(Shape { nodes: 1, mtu: 1500 }).unwrap();
    let node = &cluster.nodes[0];
    for family in IpFamily::BOTH {
        let mapping = |ip: IpAddr, protocol: &str| json!([{ "hostPort": PORT, "containerPort": TARGET, "protocol": protocol, "hostIP": ip }]);
        let at = |ip| SocketAddr::new(ip, PORT);
        let (on_loopback, on_node) = (loopback(family), node.address(family));
        let first = pod(&cluster, &format!("one-{}", family as u8), &mapping(on_loopback, "TCP"));
        let second = pod(&cluster, &format!("two-{}", family as u8), &mapping(on_node, "TCP"));
        let third = pod(&cluster, &format!("three-{}", family as u8), &mapping(on_node, "UDP"));
        for protocol in [Protocol::Tcp, Protocol::Http] {
            answers(&node.machine, at(on_loopback), protocol, Some(first.pod.name()));
            answers(&node.machine, at(on_node), protocol, Some(second.pod.name()));
        }
        for protocol in [Protocol::Udp, Protocol::UdpConnected] {
            answers(&node.machine, at(on_node), protocol, Some(third.pod.name()));
            answers(&node.machine, at(on_loopback), protocol, None);
        }
        for ServingPod { pod, server } in [first, second, third] {
            drop(server);
            pod.delete().unwrap();
        }
        answers(&node.machine, at(on_loopback), Protocol::Tcp, None);
        answers(&node.machine, at(on_node), Protocol::Tcp, None);
    }
}

#[test]
#[ignore = "needs root"]
fn host_port_without_host_ip_matches_every_node_address() {
    let cluster = Cluster::start(Shape { nodes: 1, mtu: 1500 }).unwrap();
    let node = &cluster.nodes[0];
    let ports = json!([
        { "hostPort": PORT, "containerPort": TARGET, "protocol": "tcp" },
        { "hostPort": PORT, "containerPort": TARGET, "protocol": "udp" },
    ]);
    let ServingPod { pod: web, server: _server } = pod(&cluster, "web", &ports);
    let client = node.pod("client").unwrap();
    let listed = view::ropeway(&node.machine, &["pod", "list"]).unwrap();
    assert!(
        listed.contains("0.0.0.0:54323->8080/tcp,[::]:54323->8080/tcp,0.0.0.0:54323->8080/udp"),
        "host ports are missing: {listed}"
    );
    for family in IpFamily::BOTH {
        for protocol in [Protocol::Tcp, Protocol::Http, Protocol::Udp, Protocol::UdpConnected] {
            for ip in [loopback(family), node.address(family)] {
                answers(&node.machine, SocketAddr::new(ip, PORT), protocol, Some("web"));
            }
            answers(&client, node.port(family, PORT), protocol, Some("web"));
            // Pods have a separate loopback, and other machines other ports.
            answers(&client, SocketAddr::new(loopback(family), PORT), protocol, None);
            answers(&web, SocketAddr::new(loopback(family), PORT), protocol, None);
            answers(&web, SocketAddr::new(loopback(family), TARGET), protocol, Some("web"));
        }
        let elsewhere = SocketAddr::new(ropeway_tests::cluster::address(family, 1), PORT);
        let server = load::serve_at(&cluster.client, "elsewhere", &[PORT], &[elsewhere.ip()]).unwrap();
        answers(&node.machine, elsewhere, Protocol::Tcp, Some("elsewhere"));
        drop(server);
    }
}
