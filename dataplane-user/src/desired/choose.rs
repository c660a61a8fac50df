//! Which endpoints take new connections: readiness, fallback to terminating ones, topology, policy. Families are apart.

use dataplane_common::service::{backend_state as state, frontend_flags};

use super::context::Context;
use super::{Backend, Frontend, is_v4, sets};
use crate::source::object::{Endpoint, Policy, ServiceObject, ServicePort, SliceObject, endpoint_flags as flags};

/// What the frontends of a Service port ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "four independent questions")]
pub(super) struct Wants {
    /// There is an IPv4 frontend.
    pub(super) v4: bool,
    /// There is an IPv6 frontend.
    pub(super) v6: bool,
    /// Sets that internal clients use.
    internal: u8,
    /// Sets that external clients use.
    external: u8,
}

impl Wants {
    pub(super) fn of(service: &ServiceObject, frontends: &[Frontend]) -> Self {
        let set = |flags: u16, drop| if flags & drop == 0 { sets::CLUSTER } else { sets::LOCAL };
        let mut wants = Self { v4: false, v6: false, internal: 0, external: 0 };
        for f in frontends {
            let v4 = is_v4(&f.key.addr);
            wants.v4 |= v4;
            wants.v6 |= !v4;
            wants.internal |= set(f.flags, frontend_flags::INTERNAL_DROP);
            wants.external |= set(f.flags, frontend_flags::EXTERNAL_DROP);
        }
        // A remembered backend must satisfy every frontend that could lead to it.
        if service.affinity != 0 && service.internal == Policy::Local {
            wants.internal = sets::LOCAL;
        }
        if service.affinity != 0 && service.external == Policy::Local && wants.external & sets::LOCAL != 0 {
            wants.external = sets::LOCAL;
        }
        wants
    }

    const fn sets(self) -> u8 {
        self.internal | self.external
    }
}

/// How many endpoints of this node are ready, each address once: what a load balancer's health check asks for.
#[must_use]
pub fn ready_local<'a>(slices: impl Iterator<Item = &'a SliceObject>) -> usize {
    let wanted = flags::LOCAL | flags::READY;
    let ready = slices.flat_map(|s| &s.endpoints).filter(|e| e.flags & wanted == wanted);
    let mut addresses: Vec<_> = ready.map(|e| e.addr).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.len()
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    addr: u128,
    port: u16,
    v6: bool,
    endpoint: &'a Endpoint,
}

/// Counts of what decides for the whole set.
#[derive(Default)]
struct Census {
    ready: usize,
    ready_local: usize,
    node_hints: usize,
    this_node_hinted: usize,
    zone_hints: usize,
    this_zone_hinted: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    All,
    ThisNode,
    ThisZone,
}

/// The backends of one port, by address and port, each endpoint once.
pub(super) fn backends<'a>(
    port: &ServicePort,
    slices: impl Iterator<Item = &'a SliceObject>,
    wants: Wants,
    context: &Context,
) -> Vec<Backend> {
    let mut found = candidates(port, slices, wants);
    found.sort_by_key(|c| (c.addr, c.port));
    found.dedup_by(|next, kept| {
        let same = (next.addr, next.port) == (kept.addr, kept.port);
        if same && rank(next.endpoint) > rank(kept.endpoint) {
            kept.endpoint = next.endpoint;
        }
        same
    });
    let zone = context.node.zone.as_deref();
    let families = [Family::new(&found, false, zone), Family::new(&found, true, zone)];
    found.iter().map(|c| families[usize::from(c.v6)].backend(c, wants, zone, context)).collect()
}

fn candidates<'a>(
    port: &ServicePort,
    slices: impl Iterator<Item = &'a SliceObject>,
    wants: Wants,
) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for slice in slices.filter(|s| if s.v6 { wants.v6 } else { wants.v4 }) {
        let target = slice.ports.iter().find(|p| p.proto == port.proto && p.name == port.name);
        let Some(target) = target else { continue };
        found.extend(slice.endpoints.iter().map(|endpoint| Candidate {
            addr: u128::from_be_bytes(endpoint.addr),
            port: target.port,
            v6: slice.v6,
            endpoint,
        }));
    }
    found
}

/// Which of two entries for the same endpoint counts: slices may be updated out of order.
fn rank(e: &Endpoint) -> u8 {
    let bit = |flag, worth| if e.flags & flag == 0 { 0 } else { worth };
    bit(flags::LOCAL, 8) | bit(flags::READY, 4) | bit(flags::SERVING, 2) | bit(flags::TERMINATING, 1)
}

struct Family {
    any_ready: bool,
    any_ready_local: bool,
    topology: Topology,
}

impl Family {
    fn new(found: &[Candidate<'_>], v6: bool, zone: Option<&str>) -> Self {
        let mut census = Census::default();
        for e in found.iter().filter(|c| c.v6 == v6).map(|c| c.endpoint).filter(|e| e.flags & flags::READY != 0) {
            census.ready += 1;
            census.ready_local += usize::from(e.flags & flags::LOCAL != 0);
            census.node_hints += usize::from(e.flags & flags::NODE_HINTS != 0);
            census.this_node_hinted += usize::from(e.flags & flags::THIS_NODE_HINTED != 0);
            census.zone_hints += usize::from(e.zones.is_some());
            census.this_zone_hinted += usize::from(is_hinted(e, zone));
        }
        let topology = if census.node_hints == census.ready && census.this_node_hinted > 0 {
            Topology::ThisNode
        } else if census.zone_hints == census.ready && census.this_zone_hinted > 0 {
            Topology::ThisZone
        } else {
            Topology::All
        };
        Self { any_ready: census.ready > 0, any_ready_local: census.ready_local > 0, topology }
    }

    fn backend(&self, c: &Candidate<'_>, wants: Wants, zone: Option<&str>, context: &Context) -> Backend {
        let e = c.endpoint;
        let has = |flag| e.flags & flag != 0;
        let leaving_but_serving = has(flags::SERVING) && has(flags::TERMINATING);
        let preferred = match self.topology {
            Topology::All => true,
            Topology::ThisNode => has(flags::THIS_NODE_HINTED),
            Topology::ThisZone => is_hinted(e, zone),
        };
        let cluster = if self.any_ready { has(flags::READY) && preferred } else { leaving_but_serving };
        let local = has(flags::LOCAL) && if self.any_ready_local { has(flags::READY) } else { leaving_but_serving };
        let mut sets = if cluster { sets::CLUSTER } else { 0 };
        sets |= if local { sets::LOCAL } else { 0 };
        sets &= wants.sets();
        let addr = c.addr.to_be_bytes();
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let state = state::LISTED
            | bit(sets & wants.internal != 0, state::INTERNAL)
            | bit(sets & wants.external != 0, state::EXTERNAL)
            | bit(has(flags::SERVING) || has(flags::READY), state::SERVING)
            | bit(has(flags::TERMINATING), state::TERMINATING)
            | bit(has(flags::LOCAL), state::LOCAL)
            | bit(context.cluster.is_host(&addr), state::HOST);
        Backend { addr, port: c.port, state, sets }
    }
}

fn is_hinted(e: &Endpoint, zone: Option<&str>) -> bool {
    let (Some(zones), Some(zone)) = (&e.zones, zone) else { return false };
    zones.iter().any(|z| **z == *zone)
}
