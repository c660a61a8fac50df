//! The first packet of a connection that network policy may refuse: [`Stage::Judge`].
//!
//! The entry programs and the stages that open flows hand over every packet without a flow of which
//! one end is a pod with rules. If the rules let it pass, the connection is recorded by a pair of
//! flows even if nothing is translated, so that its replies pass whatever the rules of the other
//! direction say. A refused packet leaves no flow behind.
//!
//! A segment in the middle of a TCP connection can arrive here too: the pod got its rules when the
//! connection existed, or the flow was evicted. Of the two ends, the one with the smaller port
//! counts as the server. A wrong guess opens no connection, because a SYN is always judged as its
//! sender's.

use crate::maps::{FamilyMaps, FlowMap};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{ACK, Layer4, Parsed, RST, parse_again};
use crate::path::datapath::{connect_other, open_flow_pair};
use crate::path::flow_pair::attempt;
use crate::path::forward::{forward, route};
use crate::path::new_connection::{FlowTarget, keep, to_chosen_backend};
use crate::policy::{Connection, epoch, refusal};
use crate::types::event::DropReason;
use crate::types::flow::{Flow, FlowKey, flow_flags};
use crate::types::stage::{Origin, Stage};
use crate::verdict::{Action, Verdict};

/// Runs [`Stage::Judge`] for a packet at ingress. `received`: [`Verdict::judge`], or the verdict
/// that the untranslated packet gets if the rules let it pass.
#[inline(always)]
pub fn judge<A, P, F, T>(
    packet: &mut P,
    flows: &mut F,
    tables: &T,
    (origin, received): (Origin, Verdict),
    ifindex: u32,
) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let mut parsed = Parsed::<A>::EMPTY;
    if let Err(reject) = parse_again(packet, tables, (origin, ifindex), &mut parsed) {
        return Verdict::drop(reject);
    }
    let epoch = epoch(tables);
    let mut target = FlowTarget::EMPTY;
    let untranslated = received.action() != Action::Translate;
    let verdict = if untranslated {
        keep(tables, &parsed.key, received, &mut target);
        Verdict::TRANSLATE
    } else if received.backend() != 0 {
        chosen_backend(tables, &parsed.key, received.backend(), origin, &mut target)
    } else {
        let translates_port = packet.scratch() & attempt::TRANSLATE_PORT != 0;
        connect_other(tables, &parsed, origin, ifindex, translates_port, &mut target)
    };
    if verdict.action() != Action::Translate || verdict.stage().is_some() {
        // The agent has changed the maps meanwhile.
        return if verdict.action() == Action::Drop { verdict } else { Verdict::PASS.then(Stage::NewConnection) };
    }
    target.scrub_verifier_state(packet);
    let origin = Origin::from_number(packet.scrub_verifier_state(origin as u32));
    let is_reply = untranslated && is_reply(flows, &parsed);
    let refused = packet.scrub_verifier_state(refused_by(tables, &parsed, &target, origin, ifindex, is_reply));
    if refused != 0 {
        return Verdict::refused(refused);
    }
    if untranslated && !is_recorded(&parsed) {
        return route(packet, tables, &parsed, received);
    }
    target.complete(packet, tables);
    target.resolve_route(packet);
    let mut flow = Flow { epoch, ..target.flow_wanted(tables, packet.scratch(), &parsed.key) };
    let verdict = open_flow_pair(packet, flows, tables, &parsed, &target, (origin, ifindex), &mut flow);
    if verdict.action() != Action::Translate {
        return verdict;
    }
    if is_reply {
        turn_round(flows, &parsed.key, &flow);
    }
    forward::<false, _, _, _>(packet, tables, &parsed, &flow)
}

/// Sets the target to a backend that another stage has chosen.
///
/// Not inlined, like the next functions: each has a stack frame of its own, and only one of them is
/// live at a time.
#[inline(never)]
fn chosen_backend<A: Family, T: FamilyMaps<A>>(
    tables: &T,
    key: &FlowKey<A>,
    backend: u32,
    origin: Origin,
    target: &mut FlowTarget<A>,
) -> Verdict {
    if to_chosen_backend(tables, key, backend, matches!(origin, Origin::Pod), target) {
        Verdict::TRANSLATE
    } else {
        Verdict::drop(DropReason::NoBackend)
    }
}

/// Returns [`Verdict::refusal`] of the rules of both ends. `is_reply`: the packet's destination has
/// opened the connection.
#[inline(never)]
fn refused_by<A: Family, T: FamilyMaps<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    target: &FlowTarget<A>,
    origin: Origin,
    ifindex: u32,
    is_reply: bool,
) -> u32 {
    let (client_pod, server_pod) = (if matches!(origin, Origin::Pod) { ifindex } else { 0 }, target.pod());
    let (client, server, proto, port) = (&parsed.key.src, &target.addr, parsed.key.proto, target.port());
    let mut connection = Connection { client, server, proto, port, client_pod, server_pod, from_node: false };
    if is_reply {
        connection = Connection {
            client: server,
            server: client,
            proto,
            port: parsed.key.sport,
            client_pod: server_pod,
            server_pod: client_pod,
            from_node: target.is_host(),
        };
    }
    Verdict::refusal(refusal(tables, &connection))
}

/// Returns true if an untranslated packet without a flow belongs to a connection that its
/// destination has opened. Removes what is left of the connection's pair.
#[inline(never)]
fn is_reply<A: Family, F: FlowMap<A>>(flows: &mut F, parsed: &Parsed<A>) -> bool {
    let other = parsed.key.reversed();
    let flags = match flows.get(&other) {
        // The kernel has evicted the half of this packet's direction.
        Some(flow) if flow.is_reverse_of(&parsed.key) => flow.flags,
        _ => return parsed.tcp_flags & ACK != 0 && parsed.is_tcp_midflow() && parsed.key.sport < parsed.key.dport,
    };
    flows.remove(&other);
    !parsed.is_syn() && flags & flow_flags::REPLY == 0
}

/// Returns true if an untranslated packet gets a pair of flows: there can be replies, and they have
/// the packet's addresses.
#[inline(always)]
fn is_recorded<A: Family>(parsed: &Parsed<A>) -> bool {
    let ends = parsed.layer4 == Layer4::IcmpError || parsed.tcp_flags & RST != 0;
    !ends && !parsed.key.dst.is_host_only()
}

/// Makes the destination of a new pair the end that has opened the connection. `flow` is the half
/// with the key `key`.
#[inline(never)]
fn turn_round<A: Family, F: FlowMap<A>>(flows: &mut F, key: &FlowKey<A>, flow: &Flow<A>) {
    let other = flow.reverse_key(key);
    let mut of_pair = 0;
    if let Some(half) = flows.get(&other) {
        // Packets of the host's stack have no other interface.
        of_pair = if half.iif == Origin::Host.iif(0) { flow_flags::FROM_NODE } else { 0 };
        half.flags = half.flags & !flow_flags::REPLY | of_pair;
    }
    if let Some(half) = flows.get(key) {
        half.flags |= flow_flags::REPLY | of_pair;
    }
}
