//! Datagrams to the tunnel's port that no node has sent, or with a source in them that the sending
//! node does not lead: what is in them reaches no pod.
//!
//! The frames are those of an ordinary UDP socket, for which a process needs no capability.

use std::net::{IpAddr, SocketAddr};

use ropeway_tests::cluster::{Cluster, Node, address};
use ropeway_tests::load::{self, TrafficEndpoint, Watch};
use ropeway_tests::peer::{self, Protocol};
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::view;

use super::frames::{FromTo, Mac, ethernet, tagged, udp};
use super::from_link::{device_mac, with_extension};
use super::matrix::{FORGED, FORGED_MAC, HONEST};
use super::parse_mac;
use crate::node_routes::{reaches, serving};

/// UDP port of the tunnel (RFC 7348).
const VXLAN: u16 = 4789;
/// Least number of forged datagrams of each sender.
const DATAGRAMS: usize = 10_000;

/// Returns the payload of a VXLAN datagram: a header with the agent's network identifier, and a
/// frame with this text to the node's device of the tunnel.
fn encapsulated(node: IpAddr, addresses: FromTo<IpAddr>, text: &str) -> Vec<u8> {
    let IpAddr::V4(node) = node else { panic!("the tunnel of this test has IPv4 outside") };
    let octets = node.octets();
    let device = [0x52, 0x57, octets[0], octets[1], octets[2], octets[3]];
    let (kind, packet) = udp(addresses, FromTo { from: 7, to: 8080 }, text.as_bytes());
    [&[8, 0, 0, 0, 0, 0x52, 0x57, 0][..], &ethernet(device, FORGED_MAC, kind, &packet)].concat()
}

/// Returns datagrams from `own` to the tunnel's port of the nodes, with packets to the pods in them
/// that seem to come from many sources.
fn datagrams(own: IpAddr, macs: FromTo<Mac>, nodes: &[&Node], pods: &[&Pod]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for node in nodes.iter().map(|node| node.address(IpFamily::V4)) {
        for family in IpFamily::BOTH {
            let other: [&str; 2] = if family == IpFamily::V4 {
                ["10.244.3.1", "198.51.100.7"]
            } else {
                ["fd00:10:244:3::1", "2001:db8::7"]
            };
            let mut sources: Vec<IpAddr> = pods.iter().map(|pod| pod.address(family).unwrap()).collect();
            sources.extend(other.map(|address| address.parse::<IpAddr>().unwrap()));
            for from in sources {
                for to in pods.iter().map(|pod| pod.address(family).unwrap()).filter(|to| *to != from) {
                    let inside = encapsulated(node, FromTo { from, to }, FORGED);
                    let (kind, packet) =
                        udp(FromTo { from: own, to: node }, FromTo { from: 40_000, to: VXLAN }, &inside);
                    all.push(ethernet(macs.to, macs.from, kind, &packet));
                }
            }
        }
    }
    all
}

#[test]
#[ignore = "needs root"]
fn datagrams_to_the_tunnel_from_pods_and_strangers_are_dropped() {
    let mut cluster = Cluster::routed(&[0, 0, 1], 1500).unwrap();
    cluster.start_agents().unwrap();
    let pods = [
        serving(&cluster.nodes[0], "near"),
        serving(&cluster.nodes[1], "neighbour"),
        serving(&cluster.nodes[2], "far"),
    ];
    let hostile = cluster.nodes[0].pod("hostile").unwrap();
    // The tunnel works before and after.
    reaches(&pods[0].pod, &pods[2].pod, 1450);
    let victims = [&pods[0].pod, &pods[1].pod];
    let nodes = [&cluster.nodes[0], &cluster.nodes[1]];
    let of_hostile = |end: usize| parse_mac(hostile.result()["interfaces"][end]["mac"].as_str().unwrap());
    let own = hostile.address(IpFamily::V4).unwrap();
    let macs = FromTo { from: of_hostile(1), to: of_hostile(0) };
    expect_dropped(&hostile, nodes[0], "tunnel_sender", &datagrams(own, macs, &nodes, &victims), victims);
    let macs = FromTo { from: device_mac(&cluster.client), to: device_mac(&nodes[0].machine) };
    let stranger = datagrams(address(IpFamily::V4, 1), macs, &nodes[..1], &victims);
    expect_dropped(&cluster.client, nodes[0], "tunnel_sender", &stranger, victims);
    reaches(&pods[2].pod, &pods[0].pod, 1450);
}

