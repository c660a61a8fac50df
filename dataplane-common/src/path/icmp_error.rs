//! ICMP errors about translated packets: the quoted packet and the error are translated back.
//!
//! A sender recognizes an error by the packet that it quotes, so both must show the sender's own
//! tuple (RFC 5508, section 4; RFC 4443, section 2.4). The error runs in the direction opposite to
//! the quoted packet, and the flow whose key is the quoted tuple reversed is the one of that
//! direction. Its translation applies to the outer header as to any of its packets, and reversed to
//! the quoted packet.

use crate::maps::{FlowMap, SharedMaps};
use crate::packet::access::{L3, Packet};
use crate::packet::family::{Family, Inside};
use crate::packet::parse::Parsed;
use crate::path::conntrack::{arrival, is_pod_present};
use crate::path::forward::egress_verdict;
use crate::types::event::DropReason;
use crate::types::flow::{Flow, FlowKey, flow_flags};
use crate::types::service::proto;
use crate::types::stage::Origin;
use crate::verdict::Verdict;
use crate::wire::byte_order::Be32;
use crate::wire::checksum::{self, ChecksumChange};

/// Length of an ICMP header, bytes; the quoted packet follows it.
const HEADER: usize = 8;

/// Translates an error about a packet of a flow, and returns where the error goes.
///
/// [`Verdict::TRANSLATE`] means that no flow matches and nothing was changed. Errors are rare, so
/// all accesses use helpers, which keeps packet pointers and verifier states few.
#[inline(always)]
pub fn translate_error<A: Family, P: Packet, F: FlowMap<A>, T: SharedMaps>(
    packet: &mut P,
    flows: &mut F,
    tables: &T,
    parsed: &Parsed<A>,
    origin: Origin,
    ifindex: u32,
) -> Verdict {
    let at = parsed.l4 + HEADER;
    let mut back = FlowKey { src: A::UNSPECIFIED, dst: A::UNSPECIFIED, sport: 0, dport: 0, proto: 0, pad: [0; 3] };
    // A plain number: the payload of an `Option` must not live across the branches that follow.
    let length = A::read(packet, at, &mut back).unwrap_or(0);
    if length == 0 {
        return Verdict::TRANSLATE;
    }
    let Some(flow) = flows.get(&back) else { return Verdict::TRANSLATE };
    let host = matches!(origin, Origin::Host);
    // The error must arrive by the interface of the flow's packets, as they must themselves.
    let is_of_flow = flow.iif == arrival(tables, origin, ifindex) && is_pod_present(flow, tables);
    if !is_of_flow || (host && flow.flags & flow_flags::REPLY == 0) {
        return Verdict::TRANSLATE;
    }
    let count_hop = flow.oif != 0 && !host;
    if count_hop && A::hop_limit(parsed.hop) < 2 {
        return Verdict::PASS;
    }
    // An error of the backend itself appears to come from the frontend. A router on the way keeps
    // its address.
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
        // The identifier of an echo, which precedes its sequence number.
        proto::ICMP | proto::ICMP6 => {
            (ports_at + 4, packet.load_words_via_helper::<1>(ports_at + 4)?[0].get() & 0xffff)
        }
        _ => (ports_at, flow.sport as u32),
    };
    let [before] = packet.load_words_via_helper::<1>(at)?;
    let after = Be32::new((flow.dport as u32) << 16 | low);
    packet.store_word_via_helper(at, after)?;
    // The error's checksum covers the quoted packet.
    let inner = checksum::add(inner, checksum::difference(before.0, after.0));
    // Only ICMPv6 has a pseudo header under its checksum.
    let addresses = if A::V6 { outer } else { 0 };
    let change = ChecksumChange { addresses, ports: inner, v6: A::V6, udp: false, pseudo: 0 };
    packet.correct_checksum(parsed.l4 + 2, L3 + A::HEADER + 2, change)
}
