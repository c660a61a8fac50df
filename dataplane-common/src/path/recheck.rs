//! A packet of a flow that network policy decides about again
//! ([`crate::types::stage::Stage::Recheck`]).
//!
//! The agent raises the epoch when a rule takes a permission away. Every flow of an earlier epoch
//! comes here at its next packet, in whichever direction it goes. The connection is judged as its
//! opener's. If it keeps the permission, both halves of the pair get the present epoch; otherwise
//! the pair is removed and the packet is dropped. A SYN in the direction of the replies opens
//! another connection with the same ports, and is judged as its sender's.

use crate::maps::{FamilyMaps, FlowMap, SharedMaps};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{Parsed, parse};
use crate::packet::rewrite::translate;
use crate::path::conntrack::{device, touch};
use crate::path::flow_pair::remove_pair;
use crate::path::forward::{forward, via_sctp_stage};
use crate::policy::{Connection, epoch, refusal};
use crate::types::event::DropReason;
use crate::types::flow::{Flow, FlowKey, flow_flags};
use crate::types::pod::DEVICE_BITS;
use crate::types::stage::Origin;
use crate::verdict::Verdict;

/// Runs [`crate::types::stage::Stage::Recheck`] for a packet at the hook where its flow was found.
#[inline(always)]
pub fn recheck<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T, origin: Origin, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let mut parsed: Parsed<A> = match parse(packet, tables, (origin, ifindex), |_| true) {
        Ok(parsed) => parsed,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    if let Err(reject) = parsed.scrub_verifier_state(packet) {
        return Verdict::drop(reject.into());
    }
    let epoch = epoch(tables);
    let refused = packet.scrub_verifier_state(judge_again(flows, tables, &parsed, epoch));
    if refused != 0 {
        return Verdict::refused(refused);
    }
    let Some(flow) = flows.get(&parsed.key) else { return Verdict::drop(DropReason::NoFlow) };
    touch(flow, &parsed, tables.now(), tables);
    if !matches!(origin, Origin::Host) {
        return forward::<false, _, _, _>(packet, tables, &parsed, flow);
    }
    if translate::<false, _, _>(packet, &parsed, flow, false).is_none() {
        return Verdict::drop(DropReason::Rewrite);
    }
    via_sctp_stage(&parsed, Verdict::PASS)
}

/// Judges the connection of a flow, and stamps or removes its pair. Returns [`Verdict::refusal`].
///
/// Not inlined, so that its frame is free again when the packet is translated.
#[inline(never)]
pub(super) fn judge_again<A, F, T>(flows: &mut F, tables: &T, parsed: &Parsed<A>, epoch: u32) -> u32
where
    A: Family,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let Some(flow) = flows.get(&parsed.key) else { return 0 };
    let other = flow.reverse_key(&parsed.key);
    let connection = connection_of(tables, parsed, flow);
    let refused = Verdict::refusal(refusal(tables, &connection));
    if refused == 0 {
        stamp(flows, &parsed.key, epoch);
        if flows.get(&other).is_some_and(|flow| flow.is_reverse_of(&parsed.key)) {
            stamp(flows, &other, epoch);
        }
    } else if !parsed.is_syn() {
        // A refused SYN says nothing about the connection that has these ports.
        remove_pair(flows, &other, &parsed.key);
    }
    refused
}

#[inline(always)]
fn stamp<A: Family, F: FlowMap<A>>(flows: &mut F, key: &FlowKey<A>, epoch: u32) {
    if let Some(flow) = flows.get(key) {
        flow.epoch = epoch;
    }
}

/// Returns a flow's connection as the rules of its ends see it.
#[inline(always)]
fn connection_of<'a, A: Family, T: SharedMaps>(
    tables: &T,
    parsed: &'a Parsed<A>,
    flow: &'a Flow<A>,
) -> Connection<'a, A> {
    let (proto, from_node) = (parsed.key.proto, flow.flags & flow_flags::FROM_NODE != 0);
    let (sender_pod, into) = (pod_of(tables, flow.iif), flow.oif);
    let receiver_pod = if flow.flags & flow_flags::TO_POD != 0 { pod_of(tables, into) } else { 0 };
    if flow.flags & flow_flags::REPLY != 0 && !parsed.is_syn() {
        // The translated destination is the client's own address, the untranslated source the
        // backend's.
        let (client, server, port) = (&flow.dst, &parsed.key.src, parsed.key.sport);
        Connection { client, server, proto, port, client_pod: receiver_pod, server_pod: sender_pod, from_node }
    } else {
        let (client, server, port) = (&parsed.key.src, &flow.dst, flow.dport);
        Connection { client, server, proto, port, client_pod: sender_pod, server_pod: receiver_pod, from_node }
    }
}

/// Returns the interface index of the pod of a flow's device; 0 if the pod is gone, or if it is no
/// pod's.
#[inline(always)]
fn pod_of<T: SharedMaps>(tables: &T, recorded: u32) -> u32 {
    let ifindex = recorded << (u32::BITS - DEVICE_BITS) >> (u32::BITS - DEVICE_BITS);
    if device(tables, ifindex) == recorded { ifindex } else { 0 }
}
