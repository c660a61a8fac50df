//! Frames of the packet tests: built with correct checksums, and verified.
//!
//! The `verify` functions recompute every checksum independently of `dataplane-common`, and return
//! the addresses that the packet shows.

use std::net::{IpAddr, SocketAddr};

use crc::{CRC_32_ISCSI, Crc};
use dataplane_common::types::service::proto;
use etherparse::{IpNumber, PacketBuilder};

/// The checksum of SCTP (RFC 9260, appendix A), implemented by a library.
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// MAC of every device of the node, to which the frames are sent.
pub(crate) const DEVICE_MAC: [u8; 6] = [0xee; 6];

/// Kind of a frame: protocol and TCP flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
    Udp,
    Sctp,
}

/// Builds a frame with a few bytes of payload.
pub(crate) fn frame(kind: Kind, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    frame_with_ttl(kind, from, to, 64)
}

/// Builds a frame with this payload.
pub(crate) fn frame_of(kind: Kind, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    build(kind, from, to, 64, 1, payload)
}

/// Builds a TCP segment with this sequence number; that of other segments is 1.
pub(crate) fn frame_with_seq(kind: Kind, from: SocketAddr, to: SocketAddr, seq: u32) -> Vec<u8> {
    build(kind, from, to, 64, seq, b"ropeway!")
}

/// Builds a frame with this hop limit.
pub(crate) fn frame_with_ttl(kind: Kind, from: SocketAddr, to: SocketAddr, ttl: u8) -> Vec<u8> {
    build(kind, from, to, ttl, 1, b"ropeway!")
}

fn build(kind: Kind, from: SocketAddr, to: SocketAddr, ttl: u8, seq: u32, payload: &[u8]) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], DEVICE_MAC);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => eth.ipv4(a.octets(), b.octets(), ttl),
        (IpAddr::V6(a), IpAddr::V6(b)) => eth.ipv6(a.octets(), b.octets(), ttl),
        _ => panic!("mixed families"),
    };
    let mut bytes = Vec::new();
    let (s, d) = (from.port(), to.port());
    match kind {
        Kind::Udp => ip.udp(s, d).write(&mut bytes, payload),
        Kind::Sctp => ip.write(&mut bytes, IpNumber::SCTP, &sctp(s, d, payload)),
        Kind::Syn => ip.tcp(s, d, seq, 1000).syn().write(&mut bytes, payload),
        Kind::SynAck => ip.tcp(s, d, seq, 1000).syn().ack(2).write(&mut bytes, payload),
        Kind::Ack => ip.tcp(s, d, seq, 1000).ack(2).write(&mut bytes, payload),
        Kind::Fin => ip.tcp(s, d, seq, 1000).fin().ack(2).write(&mut bytes, payload),
        Kind::Rst => ip.tcp(s, d, seq, 1000).rst().write(&mut bytes, payload),
    }
    .unwrap();
    bytes
}

