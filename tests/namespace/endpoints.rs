//! Endpoints come and go under load, and no connection fails.

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{self, Load};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::Family;

use crate::fixture::Scene;

#[test]
fn an_endpoint_leaves_under_load_and_no_connection_fails() {
    let mut scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let mut loads = Vec::new();
    let mut held = Vec::new();
    for family in Family::BOTH {
        for index in [0, 1, 4] {
            let (from, address, kind) = scene.ways(family)[index];
            loads.push(Load::asking(from, kind.tcp(address), Protocol::Tcp, 100).unwrap());
            held.push(Load::holding(from, kind.tcp(address), 8).unwrap());
        }
    }
    // As Kubernetes does it: first the endpoint terminates and serves what it has, then it is gone from the slice.
    let leaving = scene.backends.pop().unwrap();
    scene.apply(&[(&scene.backends[0], true), (&leaving, false)]);
    scene.cluster.await_backends("default/web", 1).unwrap();
    let (from, address, kind) = scene.ways(Family::V4)[0];
    let after = load::ask(from, kind.tcp(address), Protocol::Tcp, 50).unwrap();
    assert_eq!((after.ok, after.by_server.get("web-2")), (50, None), "{after:?}");

    let mut on_leaving = 0;
    for load in held {
        let report = load.release().unwrap();
        assert!(report.lost.is_empty(), "{report:?}");
        assert!(report.questions.ok > report.held, "{report:?}");
        on_leaving += report.questions.by_server.get("web-2").copied().unwrap_or_default();
    }
    assert!(on_leaving > 0, "some connections must have been on the endpoint that left");

    scene.apply(&[(&scene.backends[0], true)]);
    scene.cluster.await_backends("default/web", 1).unwrap();
    drop(scene.servers.pop());
    leaving.delete().unwrap();
    let after = load::ask(from_client(&scene), kind.tcp(address), Protocol::Tcp, 50).unwrap();
    assert_eq!((after.ok, after.failed), (50, 0), "{after:?}");
    for load in loads {
        let report = load.stop().unwrap();
        assert!(report.ok > 10 && report.failed == 0, "{report:?}");
    }
}

fn from_client(scene: &Scene) -> &ropeway_tests::pod::Pod {
    &scene.client
}
