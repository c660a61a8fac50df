//! Random packets: of connections that others may have, forged, tagged, cut, with options,
//! extension headers, fragments, in the tunnel, and with bytes that are simply wrong.

use std::net::{IpAddr, SocketAddr};

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::world::{ADDRESSES, PORTS, World, address};
use crate::frame::{
    Kind, echo, echo_reply, fix_ipv4_checksum, frame_of, frame_with_ttl, icmp_about, is_v6, with_extra_header,
};
use crate::scenarios::{POD_A, POD_B, SECOND_UPLINK, TUNNEL, UPLINK, fragments};
use crate::testbed::Hook;

const KINDS: [Kind; 9] =
    [Kind::Syn, Kind::Syn, Kind::SynAck, Kind::Ack, Kind::Fin, Kind::Rst, Kind::Udp, Kind::Udp, Kind::Sctp];
/// Least length of a frame that `BPF_PROG_TEST_RUN` takes: Ethernet and IPv6 header.
const LEAST: usize = 54;

/// A packet and the place where it arrives.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) hook: Hook,
    pub(super) ifindex: u32,
    pub(super) frame: Vec<u8>,
}

impl Step {
    /// Returns a packet of any kind. `seen`: frames that have passed, which it may answer, quote or
    /// repeat.
    pub(super) fn random(rng: &mut StdRng, world: &World, seen: &[Vec<u8>]) -> Self {
        let earlier = seen.choose(rng);
        let frame = match (rng.random_range(0..20), earlier) {
            (0..=6, Some(frame)) => answer(rng, frame),
            (7, Some(frame)) => frame.clone(),
            (8 | 9, Some(frame)) => error_about(rng, frame),
            _ => fresh(rng, world),
        };
        let (hook, ifindex) = if rng.random_bool(0.8) { place_of(rng, &frame) } else { place(rng) };
        Self { hook, ifindex, frame: changed(rng, frame) }
    }
}

/// Returns a place where a packet with this source belongs.
fn place_of(rng: &mut StdRng, frame: &[u8]) -> (Hook, u32) {
    let source = source(frame);
    let is = |at: usize| ADDRESSES.iter().any(|family| family[at].parse() == Ok(source));
    let uplink = *[UPLINK, SECOND_UPLINK].choose(rng).unwrap();
    match () {
        () if is(0) => (Hook::FromPod, POD_A),
        () if is(1) => (Hook::FromPod, POD_B),
        () if is(3) => (Hook::ToUplink, uplink),
        () if is(6) || is(7) => (Hook::FromUplink, *[TUNNEL, uplink].choose(rng).unwrap()),
        () => (Hook::FromUplink, uplink),
    }
}

fn source(frame: &[u8]) -> IpAddr {
    if is_v6(frame) {
        <[u8; 16]>::try_from(&frame[22..38]).unwrap().into()
    } else {
        <[u8; 4]>::try_from(&frame[26..30]).unwrap().into()
    }
}

fn place(rng: &mut StdRng) -> (Hook, u32) {
    let pods = [POD_A, POD_B];
    let uplinks = [UPLINK, TUNNEL, SECOND_UPLINK];
    match rng.random_range(0..10) {
        0..=3 => (Hook::FromPod, *pods.choose(rng).unwrap()),
        4..=7 => (Hook::FromUplink, *uplinks.choose(rng).unwrap()),
        8 => (Hook::ToPod, *pods.choose(rng).unwrap()),
        _ => (Hook::ToUplink, *uplinks.choose(rng).unwrap()),
    }
}

fn ends(rng: &mut StdRng, family: usize) -> (SocketAddr, SocketAddr) {
    let mut end = || SocketAddr::new(address(rng, family), *PORTS.choose(rng).unwrap());
    (end(), end())
}

