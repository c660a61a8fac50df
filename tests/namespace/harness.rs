//! Tests of the harness itself: its machines are connected, and a run leaves no files and no
//! namespaces.

use ropeway_tests::cluster::{Cluster, Shape, address};
use ropeway_tests::load;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;

#[test]
#[ignore = "needs root"]
fn test_machines_are_connected_and_removed_without_traces() {
    let cluster = Cluster::network(Shape { nodes: 2, mtu: 9000 }).unwrap();
    let server = load::serve(&cluster.nodes[1].machine, "n2", &[7000]).unwrap();
    for family in IpFamily::BOTH {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::UdpConnected, Protocol::Http] {
            let target = cluster.nodes[1].port(family, 7000);
            let report = load::send_requests(&cluster.client, target, protocol, 10).unwrap();
            assert_eq!((report.ok, report.by_server["n2"]), (10, 10), "{protocol:?} {report:?}");
            assert!(report.seen_as.contains(&address(family, 1)), "the client's address was not seen: {report:?}");
        }
        let moved = load::transfer(&cluster.nodes[0].machine, cluster.nodes[1].port(family, 7000), 8 << 20).unwrap();
        assert_eq!(moved.bytes, 8 << 20);
    }
    let refused =
        load::send_requests(&cluster.client, cluster.nodes[0].port(IpFamily::V4, 7000), Protocol::Tcp, 1).unwrap();
    assert_eq!(refused.errors["ECONNREFUSED"], 1, "{refused:?}");

    let files = cluster.files().to_owned();
    let holder = cluster.nodes[0].machine.pid();
    drop(server);
    cluster.end().unwrap();
    assert!(!files.exists());
    assert!(!std::path::Path::new(&format!("/proc/{holder}/ns/net")).exists());
}
