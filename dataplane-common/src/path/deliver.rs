//! A packet of the host's stack to a pod with rules: [`crate::types::stage::Stage::Deliver`].
//!
//! The node's own packets always pass: probes, port forwarding, pods in the host's network. If the
//! pod has rules for what it sends, such a connection is recorded, so that the answers pass. All
//! other packets here were forwarded by the host's stack. They pass if they belong to a connection
//! that was judged where it arrived, and are judged here otherwise.

use crate::maps::{FamilyMaps, FlowMap};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{Layer4, Parsed, RST, parse};
use crate::path::conntrack::{device, is_current, touch};
use crate::path::flow_pair::{end_pair, insert_flow_pair};
use crate::path::new_connection::{FlowTarget, keep};
use crate::path::recheck::judge_again;
use crate::policy::{Connection, epoch, is_egress_isolated, is_node, refusal};
use crate::types::flow::{Flow, flow_flags};
use crate::types::stage::Origin;
use crate::verdict::{Action, Verdict};

/// Runs [`crate::types::stage::Stage::Deliver`] for a packet at egress of a pod's device. Every
/// packet passes or is dropped; none is changed.
#[inline(always)]
pub fn deliver<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let mut parsed: Parsed<A> = match parse(packet, tables, (Origin::Host, 0), |_| true) {
        Ok(parsed) => parsed,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    if let Err(reject) = parsed.scrub_verifier_state(packet) {
        return Verdict::drop(reject.into());
    }
    let (epoch, now) = (epoch(tables), tables.now());
    if let Some(flow) = flows.get(&parsed.key)
        && flow.flags & flow_flags::UNTRANSLATED != 0
    {
        if is_current(flow, &parsed, now, tables) {
            let is_known = flow.epoch == epoch && !(parsed.is_syn() && flow.flags & flow_flags::REPLY != 0);
            touch(flow, &parsed, now, tables);
            return if is_known { Verdict::PASS } else { refused(judge_again(flows, tables, &parsed, epoch)) };
        }
        end_pair(flows, &parsed.key);
    }
    // The flow of the pod's answers: the packet was judged and translated where it arrived.
    let answers = flows.get(&parsed.key.reversed()).map_or(0, |flow| flow.iif);
    if answers != 0 && answers == device(tables, ifindex) && !parsed.is_syn() {
        return Verdict::PASS;
    }
    let arrival = packet.ingress_ifindex();
    let from_node = arrival == 0 || is_node(tables, arrival);
    if !from_node {
        let verdict = refused(judge_forwarded(tables, &parsed, ifindex));
        if verdict.action() == Action::Drop {
            return verdict;
        }
    }
    let ends = parsed.layer4 == Layer4::IcmpError || parsed.tcp_flags & RST != 0 || parsed.key.dst.is_host_only();
    if answers == 0 && !ends && is_egress_isolated(tables, ifindex) {
        let mut target = FlowTarget::EMPTY;
        keep(tables, &parsed.key, Verdict::PASS, &mut target);
        target.complete(packet, tables);
        let mut flow = Flow { epoch, ..Flow::EMPTY };
        let origin = if from_node { Origin::Host } else { Origin::Uplink };
        // A full table costs the answers and not this packet.
        let _ = insert_flow_pair(flows, tables, &parsed.key, &target, origin, 0, &mut flow);
    }
    Verdict::PASS
}

/// Returns [`Verdict::refusal`] of the pod's rules for a packet that the host's stack forwards.
#[inline(never)]
fn judge_forwarded<A: Family, T: FamilyMaps<A>>(tables: &T, parsed: &Parsed<A>, ifindex: u32) -> u32 {
    let (client, server, proto, port) = (&parsed.key.src, &parsed.key.dst, parsed.key.proto, parsed.key.dport);
    let ends = Connection { client, server, proto, port, client_pod: 0, server_pod: ifindex, from_node: false };
    Verdict::refusal(refusal(tables, &ends))
}

/// Returns the verdict on a packet for the result of a judgement.
#[inline(always)]
const fn refused(reason: u32) -> Verdict {
    if reason == 0 { Verdict::PASS } else { Verdict::refused(reason) }
}
