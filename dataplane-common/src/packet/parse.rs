//! Parsing: Ethernet, IPv4 with options, IPv6 with extension headers, fragments, ports.
//!
//! Every packet program and every stage begins here, because a tail call keeps no state. The result
//! is the tuple by which flows are found. Limits (`MAX_L4`, `MAX_EXTENSIONS`) bound the work of
//! program and verifier. The module reads packets and never writes them.

use crate::maps::FamilyMaps;
use crate::packet::access::{L3, Packet};
use crate::types::address::{Address, V4, V6};
use crate::types::event::{DropReason, ParseError};
use crate::types::flow::{FlowKey, FragmentKey, Ports};
use crate::types::service::proto;
use crate::types::stage::Origin;
use crate::wire::byte_order::{Be16, Be32};

/// Largest offset of an L4 header, bytes. The verifier needs a constant bound for packet accesses;
/// a packet with longer headers is dropped.
pub const MAX_L4: u32 = 1023;
/// Number of IPv6 extension headers that are followed. A packet with more is dropped.
const MAX_EXTENSIONS: usize = 6;

// IPv6 extension headers (IANA "IPv6 Extension Header Types")
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// TCP flag FIN (RFC 9293, section 3.1).
pub const FIN: u8 = 0x01;
/// TCP flag SYN, set on the segments that open a connection.
pub const SYN: u8 = 0x02;
/// TCP flag RST, which ends a connection at once.
pub const RST: u8 = 0x04;
/// TCP flag ACK: the acknowledgement number is valid.
pub const ACK: u8 = 0x10;

/// The header that follows the IP header and its extensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Layer4 {
    /// A TCP header (RFC 9293).
    Tcp,
    /// A UDP header (RFC 768).
    Udp,
    /// An SCTP common header (RFC 9260).
    Sctp,
    /// ICMP or `ICMPv6`, except errors.
    Icmp,
    /// An ICMP or `ICMPv6` error, which quotes the packet that caused it.
    IcmpError,
    /// Another protocol, or no header at all (a later fragment).
    Opaque,
}

/// The parsed headers of a packet, without a reference to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed<A> {
    /// The packet's tuple; ports are zero if the protocol has none.
    pub key: FlowKey<A>,
    /// Offset of the L4 header, bytes, at most `MAX_L4`.
    pub l4: usize,
    /// Kind of the L4 header.
    pub layer4: Layer4,
    /// TCP flags; 0 for other protocols.
    pub tcp_flags: u8,
    /// Upper half of the TCP sequence number; 0 for other protocols.
    pub seq: u16,
    /// The word of the IP header that contains the hop limit.
    pub hop: Be32,
}

impl<A: Address> Parsed<A> {
    /// The headers of no packet, to be filled in.
    pub const EMPTY: Self = Self {
        key: FlowKey { src: A::UNSPECIFIED, dst: A::UNSPECIFIED, sport: 0, dport: 0, proto: 0, pad: [0; 3] },
        l4: 0,
        layer4: Layer4::Opaque,
        tcp_flags: 0,
        seq: 0,
        hop: Be32(0),
    };
}

impl<A> Parsed<A> {
    /// Hides all values but the addresses from the verifier, so that the many paths through the
    /// parser are explored further as one.
    ///
    /// # Errors
    /// [`ParseError::BadHeader`] if the offset is out of range: never on the host, but the verifier
    /// has forgotten the bound and needs to see it checked again.
    #[inline(always)]
    pub fn scrub_verifier_state<P: Packet>(&mut self, packet: &mut P) -> Result<(), ParseError> {
        // Constants, because a pattern cannot contain a cast.
        const TCP: u32 = Layer4::Tcp as u32;
        const UDP: u32 = Layer4::Udp as u32;
        const SCTP: u32 = Layer4::Sctp as u32;
        const ICMP: u32 = Layer4::Icmp as u32;
        const ICMP_ERROR: u32 = Layer4::IcmpError as u32;
        // Packed into words, because each call is one volatile write and read of the context.
        let kinds = (self.key.proto as u32) << 24 | (self.tcp_flags as u32) << 16 | self.layer4 as u32;
        let kinds = packet.scrub_verifier_state(kinds);
        (self.key.proto, self.tcp_flags) = ((kinds >> 24) as u8, (kinds >> 16) as u8);
        self.layer4 = match kinds & 0xff {
            TCP => Layer4::Tcp,
            UDP => Layer4::Udp,
            SCTP => Layer4::Sctp,
            ICMP => Layer4::Icmp,
            ICMP_ERROR => Layer4::IcmpError,
            _ => Layer4::Opaque,
        };
        let ports = packet.scrub_verifier_state((self.key.sport as u32) << 16 | self.key.dport as u32);
        (self.key.sport, self.key.dport) = ((ports >> 16) as u16, ports as u16);
        self.l4 = packet.scrub_verifier_state(self.l4 as u32) as usize;
        if self.l4 > MAX_L4 as usize { Err(ParseError::BadHeader) } else { Ok(()) }
    }

