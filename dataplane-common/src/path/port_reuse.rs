//! A SYN whose 5-tuple matches a stale flow: port reuse or a retransmission.
//!
//! A client retransmits its SYN after a second without an answer. If the backend of the first SYN
//! takes no new connections any more, the retransmission gets another backend; but the first one
//! may have answered meanwhile, or may still answer. The client must never receive a SYN-ACK from
//! both. If the first backend has answered, it keeps the connection. Otherwise its reply flow is
//! removed: a late SYN-ACK then arrives untranslated, and the client resets it.

use crate::maps::{FamilyMaps, FlowMap, SharedMaps};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{Parsed, parse};
use crate::path::conntrack::touch;
use crate::path::forward::forward;
use crate::types::flow::{Flow, flow_state};
use crate::types::stage::{Origin, Stage};
use crate::verdict::Verdict;

/// Runs [`Stage::PortReuse`]: forwards by the stale flow, or continues with
/// [`Stage::NewConnection`].
#[inline(always)]
pub fn port_reuse<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T, origin: Origin, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let parsed: Parsed<A> = match parse(packet, tables) {
        Ok(parsed) => parsed,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    // Same check as for established flows: a packet from another interface cannot end the flow.
    let Some(flow) = flows.get(&parsed.key).filter(|flow| flow.iif == origin.iif(ifindex)) else {
        return Verdict::PASS.then(Stage::NewConnection);
    };
    let back = flow.reverse_key(&parsed.key);
    let has_answered = flows.get(&back).is_some_and(|flow| flow.state == flow_state::ESTABLISHED);
    let now = tables.now();
    // Looked up again: the lookup of the reverse direction took the mutable borrow.
    if has_answered
        && let Some(flow) = flows.get(&parsed.key)
        && is_retransmission(flow, now, tables)
    {
        touch(flow, &parsed, now, tables);
        return forward::<false, _, _, _>(packet, tables, &parsed, flow);
    }
    flows.remove(&back);
    Verdict::PASS.then(Stage::NewConnection)
}

/// Returns true if the flow has seen nothing but SYNs, the last of them recently.
#[inline(always)]
fn is_retransmission<A, T: SharedMaps>(flow: &Flow<A>, now: u32, tables: &T) -> bool {
    flow.state == flow_state::NEW
        && tables.config().is_some_and(|c| now.wrapping_sub(flow.last_seen) <= c.assured_ticks as u32)
}