fn fresh(rng: &mut StdRng, world: &World) -> Vec<u8> {
    let family = rng.random_range(0..2);
    let (mut from, mut to) = ends(rng, family);
    let kind = *KINDS.choose(rng).unwrap();
    // Clients that can be where they are, and Services, more often than others.
    if rng.random_bool(0.6) {
        let own = *[0, 1, 6, 8, 10, 11].choose(rng).unwrap();
        from.set_ip(ADDRESSES[family][own].parse().unwrap());
    }
    if rng.random_bool(0.5) {
        to = world.frontend(rng, family);
    }
    match rng.random_range(0..12) {
        0 => echo(from.ip(), to.ip(), to.port()),
        1 => echo_reply(from.ip(), to.ip(), to.port()),
        2 => encapsulated(rng, family),
        3 => frame_with_ttl(kind, from, to, rng.random_range(0..3)),
        _ => frame_of(kind, from, to, &vec![7; rng.random_range(0..120)]),
    }
}

/// Returns a datagram to the tunnel's port of the node, of an address that another node may have.
fn encapsulated(rng: &mut StdRng, family: usize) -> Vec<u8> {
    let at = |index: usize, port| SocketAddr::new(ADDRESSES[family][index].parse().unwrap(), port);
    let inner = rng.random_range(0..2);
    let (from, to) = ends(rng, inner);
    let inside = frame_of(*KINDS.choose(rng).unwrap(), from, to, b"inside");
    let network = if rng.random_bool(0.9) { 0x5257_u32 } else { rng.random() };
    let header = [&[8, 0, 0, 0][..], &(network << 8).to_be_bytes()].concat();
    let sender = *[8, 9, 10].choose(rng).unwrap();
    frame_of(Kind::Udp, at(sender, 40000), at(3, 4789), &[&header, &inside[..]].concat())
}

/// Returns the frame with sources and destinations swapped, as an answer of the same protocol.
fn answer(rng: &mut StdRng, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let (at, length, header) = if is_v6(&frame) { (22, 16, 54) } else { (26, 4, 34) };
    for i in 0..length {
        frame.swap(at + i, at + length + i);
    }
    if frame.len() >= header + 14 {
        frame.swap(header, header + 2);
        frame.swap(header + 1, header + 3);
        // The flags of TCP; another protocol has payload there.
        frame[header + 13] = *[0x12, 0x10, 0x11, 0x04, 0x18].choose(rng).unwrap();
    }
    frame[..6].copy_from_slice(&crate::frame::DEVICE_MAC);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame
}

fn error_about(rng: &mut StdRng, frame: &[u8]) -> Vec<u8> {
    let family = usize::from(is_v6(frame));
    let kinds: [&[(u8, u8)]; 2] = [&[(3, 1), (3, 4), (11, 0), (5, 1)], &[(1, 4), (2, 0), (3, 0)]];
    let quoted = rng.random_range(28..=frame.len().max(28)).min(frame.len());
    let (from, to) = (address(rng, family), address(rng, family));
    icmp_about(*kinds[family].choose(rng).unwrap(), from, to, &frame[..quoted.max(14)])
}

/// Returns the frame as an attacker, or a fault, may change it.
fn changed(rng: &mut StdRng, mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() < LEAST {
        frame.resize(LEAST, 0);
    }
    match rng.random_range(0..24) {
        0 => {
            let (next, bytes) = if is_v6(&frame) { (*[0, 43, 60, 135].choose(rng).unwrap(), 0) } else { (0, 1) };
            frame = with_extra_header(&frame, next, &[bytes; 8]);
        }
        1 => {
            let (first, later, other) = fragments(&frame);
            frame.clone_from([first, later, other].choose(rng).unwrap());
        }
        2 => frame.truncate(rng.random_range(LEAST..=frame.len())),
        3..=5 => {
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..frame.len().min(90));
                frame[at] = if rng.random_bool(0.5) { rng.random() } else { frame[at] ^ (1 << rng.random_range(0..8)) };
            }
            // Otherwise the header checksum would be all that is wrong.
            if frame[12..15] == [8, 0, 0x45] {
                fix_ipv4_checksum(&mut frame);
            }
        }
        6 => frame[..6].copy_from_slice([[0xff; 6], [2, 0, 0, 0, 0, 9]].choose(rng).unwrap()),
        7 => frame[12..14].copy_from_slice([[8, 6], [0x81, 0], [0x88, 0xa8]].choose(rng).unwrap()),
        _ => {}
    }
    frame
}