    /// Returns true if the segment opens a TCP connection: SYN without ACK and RST.
    #[inline(always)]
    #[must_use]
    pub fn is_syn(&self) -> bool {
        self.tcp_flags & (SYN | ACK | RST) == SYN
    }

    /// Returns true for a TCP segment that does not open a connection.
    #[inline(always)]
    #[must_use]
    pub fn is_tcp_midflow(&self) -> bool {
        matches!(self.layer4, Layer4::Tcp) && !self.is_syn()
    }
}

/// Returns the `EtherType` (IEEE 802) of the packet, CPU order.
#[inline(always)]
pub fn ether_type<P: Packet>(packet: &P) -> Option<u16> {
    packet.load_u16(12).map(Be16::get)
}

/// `EtherType` of IPv4 (IEEE 802 numbers, IANA).
pub const ETHER_IPV4: u16 = 0x0800;
/// `EtherType` of IPv6 (IEEE 802 numbers, IANA).
pub const ETHER_IPV6: u16 = 0x86dd;

/// The position of a fragment. A fieldless enum beside fields that are always set: LLVM spills the
/// payload of an `Option` that lives across branches although it is undefined on some of them,
/// which the verifier refuses (`R5 !read_ok`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fragment {
    Whole,
    First,
    Later,
}

/// The IP header of either family, extension headers included.
pub struct Ip<A> {
    /// Length of the packet as its header tells it, bytes, headers included.
    length: u32,
    src: A,
    dst: A,
    proto: u8,
    l4: usize,
    fragment: Fragment,
    fragment_id: u32,
    hop: Be32,
}

impl<A> Ip<A> {
    /// Returns true if the packet is a fragment, the first one included.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        !matches!(self.fragment, Fragment::Whole)
    }

    /// Returns true if the packet is a fragment without the L4 header.
    #[inline(always)]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        matches!(self.fragment, Fragment::Later)
    }

    /// Returns the source address.
    #[inline(always)]
    #[must_use]
    pub const fn src(&self) -> &A {
        &self.src
    }

    /// Returns the offset of the L4 header, bytes from the start of the frame.
    #[inline(always)]
    #[must_use]
    pub const fn l4(&self) -> u32 {
        self.l4 as u32
    }

    /// Returns the bytes behind the IP header and its extensions. A value over 65535 means that the
    /// header claims less than its own length.
    #[inline(always)]
    #[must_use]
    pub const fn payload(&self) -> u32 {
        self.length.wrapping_sub(self.l4() - L3 as u32)
    }
}

/// Reading of a family's IP header.
pub trait Header: Address {
    /// Reads the header and its extensions.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] or [`ParseError::BadHeader`].
    fn ip<P: Packet>(packet: &P) -> Result<Ip<Self>, ParseError>;
    /// Returns the bytes behind the fixed IP header, extensions included, as the header tells.
    fn payload<P: Packet>(packet: &P) -> Option<u32>;
}

