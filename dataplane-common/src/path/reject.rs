//! Rejection: the packet is rewritten into the answer to its sender.
//!
//! TCP gets a reset (RFC 9293, section 3.10.7.1), everything else "port unreachable" (RFC 1122,
//! section 3.2.2.1; RFC 4443, section 3.1). A packet larger than the MTU gets "fragmentation
//! needed" or "packet too big" (RFC 1191, RFC 8201). The answer comes from the address that the
//! client used. Errors, resets, later fragments, and packets with IP options or extension headers
//! get none.
//!
//! An ICMP error quotes eight bytes behind the IP header. For SCTP it quotes twenty if the packet
//! has that many: the verification tag of a packet that opens an association is zero, so the sender
//! recognizes the packet by the tag in the first chunk (RFC 9260, section 10).

use crate::maps::FamilyMaps;
use crate::packet::access::{L3, Packet};
use crate::packet::family::Family;
use crate::packet::parse::{ACK, FIN, Layer4, Parsed, RST, SYN, parse};
use crate::types::address::{Address as _, V4, V6};
use crate::types::answer_budget::AnswerKind;
use crate::types::event::{Counter, DropReason};
use crate::types::service::proto;
use crate::types::stage::Origin;
use crate::verdict::Verdict;
use crate::wire::byte_order::{Be16, Be32};
use crate::wire::checksum;

/// Runs [`crate::types::stage::Stage::Reject`]; `verdict` gives the reason. A packet that cannot be
/// answered stays a drop.
#[inline(always)]
pub fn reject<A, P, T>(packet: &mut P, tables: &T, verdict: Verdict) -> Verdict
where
    A: Family + Reply,
    P: Packet,
    T: FamilyMaps<A>,
{
    // A later fragment has no header that could be answered, whatever its ports.
    let Ok(parsed) = parse::<A, P, T>(packet, tables, (Origin::Host, 0), |_| true) else { return verdict };
    // Fixed offsets from here on. An answer to a multicast or unspecified source is forbidden
    // (RFC 1122, section 3.2.2).
    if parsed.l4 != L3 + A::HEADER || parsed.key.src.is_unspecified() || parsed.key.src.is_host_only() {
        return verdict;
    }
    let too_big = verdict.reason() == DropReason::TooBig as u32;
    if !tables.take_answer(if too_big { AnswerKind::TooBig } else { AnswerKind::Refused }) {
        return verdict;
    }
    let answered = match parsed.layer4 {
        Layer4::Tcp if !too_big => reset(packet, &parsed),
        Layer4::Tcp | Layer4::Udp | Layer4::Sctp | Layer4::Icmp => {
            let chunk = parsed.layer4 == Layer4::Sctp && packet.size() >= (L3 + A::HEADER + SCTP_QUOTED) as u32;
            A::unreachable(packet, &parsed, if too_big { verdict.mtu() } else { 0 }, chunk)
        }
        Layer4::IcmpError | Layer4::Opaque => None,
    };
    if answered.is_none() || swap_macs(packet).is_none() {
        return verdict;
    }
    tables.count(Counter::PacketRejected);
    verdict.reply()
}

/// Bytes of SCTP to quote: common header (12), header of the first chunk (4), its tag (4).
const SCTP_QUOTED: usize = 20;

/// Answers of an address family.
pub trait Reply: crate::packet::parse::Header {
    /// Writes the IP header of an answer to `parsed` with `bytes` of payload of protocol `proto`.
    /// Returns the sum of its pseudo header.
    fn reply_header<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, proto: u8, bytes: u32) -> Option<u32>;
    /// Rewrites the packet into an ICMP error about itself: "too big" if `mtu` (bytes) is not 0,
    /// else "port unreachable". `chunk`: quote the first chunk of SCTP too.
    fn unreachable<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, mtu: u32, chunk: bool) -> Option<()>;
}

#[inline(always)]
fn swap_macs<P: Packet>(packet: &mut P) -> Option<()> {
    let [a, b, c] = packet.load_words::<3>(0)?;
    // Twelve bytes as three words, rotated by six bytes.
    let (a, b, c) = (a.get(), b.get(), c.get());
    let swapped = [b << 16 | c >> 16, c << 16 | a >> 16, a << 16 | b >> 16];
    packet.store_words(0, &swapped.map(Be32::new))
}

#[inline(always)]
fn sum<const N: usize>(mut sum: u32, words: &[Be32; N]) -> u32 {
    for word in words {
        sum = checksum::add(sum, word.0);
    }
    sum
}

/// Returns the checksum field for a sum, in CPU order.
#[inline(always)]
fn field(sum: u32) -> u32 {
    Be16(!checksum::fold(sum)).get() as u32
}

