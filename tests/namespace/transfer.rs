//! Large transfers and large datagrams on every client path, with MTU 1500 and 9000. The receiver
//! checks every byte.

use ropeway_tests::cluster::Shape;
use ropeway_tests::load;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;

use crate::fixture::{Access, Fixture, TARGET};

const BYTES: u64 = 16 << 20;

fn transfers(mtu: u32, sizes: &[usize]) {
    // Backends on one node only at a time, so that each path is known to be local or remote.
    for (node, server) in [(0, "local"), (1, "remote")] {
        let fixture = Fixture::new(Shape { nodes: 2, mtu }, &[node]);
        for family in IpFamily::BOTH {
            for Access { from, tcp, udp } in fixture.paths(family) {
                let moved = load::transfer(from, tcp, BYTES).unwrap_or_else(|error| {
                    panic!("mtu {mtu}, {server} backend, {} to {tcp}: {error:#}", from.label());
                });
                assert_eq!(moved.bytes, BYTES);
                for size in sizes {
                    let flags = [format!("--size={size}")];
                    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
                    let report = load::send_requests_with(from, udp, Protocol::UdpConnected, 20, &flags).unwrap();
                    let context =
                        format!("mtu {mtu}, {server} backend, {} to {udp}, {size} bytes: {report:?}", from.label());
                    assert_eq!((report.ok, report.failed), (20, 0), "{context}");
                }
            }
            let direct = fixture.backends[0].port(family, TARGET).unwrap();
            load::transfer(&fixture.client, direct, BYTES).unwrap();
        }
    }
}

/// The two datagram sizes: one fits into the MTU, one is sent in fragments.
#[test]
#[ignore = "needs root"]
fn transfers_arrive_whole_with_mtu_1500() {
    transfers(1500, &[1400, 4000]);
}

#[test]
#[ignore = "needs root"]
fn transfers_arrive_whole_with_mtu_9000() {
    transfers(9000, &[8900, 20_000]);
}