/// F3: a process of one node, without a capability but outside of a pod, sends with the addresses
/// of other nodes' pods.
#[test]
#[ignore = "needs root"]
fn inner_source_of_another_node_is_dropped_and_counted() {
    let mut cluster = Cluster::routed(&[0, 0, 1], 1500).unwrap();
    cluster.start_agents().unwrap();
    let [near, hostile, far] = [0, 1, 2].map(|n| &cluster.nodes[n]);
    let [victim, own, other] = [(near, "near"), (hostile, "own"), (far, "far")].map(|(node, name)| serving(node, name));
    reaches(&victim.pod, &other.pod, 1450);
    let macs = FromTo { from: device_mac(&hostile.machine), to: device_mac(&near.machine) };
    let addresses = FromTo { from: hostile.address(IpFamily::V4), to: near.address(IpFamily::V4) };
    let datagram = |from: IpAddr, to: IpAddr, text: &str| {
        let inside = encapsulated(addresses.to, FromTo { from, to }, text);
        udp(addresses, FromTo { from: 40_000, to: VXLAN }, &inside)
    };
    let (mut forged, mut honest) = (Vec::new(), Vec::new());
    for family in IpFamily::BOTH {
        let of = |pod: &Pod| pod.address(family).unwrap();
        let outside = if family == IpFamily::V4 { "198.51.100.7" } else { "2001:db8::7" };
        let sources = [of(&other.pod), of(&victim.pod), far.address(family), near.address(family)];
        for from in sources.into_iter().chain([outside.parse().unwrap()]) {
            let (kind, packet) = datagram(from, of(&victim.pod), FORGED);
            let frame = ethernet(macs.to, macs.from, kind, &packet);
            let (kind, options) = with_extension(addresses, &packet);
            forged.extend([tagged(&frame, &[0]), frame, ethernet(macs.to, macs.from, kind, &options)]);
        }
        let (kind, packet) = datagram(of(&own.pod), of(&victim.pod), HONEST);
        honest.push(peer::hex(&ethernet(macs.to, macs.from, kind, &packet)));
    }
    let watcher = Watch::start(&victim.pod, "eth0", &[HONEST]).unwrap();
    load::send_frames(&hostile.machine, "eth0", &honest, 1).unwrap();
    expect_dropped(&hostile.machine, near, "martian", &forged, [&victim.pod, &own.pod]);
    assert_eq!(watcher.stop().unwrap().frames[HONEST], 2, "packets of the sending node's own pod");
    reaches(&other.pod, &victim.pod, 1450);
}

/// F3: also at loopback, where no packet program runs.
#[test]
#[ignore = "needs root"]
fn processes_of_a_node_reach_no_port_of_the_tunnel() {
    let mut cluster = Cluster::routed(&[0, 1], 1500).unwrap();
    cluster.start_agents().unwrap();
    let [near, far] = [0, 1].map(|n| &cluster.nodes[n]);
    let pods = [serving(near, "near"), serving(far, "far")];
    reaches(&pods[0].pod, &pods[1].pod, 1450);
    for family in IpFamily::BOTH {
        let loopback = if family == IpFamily::V4 { "127.0.0.1" } else { "::1" };
        for address in [near.address(family), far.address(family), loopback.parse().unwrap()] {
            for protocol in [Protocol::Udp, Protocol::UdpConnected] {
                let ask = |port| {
                    let flags = ["--timeout=300"];
                    load::send_requests_with(&near.machine, SocketAddr::new(address, port), protocol, 3, &flags)
                };
                let report = ask(VXLAN).unwrap();
                assert_eq!(report.errors.get("ECONNREFUSED"), Some(&3), "{address} {protocol:?}: {report:?}");
            }
        }
    }
    reaches(&pods[1].pod, &pods[0].pod, 1450);
}

/// Sends the datagrams many times, and expects that the node counts all under `reason` and the pods
/// see none.
fn expect_dropped(sender: &dyn TrafficEndpoint, node: &Node, reason: &str, frames: &[Vec<u8>], pods: [&Pod; 2]) {
    let watchers = pods.map(|pod| Watch::start(pod, "eth0", &[FORGED]).unwrap());
    let before = view::drops(&node.machine, reason).unwrap();
    let times = DATAGRAMS.div_ceil(frames.len());
    let hex: Vec<_> = frames.iter().map(|frame| peer::hex(frame)).collect();
    load::send_frames(sender, "eth0", &hex, times as u64).unwrap();
    let dropped = view::drops(&node.machine, reason).unwrap() - before;
    assert!(dropped >= (frames.len() * times) as u64, "{dropped} of {} datagrams", frames.len() * times);
    for (pod, watcher) in pods.into_iter().zip(watchers) {
        let seen = watcher.stop().unwrap();
        assert_eq!(seen.frames[FORGED], 0, "{} saw {}", pod.name(), seen.first[FORGED]);
    }
}
