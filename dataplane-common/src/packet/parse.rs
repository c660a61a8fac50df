//! Ethernet, IPv4 with options, IPv6 with extension headers, fragments, and the ports behind them.

use crate::maps::FamilyMaps;
use crate::packet::access::{L3, Packet};
use crate::types::address::{Address, V4, V6};
use crate::types::event::ParseError;
use crate::types::flow::{FlowKey, FragmentKey, Ports};
use crate::types::service::proto;
use crate::wire::byte_order::{Be16, Be32};

/// The largest offset of an L4 header that is looked at.
const MAX_L4: u32 = 1023;
/// How many IPv6 extension headers are walked.
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
/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flag RST.
pub const RST: u8 = 0x04;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;

/// What follows the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Layer4 {
    /// A TCP header.
    Tcp,
    /// A UDP header.
    Udp,
    /// An SCTP header.
    Sctp,
    /// An ICMP or `ICMPv6` header that is no error.
    Icmp,
    /// An ICMP or `ICMPv6` error, with the packet that caused it inside.
    IcmpError,
    /// Another protocol, or no header at all (a later fragment).
    Opaque,
}

/// A classified packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed<A> {
    /// The tuple; ports are zero where there are none.
    pub key: FlowKey<A>,
    /// Offset of the L4 header.
    pub l4: usize,
    /// What is there.
    pub layer4: Layer4,
    /// TCP flags; 0 for others.
    pub tcp_flags: u8,
    /// ICMP type; 0 for others.
    pub icmp_type: u8,
    /// The word of the IP header that has the hop limit, as it stands in the packet.
    pub hop: Be32,
}

impl<A> Parsed<A> {
    /// The same, without what the verifier knows of how it came about: of the many ways through the parser, one goes on.
    ///
    /// # Errors
    /// None on the host; the verifier wants the bound of the offset anew.
    #[inline(always)]
    pub fn scrub_verifier_state<P: Packet>(&mut self, packet: &mut P) -> Result<(), ParseError> {
        const TCP: u32 = Layer4::Tcp as u32;
        const UDP: u32 = Layer4::Udp as u32;
        const SCTP: u32 = Layer4::Sctp as u32;
        const ICMP: u32 = Layer4::Icmp as u32;
        const ICMP_ERROR: u32 = Layer4::IcmpError as u32;
        let kinds = (self.key.proto as u32) << 24
            | (self.tcp_flags as u32) << 16
            | (self.icmp_type as u32) << 8
            | self.layer4 as u32;
        let kinds = packet.scrub_verifier_state(kinds);
        (self.key.proto, self.tcp_flags, self.icmp_type) =
            ((kinds >> 24) as u8, (kinds >> 16) as u8, (kinds >> 8) as u8);
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

    /// Whether this opens a TCP connection.
    #[inline(always)]
    #[must_use]
    pub fn is_syn(&self) -> bool {
        self.tcp_flags & (SYN | ACK | RST) == SYN
    }

    /// Whether this is a TCP segment that opens no connection.
    #[inline(always)]
    #[must_use]
    pub fn is_tcp_midflow(&self) -> bool {
        matches!(self.layer4, Layer4::Tcp) && !self.is_syn()
    }
}

/// `EtherType` (IEEE 802) of the packet.
#[inline(always)]
pub fn ether_type<P: Packet>(packet: &P) -> Option<u16> {
    packet.load_u16(12).map(Be16::get)
}

/// `EtherType` of IPv4.
pub const ETHER_IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub const ETHER_IPV6: u16 = 0x86dd;

/// A fieldless enum beside fields that are always set: the payload of an `Option` that lives across branches is spilled while
/// undefined, which the verifier refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fragment {
    Whole,
    First,
    Later,
}

/// An IP header, of either family.
pub struct Ip<A> {
    /// Bytes of the packet, headers included, as the header says.
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
    /// Whether this is not the whole packet.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        !matches!(self.fragment, Fragment::Whole)
    }

    /// Offset of what follows the header and its extensions.
    #[inline(always)]
    #[must_use]
    pub const fn l4(&self) -> u32 {
        self.l4 as u32
    }

    /// Bytes of what follows the header and its extensions. More than 65535: there is less in the packet than its headers.
    #[inline(always)]
    #[must_use]
    pub const fn payload(&self) -> u32 {
        self.length.wrapping_sub(self.l4() - L3 as u32)
    }
}

