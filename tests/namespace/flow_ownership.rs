//! Packets with forged source addresses from a machine on the link: connections of others hold.

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{self, PersistentLoad};
use ropeway_tests::machine::Machine;
use ropeway_tests::peer;
use ropeway_tests::pod::IpFamily;

use crate::anti_spoofing::frames::{FromTo, ethernet, segment_with};
use crate::fixture::{Fixture, HTTP, TARGET, cluster_ip};

const SYN: u8 = 2;
/// The ports from which the held connections come.
const PORTS: std::ops::Range<u16> = 40000..40200;
const HELD: usize = 20;

/// Returns the MAC of a machine's `eth0`.
fn mac(machine: &Machine) -> [u8; 6] {
    let text = machine.output(&["cat", "/sys/class/net/eth0/address"]).unwrap();
    let bytes: Vec<u8> = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A client outside holds connections by a node port. Somebody sends SYNs with its address and
/// ports to the backend itself, and to another frontend of the backend.
#[test]
#[ignore = "needs root"]
fn forged_syns_end_no_connection_of_a_node_port() {
    let fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0]);
    let (client, node) = (&fixture.cluster.client, &fixture.cluster.nodes[0]);
    let range = format!("net.ipv4.ip_local_port_range={} {}", PORTS.start, PORTS.end - 1);
    client.output(&["sysctl", "-w", &range]).unwrap();
    for family in IpFamily::BOTH {
        let front = node.port(family, HTTP.node_port);
        let held = PersistentLoad::open(client, front, HELD).unwrap();
        let backend = fixture.backends[0].port(family, TARGET).unwrap();
        let targets = [(backend.ip(), backend.port()), (cluster_ip(family), HTTP.port)];
        let source = ropeway_tests::cluster::address(family, 1);
        let frames: Vec<String> = PORTS
            .flat_map(|from| targets.map(|target| (from, target)))
            .map(|(from, (to, port))| {
                let (kind, packet) = segment_with(SYN, FromTo { from: source, to }, FromTo { from, to: port }, &[]);
                peer::hex(&ethernet(mac(&node.machine), mac(client), kind, &packet))
            })
            .collect();
        for _ in 0..5 {
            load::send_frames(client, "eth0", &frames, 1).unwrap();
        }
        let report = held.release().unwrap();
        assert_eq!((report.established, report.lost.len()), (HELD as u64, 0), "{family:?}: {report:?}");
    }
}
