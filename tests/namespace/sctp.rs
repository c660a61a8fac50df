//! SCTP through Services and host ports, with port translation in both directions, from pods and
//! from a node. Packets are built by hand, because not every kernel has SCTP sockets.

use std::net::{IpAddr, SocketAddr};

use crc::{CRC_32_ISCSI, Crc};
use ropeway_tests::cluster::{Cluster, Shape};
use ropeway_tests::load::{self, TrafficEndpoint, Watch};
use ropeway_tests::machine::Machine;
use ropeway_tests::manifest::{Endpoint, Port, service, slices};
use ropeway_tests::peer;
use ropeway_tests::plugin;
use ropeway_tests::pod::{IpFamily, Pod};
use serde_json::json;

use crate::anti_spoofing::frames::{FromTo, Mac, ethernet, ip};
use crate::host_device;

const SCTP: u8 = 132;
const TARGET: u16 = 8080;
const HOST_PORT: u16 = 54323;
const MARKER: &str = "an association";
/// The checksum of SCTP (`CRC32c`, RFC 9260, appendix A).
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// A machine or pod where packets are sent and watched.
#[derive(Clone, Copy)]
struct Tap<'a> {
    endpoint: &'a dyn TrafficEndpoint,
    device: &'static str,
    /// MAC addresses of the device and of its peer.
    macs: [Mac; 2],
}

impl<'a> Tap<'a> {
    fn pod(pod: &'a Pod) -> Self {
        let mac = |interface: usize| {
            let text = pod.result()["interfaces"][interface]["mac"].as_str().unwrap();
            let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
            bytes.try_into().unwrap()
        };
        Self { endpoint: pod, device: "eth0", macs: [mac(1), mac(0)] }
    }

    /// Returns the endpoint of a node: the device to which its routes lead.
    fn node(machine: &'a Machine, device: &'static str) -> Self {
        Self { endpoint: machine, device, macs: [[0x52, 0x57, 0, 0, 0, 1]; 2] }
    }
}