/// Builds an SCTP packet: common header (RFC 9260, section 3.1) and payload.
fn sctp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let [from, to] = [from, to].map(u16::to_be_bytes);
    let mut packet = [&from[..], &to, &[1, 2, 3, 4, 0, 0, 0, 0], payload].concat();
    let sum = CRC.checksum(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// Returns the correct checksum of an SCTP packet, exclusive-ored with the one in it.
pub(crate) fn sctp_error(packet: &[u8]) -> u32 {
    let sum = CRC.checksum(&[&packet[..8], &[0; 4], &packet[12..]].concat());
    sum ^ u32::from_le_bytes(packet[8..12].try_into().unwrap())
}

/// Inserts `extra` behind the IP header: IPv4 options (a multiple of 4 bytes), or IPv6 extension
/// headers, the first of type `next`.
pub(crate) fn with_extra_header(frame: &[u8], next: u8, extra: &[u8]) -> Vec<u8> {
    let v6 = is_v6(frame);
    let split = 14 + if v6 { 40 } else { 20 };
    let mut f = [&frame[..split], extra, &frame[split..]].concat();
    let payload = f.len() - 14;
    if v6 {
        let last = f[20];
        f[20] = next;
        // One extension header: its next header is that of the fixed header.
        f[split] = last;
        f[18..20].copy_from_slice(&u16::try_from(payload - 40).unwrap().to_be_bytes());
    } else {
        f[14] = 0x40 | u8::try_from((20 + extra.len()) / 4).unwrap();
        f[16..18].copy_from_slice(&u16::try_from(payload).unwrap().to_be_bytes());
        fix_ipv4_checksum(&mut f);
    }
    f
}

/// Recomputes the checksum of the IPv4 header.
pub(crate) fn fix_ipv4_checksum(f: &mut [u8]) {
    let header = 14 + usize::from(f[14] & 0xf) * 4;
    f[24..26].fill(0);
    let sum = !ones(&f[14..header], 0);
    f[24..26].copy_from_slice(&sum.to_be_bytes());
}

pub(crate) fn is_v6(f: &[u8]) -> bool {
    f[12..14] == [0x86, 0xdd]
}

fn ones(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// Verifies all checksums, and returns source and destination. `headers`: bytes of IPv4 options or
/// IPv6 extension headers.
pub(crate) fn verify(f: &[u8], headers: usize) -> (SocketAddr, SocketAddr) {
    let v6 = is_v6(f);
    let l4 = 14 + headers + if v6 { 40 } else { 20 };
    let (src, dst, proto): (IpAddr, IpAddr, u8);
    let pseudo = if v6 {
        let a: [u8; 16] = f[22..38].try_into().unwrap();
        let b: [u8; 16] = f[38..54].try_into().unwrap();
        proto = if headers > 0 { f[54] } else { f[20] };
        (src, dst) = (a.into(), b.into());
        [&a[..], &b[..]].concat()
    } else {
        let a: [u8; 4] = f[26..30].try_into().unwrap();
        let b: [u8; 4] = f[30..34].try_into().unwrap();
        proto = f[23];
        (src, dst) = (a.into(), b.into());
        assert_eq!(ones(&f[14..14 + 20 + headers], 0), 0xffff, "IPv4 header checksum");
        [&a[..], &b[..]].concat()
    };
    let segment = &f[l4..];
    if proto == proto::SCTP {
        assert_eq!(sctp_error(segment), 0, "SCTP checksum");
    } else {
        let start = u32::from(ones(&pseudo, 0)) + u32::from(proto) + u32::try_from(segment.len()).unwrap();
        assert_eq!(ones(segment, start), 0xffff, "L4 checksum");
    }
    let port = |at: usize| u16::from_be_bytes([f[at], f[at + 1]]);
    ((src, port(l4)).into(), (dst, port(l4 + 2)).into())
}

/// Returns the hop limit of the packet.
pub(crate) fn ttl(f: &[u8]) -> u8 {
    if is_v6(f) { f[21] } else { f[22] }
}

/// Builds an ICMP error (destination unreachable) from `from` to `to` that quotes the packet in
/// frame `about`.
pub(crate) fn icmp_error(from: IpAddr, to: IpAddr, about: &[u8]) -> Vec<u8> {
    icmp_about(if from.is_ipv4() { (3, 1) } else { (1, 4) }, from, to, about)
}

/// Builds an ICMP message of this type and code that contains the packet in frame `about`.
pub(crate) fn icmp_about((kind, code): (u8, u8), from: IpAddr, to: IpAddr, about: &[u8]) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], DEVICE_MAC);
    let mut bytes = Vec::new();
    let inside = &about[14..];
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            eth.ipv4(a.octets(), b.octets(), 64).icmpv4_raw(kind, code, [0; 4]).write(&mut bytes, inside)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            eth.ipv6(a.octets(), b.octets(), 64).icmpv6_raw(kind, code, [0; 4]).write(&mut bytes, inside)
        }
        _ => panic!("mixed families"),
    }
    .unwrap();
    bytes
}

/// Builds an ICMP echo request.
pub(crate) fn echo(from: IpAddr, to: IpAddr, id: u16) -> Vec<u8> {
    icmp_echo(from, to, [8, 128], id)
}

/// Builds the reply to an [`echo`].
pub(crate) fn echo_reply(from: IpAddr, to: IpAddr, id: u16) -> Vec<u8> {
    icmp_echo(from, to, [0, 129], id)
}

