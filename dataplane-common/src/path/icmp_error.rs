//! ICMP errors about a translated packet: they carry that packet inside, and mean nothing to its sender unless both are translated
//! back (RFC 5508, section 4; RFC 4443, section 2.4).
//!
//! The packet inside was going one way; the error goes the other way, and so does the flow whose key is the inside turned round. That
//! flow's translation is applied to the outside as to any of its packets, and turned round to the inside.

use crate::packet::access::{Flows, L3, Packet};
use crate::packet::parse::Parsed;
use crate::packet::rewrite::Family;
use crate::path::forward::end;
use crate::types::address::{Address, Be16, Be32, V4, V6};
use crate::types::event::DropReason;
use crate::types::flow::{Flow, FlowKey, flow_flags};
use crate::types::service::proto;
use crate::verdict::{Origin, Verdict};
use crate::wire::checksum::{self, Change};

/// Bytes of an ICMP header before the packet inside.
const HEADER: usize = 8;

/// How an address family lies inside an error.
pub trait Inside: Address {
    /// Reads the tuple of the packet at `at`, turned round, and returns the length of its IP header; none if it has no ports.
    fn read<P: Packet>(packet: &P, at: usize, back: &mut FlowKey<Self>) -> Option<usize>;
    /// Replaces its addresses; returns by how much the sum of its IP header changes.
    #[must_use]
    fn store<P: Packet>(packet: &mut P, at: usize, back: &FlowKey<Self>, src: Self, dst: Self) -> Option<u32>;
}

/// Translates an error and sends it on, if it is about a packet of a flow that comes in here.
///
/// Rare: every access goes through helpers. [`Verdict::TRANSLATE`]: nothing is done.
#[inline(always)]
pub fn error<A: Family, P: Packet, F: Flows<A>>(
    packet: &mut P,
    flows: &mut F,
    parsed: &Parsed<A>,
    origin: Origin,
    ifindex: u32,
) -> Verdict {
    let at = parsed.l4 + HEADER;
    let mut back = FlowKey { src: A::UNSPECIFIED, dst: A::UNSPECIFIED, sport: 0, dport: 0, proto: 0, pad: [0; 3] };
    let length = A::read(packet, at, &mut back).unwrap_or(0);
    if length == 0 {
        return Verdict::TRANSLATE;
    }
    let Some(flow) = flows.get(&back) else { return Verdict::TRANSLATE };
    let host = matches!(origin, Origin::Host);
    if flow.iif != origin.iif(ifindex) || (host && flow.flags & flow_flags::REPLY == 0) {
        return Verdict::TRANSLATE;
    }
    let count_hop = flow.oif != 0 && !host;
    if count_hop && A::hops(parsed.hop) < 2 {
        return Verdict::PASS;
    }
    // an error of the far end itself is shown as the frontend's; one of a router on the way keeps its sender
    let src = if parsed.key.src == back.src { &flow.src } else { &parsed.key.src };
    match translate(packet, parsed, &back, at + length, flow, src, count_hop) {
        Some(()) if host => Verdict::PASS,
        Some(()) => end(flow),
        None => Verdict::drop(DropReason::Rewrite),
    }
}

#[inline(always)]
fn translate<A: Family, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    back: &FlowKey<A>,
    ports_at: usize,
    flow: &Flow<A>,
    src: &A,
    count_hop: bool,
) -> Option<()> {
    let outer = <A as crate::packet::rewrite::Rewrite>::store(packet, parsed, *src, flow.dst, count_hop)?;
    let inner = <A as Inside>::store(packet, parsed.l4 + HEADER, back, flow.dst, flow.src)?;
    let (at, low) = match back.proto {
        // the identifier of an echo, before its sequence number
        proto::ICMP | proto::ICMP6 => (ports_at + 4, packet.words_far::<1>(ports_at + 4)?[0].get() & 0xffff),
        _ => (ports_at, flow.sport as u32),
    };
    let [before] = packet.words_far::<1>(at)?;
    let after = Be32::new((flow.dport as u32) << 16 | low);
    packet.store_word_far(at, after)?;
    let inner = checksum::add(inner, checksum::difference(before.0, after.0));
    // only ICMPv6 has a pseudo header in its checksum
    let addresses = if A::V6 { outer } else { 0 };
    let change = Change { addresses, ports: inner, v6: A::V6, udp: false, pseudo: 0 };
    packet.correct_checksum(parsed.l4 + 2, L3 + A::HEADER + 2, change)
}

