//! Large transfers on every way, on links of both usual sizes, each byte checked by its receiver.

use ropeway_tests::cluster::Shape;
use ropeway_tests::load;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::Family;

use crate::fixture::{Scene, TARGET};

const BYTES: u64 = 16 << 20;

fn transfers(mtu: u32, sizes: &[usize]) {
    // Backends on one node only at a time, so that each way is known to be local or remote.
    for (node, server) in [(0, "local"), (1, "remote")] {
        let scene = Scene::new(Shape { nodes: 2, mtu }, &[node]);
        for family in Family::BOTH {
            for (from, address, kind) in scene.ways(family) {
                let target = kind.tcp(address);
                let moved = load::transfer(from, target, BYTES).unwrap_or_else(|error| {
                    panic!("mtu {mtu}, {server} backend, {} to {target}: {error:#}", from.label());
                });
                assert_eq!(moved.bytes, BYTES);
                for size in sizes {
                    let target = kind.udp(address);
                    let flags = [format!("--size={size}")];
                    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
                    let report = load::ask_with(from, target, Protocol::UdpConnected, 20, &flags).unwrap();
                    let way =
                        format!("mtu {mtu}, {server} backend, {} to {target}, {size} bytes: {report:?}", from.label());
                    assert_eq!((report.ok, report.failed), (20, 0), "{way}");
                }
            }
            let direct = scene.backends[0].port(family, TARGET).unwrap();
            load::transfer(&scene.client, direct, BYTES).unwrap();
        }
    }
}

/// A datagram that fills the link, and one that is sent in fragments.
#[test]
fn transfers_on_links_of_1500_bytes() {
    transfers(1500, &[1400, 4000]);
}

#[test]
fn transfers_on_links_of_9000_bytes() {
    transfers(9000, &[8900, 20_000]);
}
