//! A packet whose 5-tuple matches a flow that may not translate it: a port is used again, a SYN is
//! repeated, or a datagram comes after a pause.
//!
//! The old pair of flows is removed, unless it is still in use or another client's. A new
//! connection is then opened ([`Stage::NewConnection`]).
//!
//! A connection without translation has no flows, but a flow of another connection can have the key
//! of its answers, and would translate them: a client uses one port for a frontend and for its
//! backend. If that flow is in use, the untranslated connection gets another source port, and flows
//! of its own.
//!
//! A client retransmits its SYN after a second without an answer. If the backend of the first SYN
//! takes no new connections any more, the retransmission gets another backend; but the first one
//! may have answered meanwhile, or may still answer. The client must never receive a SYN-ACK from
//! both. If the first backend has answered, it keeps the connection. Otherwise the pair of flows is
//! removed: a late SYN-ACK then arrives untranslated, and the client resets it.
//!
//! A SYN from outside can have a forged source address, so it never ends an established connection
//! whose backend still serves it. It is sent to that backend, which knows whether the connection
//! exists and tells the client (RFC 9293, section 3.10.7.4).

use crate::maps::{FamilyMaps, FlowMap, SharedMaps};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{Layer4, Parsed, parse};
use crate::path::conntrack::{arrival, is_current, is_served, needs_recheck, touch};
use crate::path::flow_pair::{Pair, attempt, free_port, is_own_address, remove_pair};
use crate::path::forward::forward;
use crate::path::new_connection::masquerade_address;
use crate::types::event::DropReason;
use crate::types::flow::{Flow, FlowKey, flow_flags, flow_state};
use crate::types::stage::{Origin, Stage};
use crate::verdict::Verdict;

/// Runs [`Stage::PortReuse`]: forwards by the old flow, or continues with [`Stage::NewConnection`]
/// and [`attempt::CHECKED`].
#[inline(always)]
pub fn port_reuse<A, P, F, T>(
    packet: &mut P,
    flows: &mut F,
    tables: &T,
    (origin, verdict): (Origin, Verdict),
    ifindex: u32,
) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let parsed: Parsed<A> = match parse(packet, tables, (origin, ifindex), |_| true) {
        Ok(parsed) => parsed,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    let received = packet.scratch();
    let next = Verdict::PASS.then(Stage::NewConnection);
    if received & attempt::SEARCHES != 0 {
        let freed = match searched_key(packet, tables, &parsed, received, verdict.backend()) {
            Some(mut key) => free_port(flows, tables, &mut key),
            None => 0,
        };
        packet.set_scratch(received & (attempt::FROM_NODE - 1) | (freed as u32) << attempt::PORT);
        return next;
    }
    packet.set_scratch(attempt::CHECKED);
    let (mut key, mut other) = (parsed.key, parsed.key);
    // Without a flow of its own, the packet is here because of the flow of its answers.
    let is_direct = flows.get(&key).is_none();
    if is_direct && received & attempt::FAILED != 0 {
        return Verdict::drop(DropReason::FlowTableFull);
    }
    if is_direct {
        key = parsed.key.reversed();
    }
    let Some(pair) = Pair::read(flows, &key, &mut other) else { return next };
    let Some(flow) = flows.get(&key) else { return next };
    let (now, has_ended) = (tables.now(), pair.has_ended(tables));
    let is_reply = flow.flags & flow_flags::REPLY != 0;
    // Pods have verified addresses. Anybody outside can have forged the client's.
    let is_own_address = is_own_address(tables, &parsed.key.src, origin, ifindex);
    if is_direct {
        if is_reply && has_ended {
            remove_pair(flows, &other, &key);
        } else if is_reply {
            packet.set_scratch(attempt::CHECKED | attempt::TRANSLATE_PORT);
        }
        return next;
    }
    let is_own_interface = flow.iif == arrival(tables, origin, ifindex);
    let keeps_backend = parsed.is_syn()
        && pair.has_answered()
        && !has_ended
        && (is_retransmission(flow, now, tables) || !matches!(origin, Origin::Pod) && is_served(flow, tables));
    if is_own_interface && (keeps_backend || is_current(flow, &parsed, now, tables)) {
        if needs_recheck(flow, &parsed, tables) {
            return Verdict::PASS.then(Stage::Recheck);
        }
        touch(flow, &parsed, now, tables);
        return forward::<false, _, _, _>(packet, tables, &parsed, flow);
    }
    if is_reply && !has_ended {
        return next;
    }
    if !is_own_interface && !is_own_address && !has_ended {
        return Verdict::drop(DropReason::Spoofed);
    }
    remove_pair(flows, &other, &key);
    next
}

/// Returns the key of the reply that another connection has, after a search for a free port.
#[inline(always)]
fn searched_key<A: Family, P: Packet, T: FamilyMaps<A>>(
    packet: &P,
    tables: &T,
    parsed: &Parsed<A>,
    received: u32,
    backend: u32,
) -> Option<FlowKey<A>> {
    let mut key = parsed.key.reversed();
    key.dport = (received >> attempt::PORT) as u16;
    if backend != 0 {
        let backend = tables.backend(backend)?;
        (key.src, key.sport) = (A::from_octets16(&backend.addr), backend.port);
    } else if parsed.layer4 == Layer4::Icmp {
        key.sport = key.dport;
    }
    if received & attempt::FROM_NODE != 0 {
        // With several uplinks the device decides, as it did in the search.
        let oif = if !A::V6 && tables.config()?.uplink == 0 { packet.route_ifindex(&key.src) } else { 0 };
        key.dst = masquerade_address(tables, oif);
    }
    Some(key)
}

/// Returns true if the flow has seen nothing but SYNs, the last of them recently.
#[inline(always)]
fn is_retransmission<A, T: SharedMaps>(flow: &Flow<A>, now: u32, tables: &T) -> bool {
    flow.state == flow_state::NEW
        && tables.config().is_some_and(|c| now.wrapping_sub(flow.last_seen) <= c.assured_ticks as u32)
}
