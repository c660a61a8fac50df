//! The least that must work, in one test: it also runs in the emulated machine with the oldest kernel.

use ropeway_tests::cluster::Shape;
use ropeway_tests::load;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::Family;
use ropeway_tests::view;

use crate::fixture::Scene;

#[test]
fn small_cluster_serves_on_every_way() {
    let scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    for node in &scene.cluster.nodes {
        println!("{}", view::ropeway(&node.space, &["status"]).unwrap());
    }
    for family in Family::BOTH {
        for (from, address, kind) in scene.ways(family) {
            for protocol in [Protocol::Tcp, Protocol::Http, Protocol::Udp, Protocol::UdpConnected] {
                let target = match protocol {
                    Protocol::Tcp | Protocol::Http => kind.tcp(address),
                    Protocol::Udp | Protocol::UdpConnected => kind.udp(address),
                };
                let report = load::ask(from, target, protocol, 20).unwrap();
                let way = format!("{} to {target} {protocol:?}: {report:?}", from.label());
                assert_eq!((report.ok, report.failed), (20, 0), "{way}");
                assert_eq!(report.by_server.len(), 2, "both backends get their part: {way}");
            }
        }
    }
}
