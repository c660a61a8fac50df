//! Whose connections the socket hooks translate (`--translate-sockets`). A proxy in a pod must see
//! the address of the Service, so the hooks can be told to leave pods alone.

use ropeway_tests::cluster::{Cluster, Shape};
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::machine::Machine;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::view;

use crate::fixture::{DNS, Fixture, HTTP, cluster_ip};

/// Returns how many connections socket hooks have translated so far, and how many flows packets
/// have opened.
fn translations(node: &Machine) -> [u64; 2] {
    let all = view::json(node, &["drops"]).unwrap();
    ["socket_translated", "packet_new_flow"].map(|event| all["events"][event].as_u64().unwrap())
}

#[test]
#[ignore = "needs root"]
fn sockets_of_pods_keep_the_address_of_the_service() {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    cluster.start_agents_with(&["--translate-sockets=node"]).unwrap();
    let fixture = Fixture::of(cluster, &[0, 1]);
    let node = &fixture.cluster.nodes[0].machine;
    let clients: [(&dyn TrafficEndpoint, [bool; 2]); 2] = [(&fixture.client, [false, true]), (node, [true, false])];
    for (client, counted) in clients {
        for family in IpFamily::BOTH {
            for (port, protocol) in [(HTTP.port, Protocol::Tcp), (DNS.port, Protocol::Udp)] {
                let before = translations(node);
                let report = load::send_requests(client, (cluster_ip(family), port).into(), protocol, 4).unwrap();
                assert_eq!(report.ok, 4, "{}: {report:?}", client.label());
                let after = translations(node);
                assert_eq!([0, 1].map(|i| after[i] > before[i]), counted, "{} {protocol:?}", client.label());
            }
        }
    }
}
