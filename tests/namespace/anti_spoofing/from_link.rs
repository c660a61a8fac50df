//! Forged frames of a machine on the nodes' link: sources that no packet from outside has, in every
//! form that the parser knows, to a pod, a Service, node ports and the node itself.

use std::net::IpAddr;

use ropeway_tests::cluster::{Shape, address};
use ropeway_tests::load::{self, PersistentLoad, TrafficEndpoint, Watch};
use ropeway_tests::machine::Machine;
use ropeway_tests::peer;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::view;

use super::frames::{BROADCAST, FromTo, Mac, ethernet, icmp, ip, syn, tagged, udp};
use super::matrix::{FORGED, FORGED_MAC, HONEST};
use super::parse_mac;
use crate::fixture::{ClientPath, Fixture, TARGET, cluster_ip};

/// Least number of forged frames.
const FORGED_PACKETS: usize = 100_000;

pub(super) fn device_mac(machine: &Machine) -> Mac {
    parse_mac(machine.output(&["cat", "/sys/class/net/eth0/address"]).unwrap().trim())
}

/// Addresses that no packet on a wire has as its source.
fn special(family: IpFamily) -> Vec<IpAddr> {
    let all: &[&str] = match family {
        IpFamily::V4 => &["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"],
        IpFamily::V6 => &["::", "::1", "ff02::1", "::ffff:10.244.1.1"],
    };
    all.iter().map(|address| address.parse().unwrap()).collect()
}

/// The frames, and how many of them the programs see as IP packets with ports of their own.
fn forged(fixture: &Fixture, attacker: Mac, node: Mac) -> (Vec<Vec<u8>>, usize) {
    let (mut frames, mut counted, mut port) = (Vec::new(), 0, 20_000);
    for family in IpFamily::BOTH {
        let of = |pod: &Pod| pod.address(family).unwrap();
        let near = fixture.cluster.nodes[0].address(family);
        let pod = of(&fixture.backends[0]);
        let mut sources = special(family);
        sources.extend([pod, of(&fixture.client), near, cluster_ip(family)]);
        let targets = [(pod, TARGET), (cluster_ip(family), 80), (near, 30080), (near, 30053), (near, 9)];
        let forged = sources.iter().flat_map(|from| targets.map(|to| (*from, to)));
        let loopback = [(address(family, 1), (special(family)[1], 30080))];
        for (from, (to, service)) in forged.chain(loopback).filter(|(from, (to, _))| from != to) {
            port += 1;
            let (addresses, ports) = (FromTo { from, to }, FromTo { from: port, to: service });
            let echo = if family == IpFamily::V4 { 8 } else { 128 };
            let datagram = udp(addresses, ports, FORGED.as_bytes());
            let packets = [
                datagram.clone(),
                syn(addresses, ports, FORGED.as_bytes()),
                icmp(addresses, echo, &[&[0, 7, 0, 1], FORGED.as_bytes()].concat()),
                with_extension(addresses, &datagram.1),
                first_fragment(addresses, &datagram.1),
            ];
            counted += packets.len();
            frames.extend(packets.iter().map(|(kind, packet)| ethernet(node, attacker, *kind, packet)));
            // Left to the host's stack, which has no such network and no first fragment.
            let (kind, later) = later_fragment(addresses, &datagram.1);
            frames.push(ethernet(node, attacker, kind, &later));
            frames.push(tagged(&ethernet(node, attacker, datagram.0, &datagram.1), &[7]));
            // A tag that names no VLAN: the host's stack takes the frame like one without.
            frames.push(tagged(&ethernet(node, attacker, datagram.0, &datagram.1), &[0]));
            counted += 1;
            frames.push(tagged(&ethernet(node, attacker, datagram.0, &datagram.1), &[0, 0]));
            // The link floods frames for an unknown MAC.
            frames.push(ethernet(FORGED_MAC, attacker, datagram.0, &datagram.1));
            frames.push(ethernet(BROADCAST, attacker, datagram.0, &datagram.1));
        }
    }
    (frames, counted)
}

fn payload(packet: &[u8]) -> &[u8] {
    &packet[if packet[0] >> 4 == 4 { 20 } else { 40 }..]
}