/// Builds a packet of a common header and a text.
fn packet(from: u16, to: u16) -> Vec<u8> {
    let [from, to] = [from, to].map(u16::to_be_bytes);
    let mut packet = [&from[..], &to, &[1, 2, 3, 4, 0, 0, 0, 0], MARKER.as_bytes()].concat();
    let sum = CRC.checksum(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// Sends a packet from one endpoint, watches it at another, and returns its source and target
/// there. Checks its checksum.
#[track_caller]
fn pass(from: Tap<'_>, (source, target): (SocketAddr, SocketAddr), at: Tap<'_>) -> (SocketAddr, SocketAddr) {
    let (kind, whole) = ip(FromTo { from: source.ip(), to: target.ip() }, SCTP, &packet(source.port(), target.port()));
    let frame = ethernet(from.macs[1], from.macs[0], kind, &whole);
    let watch = Watch::start(at.endpoint, at.device, &[MARKER]).unwrap();
    load::send_frames(from.endpoint, from.device, &[peer::hex(&frame)], 1).unwrap();
    let seen = watch.stop().unwrap();
    let context = format!("{source} to {target}, seen at {}: {seen:?}", at.endpoint.label());
    let hex = seen.first.get(MARKER).unwrap_or_else(|| panic!("{context}"));
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
    let octets = |at: usize, len: usize| &bytes[at..at + len];
    let address = |at: usize| match source {
        SocketAddr::V4(_) => IpAddr::from(<[u8; 4]>::try_from(octets(at, 4)).unwrap()),
        SocketAddr::V6(_) => IpAddr::from(<[u8; 16]>::try_from(octets(at, 16)).unwrap()),
    };
    let (src, dst, l4) = if source.is_ipv4() { (26, 30, 34) } else { (22, 38, 54) };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let sctp = &bytes[l4..];
    let sum = CRC.checksum(&[&sctp[..8], &[0; 4], &sctp[12..]].concat());
    assert_eq!(sctp[8..12], sum.to_le_bytes(), "checksum, {context}");
    ((address(src), port(l4)).into(), (address(dst), port(l4 + 2)).into())
}

#[test]
#[ignore = "needs root"]
fn sctp_ports_are_translated_in_both_directions() {
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    cluster.start_agents_with(&[host_device::RANGES]).unwrap();
    host_device::await_open(&cluster.nodes[0]);
    let (client, near, far) = (
        cluster.nodes[0].pod("client").unwrap(),
        cluster.nodes[0].pod("near").unwrap(),
        cluster.nodes[1].pod("far").unwrap(),
    );
    let addresses = |n: u8| [format!("10.96.0.{n}"), format!("fd00:10:96::{n}")].map(|a| a.parse::<IpAddr>().unwrap());
    let external = |n: u8| [format!("198.51.100.{n}"), format!("2001:db8::{n}")].map(|a| a.parse::<IpAddr>().unwrap());
    for (n, pod) in [(21, &near), (22, &far)] {
        let ports: [Port<'_>; 1] = [Port::sctp("sig", 2905).with_node_port(30900 + u16::from(n))];
        let endpoints: Vec<_> = pod.addresses().iter().map(|a| Endpoint::ready(*a, pod.node().name())).collect();
        let mut service = service(pod.name(), &addresses(n), &ports);
        service["spec"]["externalIPs"] = json!(external(n));
        let mut objects = vec![service];
        objects.extend(slices(pod.name(), &ports, TARGET, &endpoints));
        cluster.apply(pod.name(), &objects).unwrap();
        cluster.await_backends(&format!("default/{}", pod.name()), 1).unwrap();
    }
    let mapping = json!([{ "hostPort": HOST_PORT, "containerPort": TARGET, "protocol": "sctp" }]);
    let conflist = plugin::conflist_with(&json!({ "portMappings": mapping }));
    let hosted = Pod::add_with(&cluster.nodes[0].machine, "hosted", conflist).unwrap();
    let [at_client, at_near, at_far, at_hosted] = [&client, &near, &far, &hosted].map(Tap::pod);
    let at_node = Tap::node(&cluster.nodes[0].machine, "ropeway.out");
    for family in IpFamily::BOTH {
        let node = cluster.nodes[0].address(family);
        for (asker_at, address, port) in
            [(at_client, client.port(family, 0).unwrap().ip(), 40000), (at_node, node, 40010)]
        {
            for (port, n, pod, at_pod) in [(port, 21, &near, at_near), (port + 1, 22, &far, at_far)] {
                let asker = SocketAddr::new(address, port);
                let server = pod.port(family, TARGET).unwrap();
                let cluster_ip = addresses(n).into_iter().find(|a| family.has(*a)).unwrap();
                let front = SocketAddr::new(cluster_ip, 2905);
                assert_eq!(pass(asker_at, (asker, front), at_pod), (asker, server));
                assert_eq!(pass(at_pod, (server, asker), asker_at), (front, asker));
            }
        }
        // a packet that leaves by the node's default route
        let leaving = Tap::node(&cluster.nodes[0].machine, "eth0");
        for (n, pod, at_pod) in [(21, &near, at_near), (22, &far, at_far)] {
            let front = external(n).into_iter().find(|a| family.has(*a)).unwrap();
            let asker = SocketAddr::new(node, 40020 + u16::from(n));
            let seen = pass(leaving, (asker, SocketAddr::new(front, 2905)), at_pod);
            assert_eq!(seen, (asker, pod.port(family, TARGET).unwrap()));
        }
        let (asker, server) = (client.port(family, 40002).unwrap(), hosted.port(family, TARGET).unwrap());
        let front = SocketAddr::new(node, HOST_PORT);
        assert_eq!(pass(at_client, (asker, front), at_hosted), (asker, server));
        assert_eq!(pass(at_hosted, (server, asker), at_client), (front, asker));
    }
}