/// Parses a packet of family `A` that has arrived at this hook and interface.
///
/// A first fragment for which `is_believed` returns true leaves its ports for the later ones that
/// arrive by the same interface. The entry programs check its sender; a stage gets no other.
///
/// # Errors
/// The reason why the packet has no tuple ([`ParseError`]).
#[inline(always)]
pub fn parse<A: Header, P: Packet, T: FamilyMaps<A>>(
    packet: &mut P,
    tables: &T,
    (origin, ifindex): (Origin, u32),
    is_believed: impl FnOnce(&Parsed<A>) -> bool,
) -> Result<Parsed<A>, ParseError> {
    let ip = A::ip(packet)?;
    // Up to six extension headers lead here, each with its own range of offsets. Scrubbed and
    // bounded again, they are one state: 11,700 verified instructions instead of 255,000.
    let l4 = packet.scrub_verifier_state(ip.l4 as u32);
    if l4 > MAX_L4 {
        return Err(ParseError::BadHeader);
    }
    let key = FlowKey { src: ip.src, dst: ip.dst, sport: 0, dport: 0, proto: ip.proto, pad: [0; 3] };
    let mut parsed = Parsed { key, l4: l4 as usize, layer4: Layer4::Opaque, tcp_flags: 0, seq: 0, hop: ip.hop };
    if matches!(ip.fragment, Fragment::Whole) {
        layer4(packet, &mut parsed)?;
        return Ok(parsed);
    }
    // Computed here, where it is needed: on the way it would cost stack.
    let iif = origin.iif(ifindex) as u16;
    let datagram = FragmentKey { src: ip.src, dst: ip.dst, id: ip.fragment_id, iif, proto: ip.proto, pad: 0 };
    if matches!(ip.fragment, Fragment::First) {
        layer4(packet, &mut parsed)?;
        if !is_believed(&parsed) {
            return Err(ParseError::ForgedFragment);
        }
        tables.set_fragment(&datagram, &Ports { src: parsed.key.sport, dst: parsed.key.dport });
    } else {
        let ports = tables.fragment(&datagram).ok_or(ParseError::UnknownFragment)?;
        parsed.key.sport = ports.src;
        parsed.key.dport = ports.dst;
    }
    Ok(parsed)
}

/// Parses a packet in a stage that needs most of its stack for other things, and hides the result
/// from the verifier ([`Parsed::scrub_verifier_state`]).
///
/// # Errors
/// The reason to drop the packet, as of [`parse`].
#[inline(always)]
pub fn parse_again<A: Header, P: Packet, T: FamilyMaps<A>>(
    packet: &mut P,
    tables: &T,
    at: (Origin, u32),
    parsed: &mut Parsed<A>,
) -> Result<(), DropReason> {
    parse_into(packet, tables, at, parsed)?;
    parsed.scrub_verifier_state(packet).map_err(|_| DropReason::Malformed)
}

/// Not inlined: the parser's locals have a stack frame of their own, which ends before the rest of
/// the stage begins.
#[inline(never)]
fn parse_into<A: Header, P: Packet, T: FamilyMaps<A>>(
    packet: &mut P,
    tables: &T,
    at: (Origin, u32),
    parsed: &mut Parsed<A>,
) -> Result<(), DropReason> {
    *parsed = parse(packet, tables, at, |_| true).map_err(DropReason::from)?;
    Ok(())
}