#[inline(always)]
fn reset<A: Family + Reply, P: Packet>(packet: &mut P, parsed: &Parsed<A>) -> Option<()> {
    if parsed.tcp_flags & RST != 0 {
        return None;
    }
    // RFC 9293, section 3.10.7.1: with ACK, the reset has SEG.ACK as its sequence number; otherwise
    // it acknowledges the segment, whose SYN and FIN count as one byte each.
    let h: [Be32; 4] = packet.load_words_via_helper(parsed.l4)?;
    let (seq, ack, offset) = (h[1].get(), h[2].get(), (h[3].byte(0) >> 4) as u32 * 4);
    // Modulo 2^32, like sequence numbers: the offset may lie about the length of the header.
    let length = (A::payload(packet)?.wrapping_sub(offset))
        .wrapping_add(u32::from(parsed.tcp_flags & SYN != 0))
        .wrapping_add(u32::from(parsed.tcp_flags & FIN != 0));
    let (seq, ack, flags) =
        if parsed.tcp_flags & ACK != 0 { (ack, 0, RST) } else { (0, seq.wrapping_add(length), RST | ACK) };
    // A reset has no payload and no options; every TCP header has room for it.
    packet.truncate((parsed.l4 + 20) as u32)?;
    let pseudo = A::reply_header(packet, parsed, proto::TCP, 20)?;
    let ports = Be32::new((parsed.key.dport as u32) << 16 | parsed.key.sport as u32);
    let words = [ports, Be32::new(seq), Be32::new(ack), Be32::new(0x5000_0000 | (flags as u32) << 16), Be32(0)];
    let last = Be32::new(field(sum(pseudo, &words)) << 16);
    for (i, word) in words.iter().enumerate() {
        packet.store_word_via_helper(parsed.l4 + i * 4, if i == 4 { last } else { *word })?;
    }
    Some(())
}

impl Reply for V4 {
    #[inline(always)]
    fn reply_header<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, proto: u8, bytes: u32) -> Option<u32> {
        let (src, dst) = (Be32(parsed.key.dst.word()), Be32(parsed.key.src.word()));
        let start =
            [Be32::new(0x4500_0000 | (20 + bytes)), Be32::new(0x4000), Be32::new(64 << 24 | (proto as u32) << 16)];
        let addresses = checksum::add(parsed.key.src.sum(), parsed.key.dst.sum());
        let checksum = field(sum(addresses, &start));
        let third = Be32::new(start[2].get() | checksum);
        packet.store_words(L3, &[start[0], start[1], third, src, dst])?;
        Some(checksum::pseudo(addresses, proto, bytes))
    }

    #[inline(always)]
    fn unreachable<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, mtu: u32, chunk: bool) -> Option<()> {
        // The length is a constant of each variant, because the verifier takes only bounded
        // accesses: 20 bytes of IP header and 8 or 20 behind it.
        if chunk { unreachable4::<P, 10>(packet, parsed, mtu) } else { unreachable4::<P, 7>(packet, parsed, mtu) }
    }
}

/// Builds the ICMP error, quoting `N` words of the packet.
#[inline(always)]
fn unreachable4<P: Packet, const N: usize>(packet: &mut P, parsed: &Parsed<V4>, mtu: u32) -> Option<()> {
    let quoted: [Be32; N] = packet.load_words(L3)?;
    packet.truncate((L3 + N * 4) as u32)?;
    // Room for an IP header (20) and an ICMP header (8) before the quotation.
    packet.grow_header(28)?;
    V4::reply_header(packet, parsed, proto::ICMP, (8 + N * 4) as u32)?;
    // RFC 792: port unreachable; RFC 1191: fragmentation needed, with the MTU.
    let first = if mtu == 0 { 0x0303_0000 } else { 0x0304_0000 };
    let second = Be32::new(mtu & 0xffff);
    let checksum = field(sum(sum(0, &[Be32::new(first), second]), &quoted));
    packet.store_words(L3 + 20, &[Be32::new(first | checksum), second])
}

impl Reply for V6 {
    #[inline(always)]
    fn reply_header<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, proto: u8, bytes: u32) -> Option<u32> {
        let (src, dst) = (parsed.key.dst.words().map(Be32), parsed.key.src.words().map(Be32));
        packet.store_words(L3, &[Be32::new(0x6000_0000), Be32::new(bytes << 16 | (proto as u32) << 8 | 64)])?;
        packet.store_words(L3 + 8, &src)?;
        packet.store_words(L3 + 24, &dst)?;
        let addresses = checksum::add(parsed.key.src.sum(), parsed.key.dst.sum());
        Some(checksum::pseudo(addresses, proto, bytes))
    }

    #[inline(always)]
    fn unreachable<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, mtu: u32, chunk: bool) -> Option<()> {
        // 40 bytes of IP header and 8 or 20 behind it.
        if chunk { unreachable6::<P, 15>(packet, parsed, mtu) } else { unreachable6::<P, 12>(packet, parsed, mtu) }
    }
}

/// Builds the `ICMPv6` error, quoting `N` words of the packet.
#[inline(always)]
fn unreachable6<P: Packet, const N: usize>(packet: &mut P, parsed: &Parsed<V6>, mtu: u32) -> Option<()> {
    let quoted: [Be32; N] = packet.load_words(L3)?;
    packet.truncate((L3 + N * 4) as u32)?;
    // Room for an IP header (40) and an ICMP header (8) before the quotation.
    packet.grow_header(48)?;
    let pseudo = V6::reply_header(packet, parsed, proto::ICMP6, (8 + N * 4) as u32)?;
    // RFC 4443: port unreachable (3.1), packet too big (3.2).
    let first = if mtu == 0 { 0x0104_0000 } else { 0x0200_0000 };
    let second = Be32::new(mtu);
    let checksum = field(sum(sum(pseudo, &[Be32::new(first), second]), &quoted));
    packet.store_words(L3 + 40, &[Be32::new(first | checksum), second])
}
