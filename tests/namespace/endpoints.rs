//! Removal of an endpoint under load, in the order of Kubernetes: terminating first, then absent
//! from the slice. No connection may fail.

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{self, PersistentLoad, RequestLoad};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;

use crate::fixture::{Access, ClientPath, Fixture};

#[test]
#[ignore = "needs root"]
fn removed_endpoint_breaks_no_connection_under_load() {
    let mut fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let mut loads = Vec::new();
    let mut held = Vec::new();
    for family in IpFamily::BOTH {
        for path in [ClientPath::PodToClusterIp, ClientPath::NodeToClusterIp, ClientPath::LastNodePortFromOutside] {
            let Access { from, tcp, .. } = fixture.path(path, family);
            loads.push(RequestLoad::start(from, tcp, Protocol::Tcp, 100).unwrap());
            held.push(PersistentLoad::open(from, tcp, 8).unwrap());
        }
    }
    // As in Kubernetes: first the endpoint terminates and keeps its connections, then it is removed
    // from the slice.
    let leaving = fixture.backends.pop().unwrap();
    fixture.apply(&[(&fixture.backends[0], true), (&leaving, false)]);
    fixture.cluster.await_backends("default/web", 1).unwrap();
    let Access { from, tcp, .. } = fixture.path(ClientPath::PodToClusterIp, IpFamily::V4);
    let after = load::send_requests(from, tcp, Protocol::Tcp, 50).unwrap();
    assert_eq!((after.ok, after.by_server.get("web-2")), (50, None), "{after:?}");

    let mut on_leaving = 0;
    for load in held {
        let report = load.release().unwrap();
        assert!(report.lost.is_empty(), "connections were lost: {report:?}");
        assert!(report.fewest > 0, "a connection was not used: {report:?}");
        on_leaving += report.requests.by_server.get("web-2").copied().unwrap_or_default();
    }
    assert!(on_leaving > 0, "some connections must have been on the endpoint that left");

    fixture.apply(&[(&fixture.backends[0], true)]);
    fixture.cluster.await_backends("default/web", 1).unwrap();
    drop(fixture.servers.pop());
    leaving.delete().unwrap();
    let after = load::send_requests(from_client(&fixture), tcp, Protocol::Tcp, 50).unwrap();
    assert_eq!((after.ok, after.failed), (50, 0), "{after:?}");
    for load in loads {
        let report = load.stop().unwrap();
        assert!(report.ok > 10 && report.failed == 0, "some requests failed, or few were sent: {report:?}");
    }
}

fn from_client(fixture: &Fixture) -> &ropeway_tests::pod::Pod {
    &fixture.client
}
