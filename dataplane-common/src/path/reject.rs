//! Telling the sender of a packet that it goes nowhere: the packet becomes the answer.
//!
//! TCP gets a reset (RFC 9293, section 3.10.7.1), everything else "port unreachable" (RFC 1122, section 3.2.2.1; RFC 4443, section 3.1), and what
//! is too big for its way is told the size (RFC 1191, RFC 8201). The answer comes from the address that was asked for. Errors, resets, later
//! fragments and packets with IP options or extension headers are not answered.
//!
//! Eight bytes behind the IP header are quoted; of SCTP twenty, if there are so many, because what opens an association has no verification tag
//! and is known by the tag in its first chunk (RFC 9260, section 10).

use crate::maps::FamilyMaps;
use crate::packet::access::{L3, Packet};
use crate::packet::family::Family;
use crate::packet::parse::{ACK, FIN, Layer4, Parsed, RST, SYN, parse};
use crate::types::address::{Address as _, V4, V6};
use crate::types::event::{Counter, DropReason};
use crate::types::service::proto;
use crate::verdict::Verdict;
use crate::wire::byte_order::{Be16, Be32};
use crate::wire::checksum;

/// [`crate::types::stage::Stage::Reject`]: `verdict` says why. What can't be answered stays a drop.
#[inline(always)]
pub fn reject<A, P, T>(packet: &mut P, tables: &T, verdict: Verdict) -> Verdict
where
    A: Family + Reply,
    P: Packet,
    T: FamilyMaps<A>,
{
    let Ok(parsed) = parse::<A, P, T>(packet, tables) else { return verdict };
    if parsed.l4 != L3 + A::HEADER || parsed.key.src.is_unspecified() || parsed.key.src.is_host_only() {
        return verdict;
    }
    let too_big = verdict.reason() == DropReason::TooBig as u32;
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

/// Common header, header of the first chunk, its tag.
const SCTP_QUOTED: usize = 20;

/// How an address family answers.
pub trait Reply: crate::packet::parse::Header {
    /// Writes the IP header of an answer to `parsed`, with `bytes` of payload of protocol `proto`; returns the sum of its pseudo header.
    fn reply_header<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, proto: u8, bytes: u32) -> Option<u32>;
    /// Makes the packet an ICMP error about itself; `mtu` other than 0: that it is too big. `chunk`: quotes its first chunk, too.
    fn unreachable<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, mtu: u32, chunk: bool) -> Option<()>;
}

#[inline(always)]
fn swap_macs<P: Packet>(packet: &mut P) -> Option<()> {
    let [a, b, c] = packet.load_words::<3>(0)?;
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

/// The checksum field for a sum, as a 16-bit number of the wire.
#[inline(always)]
fn field(sum: u32) -> u32 {
    Be16(!checksum::fold(sum)).get() as u32
}

#[inline(always)]
fn reset<A: Family + Reply, P: Packet>(packet: &mut P, parsed: &Parsed<A>) -> Option<()> {
    if parsed.tcp_flags & RST != 0 {
        return None;
    }
    let h: [Be32; 4] = packet.load_words_via_helper(parsed.l4)?;
    let (seq, ack, offset) = (h[1].get(), h[2].get(), (h[3].byte(0) >> 4) as u32 * 4);
    let length = A::payload(packet)?.wrapping_sub(offset)
        + u32::from(parsed.tcp_flags & SYN != 0)
        + u32::from(parsed.tcp_flags & FIN != 0);
    let (seq, ack, flags) =
        if parsed.tcp_flags & ACK != 0 { (ack, 0, RST) } else { (0, seq.wrapping_add(length), RST | ACK) };
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
        if chunk { unreachable4::<P, 10>(packet, parsed, mtu) } else { unreachable4::<P, 7>(packet, parsed, mtu) }
    }
}

/// With `N` words of the packet.
#[inline(always)]
fn unreachable4<P: Packet, const N: usize>(packet: &mut P, parsed: &Parsed<V4>, mtu: u32) -> Option<()> {
    let quoted: [Be32; N] = packet.load_words(L3)?;
    packet.truncate((L3 + N * 4) as u32)?;
    packet.grow_header(28)?;
    V4::reply_header(packet, parsed, proto::ICMP, (8 + N * 4) as u32)?;
    // RFC 792
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
        if chunk { unreachable6::<P, 15>(packet, parsed, mtu) } else { unreachable6::<P, 12>(packet, parsed, mtu) }
    }
}

/// With `N` words of the packet.
#[inline(always)]
fn unreachable6<P: Packet, const N: usize>(packet: &mut P, parsed: &Parsed<V6>, mtu: u32) -> Option<()> {
    let quoted: [Be32; N] = packet.load_words(L3)?;
    packet.truncate((L3 + N * 4) as u32)?;
    packet.grow_header(48)?;
    let pseudo = V6::reply_header(packet, parsed, proto::ICMP6, (8 + N * 4) as u32)?;
    // RFC 4443
    let first = if mtu == 0 { 0x0104_0000 } else { 0x0200_0000 };
    let second = Be32::new(mtu);
    let checksum = field(sum(sum(pseudo, &[Be32::new(first), second]), &quoted));
    packet.store_words(L3 + 40, &[Be32::new(first | checksum), second])
}