#[inline(always)]
fn layer4<A: Header, P: Packet>(packet: &P, parsed: &mut Parsed<A>) -> Result<(), ParseError> {
    match parsed.key.proto {
        proto::TCP => {
            let h: [Be32; 4] = packet.load_words_at(parsed.l4, L3 + A::HEADER).ok_or(ParseError::Truncated)?;
            parsed.layer4 = Layer4::Tcp;
            parsed.tcp_flags = h[3].byte(1);
            parsed.seq = (h[1].get() >> 16) as u16;
            set_ports(parsed, h[0]);
        }
        proto::UDP | proto::SCTP => {
            let h: [Be32; 2] = packet.load_words_at(parsed.l4, L3 + A::HEADER).ok_or(ParseError::Truncated)?;
            parsed.layer4 = if parsed.key.proto == proto::UDP { Layer4::Udp } else { Layer4::Sctp };
            set_ports(parsed, h[0]);
        }
        proto::ICMP | proto::ICMP6 => {
            let h: [Be32; 2] = packet.load_words_at(parsed.l4, L3 + A::HEADER).ok_or(ParseError::Truncated)?;
            if icmp_is_error(parsed.key.proto, h[0].byte(0)) {
                parsed.layer4 = Layer4::IcmpError;
            } else {
                parsed.layer4 = Layer4::Icmp;
                let id = (h[1].get() >> 16) as u16;
                // Echo request and reply carry one identifier, which serves as both ports.
                (parsed.key.sport, parsed.key.dport) = (id, id);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Returns true for the type of an ICMP error. RFC 792: unreachable, source quench, redirect, time
/// exceeded, parameter problem. RFC 4443, section 2.1: types below 128.
#[inline(always)]
const fn icmp_is_error(protocol: u8, icmp_type: u8) -> bool {
    if protocol == proto::ICMP6 { icmp_type < 128 } else { matches!(icmp_type, 3 | 4 | 5 | 11 | 12) }
}

#[inline(always)]
fn set_ports<A>(parsed: &mut Parsed<A>, word: Be32) {
    parsed.key.sport = (word.get() >> 16) as u16;
    parsed.key.dport = word.get() as u16;
}

impl Header for V4 {
    #[inline(always)]
    fn payload<P: Packet>(packet: &P) -> Option<u32> {
        Some((packet.load_u16(L3 + 2)?.get() as u32).wrapping_sub(20))
    }

    #[inline(always)]
    fn ip<P: Packet>(packet: &P) -> Result<Ip<Self>, ParseError> {
        let h: [Be32; 5] = packet.load_words(L3).ok_or(ParseError::Truncated)?;
        let first = h[0].byte(0);
        let length = (first & 0xf) as usize * 4;
        if first >> 4 != 4 || length < 20 {
            return Err(ParseError::BadHeader);
        }
        let fragment = h[1].get();
        Ok(Ip {
            length: h[0].get() & 0xffff,
            src: Self::from_word(h[3].0),
            dst: Self::from_word(h[4].0),
            proto: h[2].byte(1),
            l4: L3 + length,
            fragment: match (fragment & 0x2000 != 0, fragment & 0x1fff) {
                (false, 0) => Fragment::Whole,
                (true, 0) => Fragment::First,
                _ => Fragment::Later,
            },
            fragment_id: fragment >> 16,
            hop: h[2],
        })
    }
}

impl Header for V6 {
    #[inline(always)]
    fn payload<P: Packet>(packet: &P) -> Option<u32> {
        packet.load_u16(L3 + 4).map(|bytes| bytes.get() as u32)
    }

    #[inline(always)]
    fn ip<P: Packet>(packet: &P) -> Result<Ip<Self>, ParseError> {
        let h: [Be32; 10] = packet.load_words(L3).ok_or(ParseError::Truncated)?;
        if h[0].byte(0) >> 4 != 6 {
            return Err(ParseError::BadHeader);
        }
        let mut ip = Ip {
            length: 40 + (h[1].get() >> 16),
            src: Self::from_words([h[2].0, h[3].0, h[4].0, h[5].0]),
            dst: Self::from_words([h[6].0, h[7].0, h[8].0, h[9].0]),
            proto: h[1].byte(2),
            l4: L3 + 40,
            fragment: Fragment::Whole,
            fragment_id: 0,
            hop: h[1],
        };
        // A constant bound, so that the verifier sees the loop end.
        for _ in 0..MAX_EXTENSIONS {
            // Length in units beyond the first (RFC 8200, section 4; RFC 4302, section 2.2 for the
            // authentication header).
            let (unit, extra) = match ip.proto {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY => (8, 1),
                AUTHENTICATION => (4, 2),
                FRAGMENT => (0, 0),
                _ => return Ok(ip),
            };
            // By a helper: this offset is variable in every iteration.
            let e: [Be32; 2] = packet.load_words_via_helper(ip.l4).ok_or(ParseError::Truncated)?;
            let fragment = ip.proto == FRAGMENT;
            ip.proto = e[0].byte(0);
            if fragment {
                ip.l4 += 8;
                // An atomic fragment (RFC 6946) is a whole packet.
                match (e[0].get() & 0xfff8, e[0].get() & 1) {
                    (0, 0) => {}
                    (0, _) => ip.fragment = Fragment::First,
                    _ => {
                        ip.fragment = Fragment::Later;
                        ip.fragment_id = e[1].0;
                        return Ok(ip);
                    }
                }
                ip.fragment_id = e[1].0;
            } else {
                ip.l4 += (e[0].byte(1) as usize + extra) * unit;
            }
        }
        Err(ParseError::BadHeader)
    }
}