#[inline(always)]
fn ports<P: Packet, A>(packet: &P, at: usize, back: &mut FlowKey<A>) -> Option<()> {
    let [first, second] = packet.words_far(at)?;
    let (high, low) = ((first.get() >> 16) as u16, first.get() as u16);
    (back.dport, back.sport) = match (back.proto, first.byte(0)) {
        (proto::TCP | proto::UDP | proto::SCTP, _) => (high, low),
        (proto::ICMP, 0 | 8) | (proto::ICMP6, 128 | 129) => {
            let id = (second.get() >> 16) as u16;
            (id, id)
        }
        _ => return None,
    };
    Some(())
}

impl Inside for V4 {
    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: usize, back: &mut FlowKey<Self>) -> Option<usize> {
        let h: [Be32; 5] = packet.words_far(at)?;
        let length = (h[0].byte(0) & 0xf) as usize * 4;
        // a later fragment has no ports
        if h[0].byte(0) >> 4 != 4 || length < 20 || h[1].get() & 0x1fff != 0 {
            return None;
        }
        (back.dst, back.src, back.proto) = (Self::from_word(h[3].0), Self::from_word(h[4].0), h[2].byte(1));
        ports(packet, at + length, back)?;
        Some(length)
    }

    #[inline(always)]
    fn store<P: Packet>(packet: &mut P, at: usize, back: &FlowKey<Self>, src: Self, dst: Self) -> Option<u32> {
        let addresses = checksum::difference(back.dst.word(), src.word());
        let addresses = checksum::add(addresses, checksum::difference(back.src.word(), dst.word()));
        let [word] = packet.words_far::<1>(at + 8)?;
        let sum = checksum::apply(Be16::new(word.get() as u16), addresses);
        packet.store_word_far(at + 8, Be32::new(word.get() & 0xffff_0000 | sum.get() as u32))?;
        packet.store_word_far(at + 12, Be32(src.word()))?;
        packet.store_word_far(at + 16, Be32(dst.word()))?;
        // the header's own checksum balances its addresses
        Some(0)
    }
}

impl Inside for V6 {
    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: usize, back: &mut FlowKey<Self>) -> Option<usize> {
        let [first, second] = packet.words_far::<2>(at)?;
        if first.byte(0) >> 4 != 6 {
            return None;
        }
        back.proto = second.byte(2);
        back.dst = address6(packet, at + 8)?;
        back.src = address6(packet, at + 24)?;
        ports(packet, at + 40, back)?;
        Some(40)
    }

    #[inline(always)]
    fn store<P: Packet>(packet: &mut P, at: usize, back: &FlowKey<Self>, src: Self, dst: Self) -> Option<u32> {
        let src = replace6(packet, at + 8, back.dst, src)?;
        Some(checksum::add(src, replace6(packet, at + 24, back.src, dst)?))
    }
}

#[inline(always)]
fn address6<P: Packet>(packet: &P, at: usize) -> Option<V6> {
    packet.words_far::<4>(at).map(|w| V6::from_words([w[0].0, w[1].0, w[2].0, w[3].0]))
}

#[inline(always)]
fn replace6<P: Packet>(packet: &mut P, at: usize, from: V6, to: V6) -> Option<u32> {
    let (from, to) = (from.words(), to.words());
    let mut difference = 0;
    for i in 0..4 {
        packet.store_word_far(at + i * 4, Be32(to[i]))?;
        difference = checksum::add(difference, checksum::difference(from[i], to[i]));
    }
    Some(difference)
}
