//! One small test of everything basic: two nodes, one Service, every client path and protocol.
//! `cargo xtask vm` runs it on the oldest supported kernel, so it uses nothing that needs a newer
//! one.

use ropeway_tests::cluster::Shape;
use ropeway_tests::load;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::view;

use crate::fixture::{Access, Fixture};

#[test]
#[ignore = "needs root"]
fn small_cluster_serves_on_every_client_path() {
    let fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    for node in &fixture.cluster.nodes {
        println!("{}", view::ropeway(&node.machine, &["status"]).unwrap());
    }
    for family in IpFamily::BOTH {
        for Access { from, tcp, udp } in fixture.paths(family) {
            for protocol in [Protocol::Tcp, Protocol::Http, Protocol::Udp, Protocol::UdpConnected] {
                let target = match protocol {
                    Protocol::Tcp | Protocol::Http => tcp,
                    Protocol::Udp | Protocol::UdpConnected => udp,
                };
                let report = load::send_requests(from, target, protocol, 20).unwrap();
                let context = format!("{} to {target} {protocol:?}: {report:?}", from.label());
                assert_eq!((report.ok, report.failed), (20, 0), "{context}");
                assert_eq!(report.by_server.len(), 2, "both backends get their part: {context}");
            }
        }
    }
}