fn icmp_echo(from: IpAddr, to: IpAddr, [type4, type6]: [u8; 2], id: u16) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], DEVICE_MAC);
    let [high, low] = id.to_be_bytes();
    let mut bytes = Vec::new();
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            eth.ipv4(a.octets(), b.octets(), 64).icmpv4_raw(type4, 0, [high, low, 0, 1]).write(&mut bytes, b"ropeway!")
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            eth.ipv6(a.octets(), b.octets(), 64).icmpv6_raw(type6, 0, [high, low, 0, 1]).write(&mut bytes, b"ropeway!")
        }
        _ => panic!("mixed families"),
    }
    .unwrap();
    bytes
}

/// Verifies an ICMP echo, and returns source, destination and identifier.
pub(crate) fn verify_echo(f: &[u8]) -> ((IpAddr, IpAddr), u16) {
    let header = if is_v6(f) { 40 } else { 20 };
    verify_icmp(f);
    (addresses(&f[14..]), u16::from_be_bytes([f[14 + header + 4], f[14 + header + 5]]))
}

/// Verifies a TCP reset. Returns source and destination, sequence and acknowledgement number, and
/// the flag ACK.
pub(crate) fn verify_reset(f: &[u8]) -> ((SocketAddr, SocketAddr), (u32, u32), bool) {
    let (src, dst) = verify(f, 0);
    let tcp = &f[14 + if is_v6(f) { 40 } else { 20 }..];
    assert_eq!((tcp.len(), tcp[12]), (20, 0x50), "a header without options and payload");
    assert_eq!(tcp[13] & !0x10, 4, "a reset");
    let number = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
    ((src, dst), (number(4), number(8)), tcp[13] & 0x10 != 0)
}

/// Verifies the checksums of an ICMP packet, and the length in its IP header.
fn verify_icmp(f: &[u8]) {
    let v6 = is_v6(f);
    let icmp = &f[14 + if v6 { 40 } else { 20 }..];
    let start = if v6 { u32::from(ones(&f[22..54], 0)) + 58 + u32::try_from(icmp.len()).unwrap() } else { 0 };
    assert_eq!(ones(icmp, start), 0xffff, "ICMP checksum");
    let length =
        if v6 { usize::from(f[18]) << 8 | usize::from(f[19]) } else { usize::from(f[16]) << 8 | usize::from(f[17]) };
    assert_eq!(length, f.len() - if v6 { 54 } else { 14 }, "length");
    if !v6 {
        assert_eq!(ones(&f[14..34], 0), 0xffff, "IPv4 header checksum");
    }
}

/// Type and code of an ICMP error; its source and destination; those of the quoted packet.
type IcmpError = ((u8, u8), (IpAddr, IpAddr), (SocketAddr, SocketAddr));

/// Verifies the checksums of an ICMP error and of both IP headers, and returns its contents.
pub(crate) fn verify_icmp_error(f: &[u8]) -> IcmpError {
    let v6 = is_v6(f);
    let header = if v6 { 40 } else { 20 };
    let outer = addresses(&f[14..]);
    let icmp = &f[14 + header..];
    verify_icmp(f);
    let inside = &icmp[8..];
    if !v6 {
        assert_eq!(ones(&inside[..20], 0), 0xffff, "inner IPv4 header checksum");
    }
    let (src, dst) = addresses(inside);
    let port = |at: usize| u16::from_be_bytes([inside[header + at], inside[header + at + 1]]);
    ((icmp[0], icmp[1]), outer, ((src, port(0)).into(), (dst, port(2)).into()))
}

/// Returns source and destination address of an IP packet.
fn addresses(ip: &[u8]) -> (IpAddr, IpAddr) {
    if ip[0] >> 4 == 6 {
        let a: [u8; 16] = ip[8..24].try_into().unwrap();
        let b: [u8; 16] = ip[24..40].try_into().unwrap();
        (a.into(), b.into())
    } else {
        let a: [u8; 4] = ip[12..16].try_into().unwrap();
        let b: [u8; 4] = ip[16..20].try_into().unwrap();
        (a.into(), b.into())
    }
}
