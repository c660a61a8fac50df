//! A connection that is opened with the ports of an old flow, by a packet for which that flow does not speak any more: the last look at it.
//!
//! A client repeats its first packet after a second without an answer. If its backend is not given to new connections any more, it gets another one; but
//! the first may have answered meanwhile, or still answer. So that the client never hears two of them, either the one that has answered keeps the
//! connection, or what it says later is not translated any more: then the client knows nothing of it, and resets it.

use crate::maps::{Flows, Node, Tables};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{Parsed, parse};
use crate::path::conntrack::touch;
use crate::path::forward::forward;
use crate::types::flow::{Flow, flow_state};
use crate::types::stage::{Origin, Step};
use crate::verdict::Verdict;

/// [`Step::Again`]: goes on by the old flow, or with [`Step::Open`].
#[inline(always)]
pub fn again<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T, origin: Origin, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let parsed: Parsed<A> = match parse(packet, tables) {
        Ok(parsed) => parsed,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    // whose connection it is not, by the check of a hit, ends none
    let Some(flow) = flows.get(&parsed.key).filter(|flow| flow.iif == origin.iif(ifindex)) else {
        return Verdict::PASS.then(Step::Open);
    };
    let back = flow.other_half(&parsed.key);
    let has_answered = flows.get(&back).is_some_and(|flow| flow.state == flow_state::ESTABLISHED);
    let now = tables.now();
    if has_answered
        && let Some(flow) = flows.get(&parsed.key)
        && is_repeated(flow, now, tables)
    {
        touch(flow, &parsed, now, tables);
        return forward::<false, _, _, _>(packet, tables, &parsed, flow);
    }
    flows.remove(&back);
    Verdict::PASS.then(Step::Open)
}

/// Whether nothing but its first packet was sent, so lately that this may be the same one.
#[inline(always)]
fn is_repeated<A, T: Node>(flow: &Flow<A>, now: u32, tables: &T) -> bool {
    flow.state == flow_state::NEW
        && tables.config().is_some_and(|c| now.wrapping_sub(flow.last_seen) <= c.conversation_ticks as u32)
}