/// An address family's IP header.
pub trait Header: Address {
    /// Reads it.
    ///
    /// # Errors
    /// A header that is cut off or contradicts itself.
    fn ip<P: Packet>(packet: &P) -> Result<Ip<Self>, ParseError>;
    /// Bytes behind the IP header, extensions included, as the header has it.
    fn payload<P: Packet>(packet: &P) -> Option<u32>;
}

/// Classifies a packet of family `A`.
///
/// # Errors
/// [`ParseError`].
#[inline(always)]
pub fn parse<A: Header, P: Packet, T: FamilyMaps<A>>(packet: &mut P, tables: &T) -> Result<Parsed<A>, ParseError> {
    let ip = A::ip(packet)?;
    let l4 = packet.scrub_verifier_state(ip.l4 as u32);
    if l4 > MAX_L4 {
        return Err(ParseError::BadHeader);
    }
    let key = FlowKey { src: ip.src, dst: ip.dst, sport: 0, dport: 0, proto: ip.proto, pad: [0; 3] };
    let mut parsed = Parsed { key, l4: l4 as usize, layer4: Layer4::Opaque, tcp_flags: 0, icmp_type: 0, hop: ip.hop };
    if matches!(ip.fragment, Fragment::Whole) {
        layer4(packet, &mut parsed)?;
        return Ok(parsed);
    }
    let datagram = FragmentKey { src: ip.src, dst: ip.dst, id: ip.fragment_id, proto: ip.proto, pad: [0; 3] };
    if matches!(ip.fragment, Fragment::First) {
        layer4(packet, &mut parsed)?;
        tables.set_fragment(&datagram, &Ports { src: parsed.key.sport, dst: parsed.key.dport });
    } else {
        let ports = tables.fragment(&datagram).ok_or(ParseError::UnknownFragment)?;
        parsed.key.sport = ports.src;
        parsed.key.dport = ports.dst;
    }
    Ok(parsed)
}

#[inline(always)]
fn layer4<A: Header, P: Packet>(packet: &P, parsed: &mut Parsed<A>) -> Result<(), ParseError> {
    match parsed.key.proto {
        proto::TCP => {
            let h: [Be32; 4] = packet.load_words_at(parsed.l4, L3 + A::HEADER).ok_or(ParseError::Truncated)?;
            parsed.layer4 = Layer4::Tcp;
            parsed.tcp_flags = h[3].byte(1);
            set_ports(parsed, h[0]);
        }
        proto::UDP | proto::SCTP => {
            let h: [Be32; 2] = packet.load_words_at(parsed.l4, L3 + A::HEADER).ok_or(ParseError::Truncated)?;
            parsed.layer4 = if parsed.key.proto == proto::UDP { Layer4::Udp } else { Layer4::Sctp };
            set_ports(parsed, h[0]);
        }
        proto::ICMP | proto::ICMP6 => {
            let h: [Be32; 2] = packet.load_words_at(parsed.l4, L3 + A::HEADER).ok_or(ParseError::Truncated)?;
            parsed.icmp_type = h[0].byte(0);
            if icmp_is_error(parsed.key.proto, parsed.icmp_type) {
                parsed.layer4 = Layer4::IcmpError;
            } else {
                parsed.layer4 = Layer4::Icmp;
                let id = (h[1].get() >> 16) as u16;
                (parsed.key.sport, parsed.key.dport) = (id, id);
            }
        }
        _ => {}
    }
    Ok(())
}

/// RFC 792: unreachable, source quench, redirect, time exceeded, parameter problem. RFC 4443, section 2.1: types below 128.
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
        for _ in 0..MAX_EXTENSIONS {
            // length in units beyond the first (RFC 8200, section 4; RFC 4302, section 2.2 for the authentication header)
            let (unit, extra) = match ip.proto {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY => (8, 1),
                AUTHENTICATION => (4, 2),
                FRAGMENT => (0, 0),
                _ => return Ok(ip),
            };
            let e: [Be32; 2] = packet.load_words_via_helper(ip.l4).ok_or(ParseError::Truncated)?;
            let fragment = ip.proto == FRAGMENT;
            ip.proto = e[0].byte(0);
            if fragment {
                ip.l4 += 8;
                // an atomic fragment (RFC 6946) is whole
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