/// Returns the packet with options (IPv4), or with a destination options header (IPv6).
pub(super) fn with_extension(addresses: FromTo<IpAddr>, packet: &[u8]) -> (u16, Vec<u8>) {
    if addresses.from.is_ipv6() {
        return ip(addresses, 60, &[&[17, 0, 1, 4, 0, 0, 0, 0], payload(packet)].concat());
    }
    let mut all = [&packet[..20], &[1; 4], payload(packet)].concat();
    all[0] = 0x46;
    all[3] += 4;
    fix_sum(&mut all, 24);
    (0x0800, all)
}

fn first_fragment(addresses: FromTo<IpAddr>, packet: &[u8]) -> (u16, Vec<u8>) {
    fragment(addresses, &payload(packet)[..16], 0, true)
}

fn later_fragment(addresses: FromTo<IpAddr>, packet: &[u8]) -> (u16, Vec<u8>) {
    fragment(addresses, &payload(packet)[16..], 2, false)
}

/// Returns a fragment of a UDP datagram; `offset` in units of eight bytes.
fn fragment(addresses: FromTo<IpAddr>, part: &[u8], offset: u16, more: bool) -> (u16, Vec<u8>) {
    if addresses.from.is_ipv6() {
        let word = (offset << 3 | u16::from(more)).to_be_bytes();
        return ip(addresses, 44, &[&[17, 0], &word[..], &[0, 0, 0, 9], part].concat());
    }
    let (kind, mut packet) = ip(addresses, 17, part);
    packet[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
    fix_sum(&mut packet, 20);
    (kind, packet)
}

fn fix_sum(packet: &mut [u8], header: usize) {
    packet[10..12].fill(0);
    let sum = super::frames::checksum(&[&packet[..header]]);
    packet[10..12].copy_from_slice(&sum);
}

#[test]
#[ignore = "needs root"]
fn forged_frames_from_the_link_are_dropped_and_counted() {
    let fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let (near, attacker) = (&fixture.cluster.nodes[0].machine, &fixture.cluster.client);
    let macs = (device_mac(attacker), device_mac(near));
    let (frames, counted) = forged(&fixture, macs.0, macs.1);
    let honest = IpFamily::BOTH.map(|family| {
        let addresses = FromTo { from: address(family, 1), to: fixture.backends[0].address(family).unwrap() };
        let (kind, packet) = udp(addresses, FromTo { from: 19_999, to: TARGET }, HONEST.as_bytes());
        ethernet(macs.1, macs.0, kind, &packet)
    });
    let places: [(&str, &dyn TrafficEndpoint); 3] = [
        ("a pod on the node", &fixture.backends[0]),
        ("another pod on the node", &fixture.client),
        ("a pod on another node", &fixture.backends[1]),
    ];
    let watchers = places.map(|(_, place)| Watch::start(place, "eth0", &[FORGED, HONEST]).unwrap());
    let held: Vec<_> = IpFamily::BOTH
        .into_iter()
        .flat_map(|family| [ClientPath::PodToClusterIp, ClientPath::NodePortFromOutside].map(|path| (path, family)))
        .map(|(path, family)| {
            let access = fixture.path(path, family);
            PersistentLoad::open(access.from, access.tcp, 8).unwrap()
        })
        .collect();
    let before = view::drops(near, "martian").unwrap();
    let times = FORGED_PACKETS.div_ceil(frames.len());
    println!("{} forged frames, each {times} times", frames.len());
    let hex = |frames: &[Vec<u8>]| frames.iter().map(|frame| peer::hex(frame)).collect::<Vec<_>>();
    load::send_frames(attacker, "eth0", &hex(&frames), times as u64).unwrap();
    load::send_frames(attacker, "eth0", &hex(&honest), 1).unwrap();
    let dropped = view::drops(near, "martian").unwrap() - before;
    assert!(dropped >= (counted * times) as u64, "{dropped} of {} frames were counted", counted * times);
    // First, because a watcher waits until no more frames arrive.
    for load in held {
        let report = load.release().unwrap();
        assert!(report.lost.is_empty() && report.requests.failed == 0, "connections were lost: {report:?}");
    }
    for ((what, _), watcher) in places.into_iter().zip(watchers) {
        let seen = watcher.stop().unwrap();
        assert_eq!(seen.frames[FORGED], 0, "{what} saw {}", seen.first[FORGED]);
        if what == "a pod on the node" {
            assert!(seen.frames[HONEST] >= 2, "{what} saw no honest frames: {seen:?}");
        }
    }
}
