//! ICMP errors about a translated packet: they carry that packet inside, and mean nothing to its sender unless both are translated
//! back (RFC 5508, section 4; RFC 4443, section 2.4).
//!
//! The packet inside was going one way; the error goes the other way, and so does the flow whose key is the inside turned round. That
//! flow's translation is applied to the outside as to any of its packets, and turned round to the inside.

use crate::maps::FlowMap;
use crate::packet::access::{L3, Packet};
use crate::packet::family::{Family, Inside};
use crate::packet::parse::Parsed;
use crate::path::forward::egress_verdict;
use crate::types::event::DropReason;
use crate::types::flow::{Flow, FlowKey, flow_flags};
use crate::types::service::proto;
use crate::types::stage::Origin;
use crate::verdict::Verdict;
use crate::wire::byte_order::Be32;
use crate::wire::checksum::{self, ChecksumChange};

/// Bytes of an ICMP header before the packet inside.
const HEADER: usize = 8;

/// Translates an error and sends it on, if it is about a packet of a flow that comes in here.
///
/// Rare: every access goes through helpers. [`Verdict::TRANSLATE`]: nothing is done.
#[inline(always)]
pub fn translate_error<A: Family, P: Packet, F: FlowMap<A>>(
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
    if count_hop && A::hop_limit(parsed.hop) < 2 {
        return Verdict::PASS;
    }
    // an error of the far end itself is shown as the frontend's; one of a router on the way keeps its sender
    let src = if parsed.key.src == back.src { &flow.src } else { &parsed.key.src };
    match translate(packet, parsed, &back, at + length, flow, src, count_hop) {
        Some(()) if host => Verdict::PASS,
        Some(()) => egress_verdict(flow),
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
    let outer = <A as crate::packet::family::Rewrite>::store(packet, parsed, *src, flow.dst, count_hop)?;
    let inner = <A as Inside>::store(packet, parsed.l4 + HEADER, back, flow.dst, flow.src)?;
    let (at, low) = match back.proto {
        // the identifier of an echo, before its sequence number
        proto::ICMP | proto::ICMP6 => {
            (ports_at + 4, packet.load_words_via_helper::<1>(ports_at + 4)?[0].get() & 0xffff)
        }
        _ => (ports_at, flow.sport as u32),
    };
    let [before] = packet.load_words_via_helper::<1>(at)?;
    let after = Be32::new((flow.dport as u32) << 16 | low);
    packet.store_word_via_helper(at, after)?;
    let inner = checksum::add(inner, checksum::difference(before.0, after.0));
    // only ICMPv6 has a pseudo header in its checksum
    let addresses = if A::V6 { outer } else { 0 };
    let change = ChecksumChange { addresses, ports: inner, v6: A::V6, udp: false, pseudo: 0 };
    packet.correct_checksum(parsed.l4 + 2, L3 + A::HEADER + 2, change)
}
