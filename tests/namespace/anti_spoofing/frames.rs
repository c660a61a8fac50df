//! Builds frames by hand, header by header, as an attacker could. Checksums are correct, so that
//! only the check of the source can drop a frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ARP: u16 = 0x0806;
pub(crate) const BROADCAST: Mac = [0xff; 6];

pub(crate) type Mac = [u8; 6];

/// Source and target of a frame, packet or segment.
#[derive(Clone, Copy)]
pub(crate) struct FromTo<A> {
    pub(crate) from: A,
    pub(crate) to: A,
}

pub(crate) fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes()[..], payload].concat()
}

/// Adds 802.1Q tags with these network identifiers.
pub(crate) fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let tags: Vec<u8> = tags.iter().flat_map(|id| [0x81, 0, (id >> 8) as u8, *id as u8]).collect();
    [&frame[..12], &tags[..], &frame[12..]].concat()
}

/// Builds an IP packet with correct length and IPv4 checksum.
pub(crate) fn ip(from_to: FromTo<IpAddr>, protocol: u8, payload: &[u8]) -> (u16, Vec<u8>) {
    match (from_to.from, from_to.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (0x0800, ip4(from, to, protocol, payload)),
        (IpAddr::V6(from), IpAddr::V6(to)) => (0x86dd, ip6(from, to, protocol, payload)),
        _ => panic!("two families"),
    }
}

fn ip4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut header = vec![0x45, 0, (length >> 8) as u8, length as u8, 0, 1, 0, 0, 64, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    [&header[..], payload].concat()
}

fn ip6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    // Neighbour discovery is only accepted with this hop limit (RFC 4861, section 6.1.1).
    let mut header = vec![0x60, 0, 0, 0, (length >> 8) as u8, length as u8, next, 255];
    header.extend(from.octets());
    header.extend(to.octets());
    [&header[..], payload].concat()
}

pub(crate) fn udp(from_to: FromTo<IpAddr>, ports: FromTo<u16>, payload: &[u8]) -> (u16, Vec<u8>) {
    let length = (8 + payload.len()) as u16;
    let words = [ports.from, ports.to, length, 0];
    let mut datagram: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    datagram.extend(payload);
    let sum = sum_of(from_to, 17, &datagram);
    datagram[6..8].copy_from_slice(&sum);
    ip(from_to, 17, &datagram)
}

/// Builds a TCP segment (PSH, ACK) with sequence and acknowledgement number 1, far from those of
/// any connection.
pub(crate) fn segment(from_to: FromTo<IpAddr>, ports: FromTo<u16>, payload: &[u8]) -> (u16, Vec<u8>) {
    segment_with(0x18, from_to, ports, payload)
}

/// Builds a [`segment`] with these flags (RFC 9293, section 3.1).
pub(crate) fn segment_with(flags: u8, from_to: FromTo<IpAddr>, ports: FromTo<u16>, payload: &[u8]) -> (u16, Vec<u8>) {
    let words = [ports.from, ports.to, 0, 1, 0, 1, 0x5000 | u16::from(flags), 1024, 0, 0];
    let mut segment: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    segment.extend(payload);
    let sum = sum_of(from_to, 6, &segment);
    segment[16..18].copy_from_slice(&sum);
    ip(from_to, 6, &segment)
}

/// Builds a TCP SYN.
pub(crate) fn syn(from_to: FromTo<IpAddr>, ports: FromTo<u16>, payload: &[u8]) -> (u16, Vec<u8>) {
    segment_with(0x02, from_to, ports, payload)
}

/// Builds an ICMP message of either family: type, code, the rest after the checksum.
pub(crate) fn icmp(from_to: FromTo<IpAddr>, kind: u8, rest: &[u8]) -> (u16, Vec<u8>) {
    let mut message = [&[kind, 0, 0, 0][..], rest].concat();
    let v6 = from_to.from.is_ipv6();
    let sum = if v6 { sum_of(from_to, 58, &message) } else { checksum(&[&message]) };
    message[2..4].copy_from_slice(&sum);
    ip(from_to, if v6 { 58 } else { 1 }, &message)
}

/// Builds an ARP packet (RFC 826); operation 1 is a request, 2 a reply.
pub(crate) fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr), trailer: &[u8]) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, operation];
    for (mac, ip) in [sender, target] {
        message.extend(mac);
        message.extend(ip.octets());
    }
    [&message[..], trailer].concat()
}

/// Computes the checksum with the pseudo header of RFC 768 or RFC 8200, section 8.1.
fn sum_of(from_to: FromTo<IpAddr>, protocol: u8, payload: &[u8]) -> [u8; 2] {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = payload.len() as u16;
    checksum(&[&octets(from_to.from), &octets(from_to.to), &[0, protocol], &length.to_be_bytes(), payload])
}

/// Computes the Internet checksum (RFC 1071) of several parts; all but the last must have an even
/// length.
pub(crate) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
