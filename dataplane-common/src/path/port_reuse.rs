//! A connection that is opened with the ports of an old flow, by a packet for which that flow does not speak any more: the last look at it.
//!
//! A client repeats its first packet after a second without an answer. If its backend is not given to new connections any more, it gets another one; but
//! the first may have answered meanwhile, or still answer. So that the client never hears two of them, either the one that has answered keeps the
//! connection, or what it says later is not translated any more: then the client knows nothing of it, and resets it.

use crate::maps::{FamilyMaps, FlowMap, SharedMaps};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{Parsed, parse};
use crate::path::conntrack::touch;
use crate::path::forward::forward;
use crate::types::flow::{Flow, flow_state};
use crate::types::stage::{Origin, Stage};
use crate::verdict::Verdict;

/// [`Stage::PortReuse`]: goes on by the old flow, or with [`Stage::NewConnection`].
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
    // whose connection it is not, by the check of a hit, ends none
    let Some(flow) = flows.get(&parsed.key).filter(|flow| flow.iif == origin.iif(ifindex)) else {
        return Verdict::PASS.then(Stage::NewConnection);
    };
    let back = flow.reverse_key(&parsed.key);
    let has_answered = flows.get(&back).is_some_and(|flow| flow.state == flow_state::ESTABLISHED);
    let now = tables.now();
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

/// Whether nothing but its first packet was sent, so lately that this may be the same one.
#[inline(always)]
fn is_retransmission<A, T: SharedMaps>(flow: &Flow<A>, now: u32, tables: &T) -> bool {
    flow.state == flow_state::NEW
        && tables.config().is_some_and(|c| now.wrapping_sub(flow.last_seen) <= c.assured_ticks as u32)
}
