//! Nodes with several egress devices. The host's routes decide which one a translated connection
//! takes.

use std::net::SocketAddr;

use ropeway_tests::cluster::{Cluster, Shape, address};
use ropeway_tests::load;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;

use crate::fixture::{DNS, Fixture, HTTP};
use crate::node_routes::payload;

/// Sends requests from outside to a node port of each node, and expects answers from all backends.
fn node_ports_lead_to_all_backends(fixture: &Fixture) {
    for family in IpFamily::BOTH {
        for node in &fixture.cluster.nodes {
            for (protocol, port) in [(Protocol::Tcp, HTTP.node_port), (Protocol::UdpConnected, DNS.node_port)] {
                let target = node.port(family, port);
                let report = load::send_requests(&fixture.cluster.client, target, protocol, 60).unwrap();
                let context = format!("{target} {protocol:?}: {report:?}");
                assert_eq!((report.ok, report.failed), (60, 0), "{context}");
                assert_eq!(report.by_server.len(), fixture.backends.len(), "{context}");
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn node_ports_reach_remote_backends_with_foreign_routes_present() {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    // such as the bridge of another runtime or the device of another plugin's pod
    for node in &cluster.nodes {
        node.machine
            .ip(&["link add other0 type bridge", "link set other0 up", "route add 172.30.0.0/24 dev other0"])
            .unwrap();
    }
    cluster.start_agents_with(&["--masquerade=true"]).unwrap();
    let fixture = Fixture::of(cluster, &[0, 1]);
    node_ports_lead_to_all_backends(&fixture);

    let server = load::serve(&fixture.cluster.client, "outside", &[8080]).unwrap();
    for family in IpFamily::BOTH {
        let outside = SocketAddr::new(address(family, 1), 8080);
        let report = load::send_requests(&fixture.client, outside, Protocol::Tcp, 10).unwrap();
        let node = fixture.cluster.nodes[0].address(family);
        assert_eq!((report.ok, report.failed), (10, 0), "{report:?}");
        assert!(report.seen_as.iter().eq([&node]), "pods show the node's address outside: {report:?}");
    }
    drop(server);
}

#[test]
#[ignore = "needs root"]
fn node_ports_reach_remote_backends_over_vxlan() {
    let mut cluster = Cluster::routed(&[0, 0, 1], 1500).unwrap();
    cluster.start_agents().unwrap();
    node_ports_lead_to_all_backends(&Fixture::of(cluster, &[1, 2]));
}

/// A datagram without DF fills a packet of the network, and the node that translates its source
/// forwards it into the tunnel, whose MTU is smaller.
#[test]
#[ignore = "needs root"]
fn datagrams_without_df_are_fragmented_for_vxlan() {
    let mut cluster = Cluster::routed(&[0, 0, 1], 1500).unwrap();
    cluster.start_agents().unwrap();
    let fixture = Fixture::of(cluster, &[2]);
    let client = &fixture.cluster.client;
    // sockets then do not set "don't fragment"
    client.output(&["sysctl", "-w", "net.ipv4.ip_no_pmtu_disc=1"]).unwrap();
    for node in &fixture.cluster.nodes[..2] {
        for size in [payload(IpFamily::V4, 1450), payload(IpFamily::V4, 1451), payload(IpFamily::V4, 1500), 4000] {
            let target = node.port(IpFamily::V4, DNS.node_port);
            let report =
                load::send_requests_with(client, target, Protocol::Udp, 5, &[&format!("--size={size}")]).unwrap();
            assert_eq!((report.ok, report.failed), (5, 0), "{size} bytes to {target}: {report:?}");
        }
    }
}
