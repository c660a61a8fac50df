//! A pod that uses an address which is not its own is not heard, and each packet is counted.

use ropeway_tests::cluster::Shape;
use ropeway_tests::load;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::Family;
use ropeway_tests::view;

use crate::scene::{Scene, TARGET};

const COUNT: u64 = 5;

#[test]
fn a_spoofed_source_goes_nowhere_and_is_counted() {
    let scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let node = &scene.cluster.nodes[0];
    for (family, stolen, flags) in [
        (Family::V4, "10.244.1.200", "--source=10.244.1.200"),
        (Family::V6, "fd00:10:244:1::200", "--source=fd00:10:244:1::200"),
    ] {
        let length = if family == Family::V4 { 32 } else { 128 };
        let nodad = if family == Family::V4 { "" } else { "nodad" };
        scene.client.ip(&[format!("address add {stolen}/{length} dev eth0 {nodad}")]).unwrap();
        let targets = [
            (scene.backends[0].port(family, TARGET).unwrap(), "a pod on this node"),
            (scene.backends[1].port(family, TARGET).unwrap(), "a pod elsewhere"),
            (std::net::SocketAddr::new(crate::scene::cluster_ip(family), 53), "a Service"),
            (node.port(family, 30053), "a node port"),
        ];
        for (target, what) in targets {
            let before = view::drops(&node.space, "spoofed").unwrap();
            let flags = [flags, "--timeout=50"];
            let report = load::ask_with(&scene.client, target, Protocol::Udp, COUNT, &flags).unwrap();
            assert_eq!(report.errors.get("timeout"), Some(&COUNT), "{what}: {report:?}");
            let counted = view::drops(&node.space, "spoofed").unwrap() - before;
            assert!(counted >= COUNT, "{what}: {counted} counted");
        }
        // With its own address it is heard.
        let own = format!("--source={}", scene.client.address(family).unwrap());
        let elsewhere = scene.backends[1].port(family, TARGET).unwrap();
        let own = load::ask_with(&scene.client, elsewhere, Protocol::Udp, COUNT, &[own.as_str()]).unwrap();
        assert_eq!(own.ok, COUNT, "{own:?}");
    }
}
