//! Charges new flows to their senders ([`crate::types::flow_budget`]).
//!
//! Called by the stages that open flows, after the insertion. Never changes the packet.

use crate::maps::{FamilyMaps, FlowMap};
use crate::packet::family::Family;
use crate::types::address::Address;
use crate::types::event::Counter;
use crate::types::flow::{Flow, FlowKey, flow_flags, flow_state};
use crate::types::flow_budget::{NETWORKS, OUTSIDE, Ring, rate};
use crate::types::pod::{DEVICE_BITS, POD_SLOTS};
use crate::types::service::proto;

/// Charges a new pair to its sender; returns true if it is surplus. `source` and `flow`: source
/// and value of its forward half, which say who the sender is.
///
/// Not inlined, like [`replace_oldest`], so that the frames of both are not live together.
#[inline(never)]
pub fn is_surplus<A: Address, T: FamilyMaps<A>>(tables: &T, source: &A, flow: &Flow<A>) -> bool {
    let entries = tables.config().map_or(0, |config| config.surplus);
    if entries == 0 || has_budget(tables, source, flow, rate(entries)) {
        return false;
    }
    tables.count(Counter::SurplusFlow);
    true
}

/// Gives the surplus pair with the key `key` the place of the oldest in its ring, which is
/// removed.
///
/// A TCP connection from outside to which the backend has answered is not removed: no sender can
/// bring one about from an address that is not its own. Pods can, so theirs are.
#[inline(never)]
pub fn replace_oldest<A: Family, F: FlowMap<A>, T: FamilyMaps<A>>(
    flows: &mut F,
    tables: &T,
    key: &FlowKey<A>,
    ring: Ring,
) {
    let entries = tables.config().map_or(0, |config| config.surplus);
    let Some(old) = flows.replace_surplus(ring, entries, key) else { return };
    // An unused element has no protocol. A sender that repeats a key has opened this very pair.
    if old.proto == 0 || old == *key {
        return;
    }
    let Some(flow) = flows.get(&old) else { return };
    let back = flow.reverse_key(&old);
    if let Some(flow) = flows.get(&back).filter(|flow| flow.is_reverse_of(&old)) {
        let answered = flow.state == flow_state::ESTABLISHED && old.proto == proto::TCP;
        if answered && matches!(ring, Ring::Outside) {
            return;
        }
        flows.remove(&back);
    }
    flows.remove(&old);
}

/// Takes a flow from the budgets of its sender; returns false if one of them is empty.
#[inline(always)]
fn has_budget<A: Address, T: FamilyMaps<A>>(tables: &T, source: &A, flow: &Flow<A>, rate: u32) -> bool {
    if matches!(ring_of(flow), Ring::Pods) {
        return tables.take_flow(flow.iif & ((1 << DEVICE_BITS) - 1), rate);
    }
    // A network first, so that one with an empty budget costs the others nothing.
    let network = source.network_digest() % NETWORKS;
    tables.take_flow(POD_SLOTS + network, rate / 2) && tables.take_flow(OUTSIDE, rate)
}

/// Returns the ring of the sender of a new pair, of which `flow` is the forward half.
#[inline(always)]
#[must_use]
pub const fn ring_of<A>(flow: &Flow<A>) -> Ring {
    if flow.flags & flow_flags::EXTERNAL == 0 { Ring::Pods } else { Ring::Outside }
}
