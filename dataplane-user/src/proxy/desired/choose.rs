//! Chooses the endpoints that get new connections: by readiness, topology hints, policy and weight.
//!
//! Implements kube-proxy's rules, including the fallback to terminating endpoints that still serve.
//! IPv4 and IPv6 are independent. Called by [`super::service`] for each port; every endpoint of the
//! slices gets a backend, because existing flows may use it.

use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::{backend_state as state, frontend_flags};

use super::context::{Context, sort_key};
use super::{DesiredBackend, DesiredFrontend, sets};
use crate::proxy::source::object::{
    Endpoint, Policy, ServiceObject, ServicePort, SliceObject, Weights, endpoint_flags as flags,
};

/// Sets of endpoints that the frontends of one family of a Service port use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Wants {
    /// Sets for internal clients; 0 if the family has no frontend.
    internal: u8,
    /// Sets for external clients.
    external: u8,
}

impl Wants {
    /// Returns the sets for IPv4 and for IPv6.
    pub(super) fn of(frontends: &[DesiredFrontend]) -> [Self; 2] {
        let set = |flags: u16, drop| if flags & drop == 0 { sets::CLUSTER } else { sets::LOCAL };
        let mut both = [Self::default(); 2];
        for f in frontends {
            let wants = &mut both[IpFamily::of(f.key.addr).index()];
            wants.internal |= set(f.flags, frontend_flags::INTERNAL_DROP);
            wants.external |= set(f.flags, frontend_flags::EXTERNAL_DROP);
        }
        both
    }

    /// Returns the sets whose members get the state bits `INTERNAL` and `EXTERNAL`.
    ///
    /// With affinity, a remembered backend must satisfy every frontend through which the client may
    /// come.
    fn remembered(mut self, service: &ServiceObject) -> Self {
        if service.affinity != 0 && service.internal == Policy::Local && self.internal & sets::LOCAL != 0 {
            self.internal = sets::LOCAL;
        }
        if service.affinity != 0 && service.external == Policy::Local && self.external & sets::LOCAL != 0 {
            self.external = sets::LOCAL;
        }
        self
    }

    pub(super) const fn sets(self) -> u8 {
        self.internal | self.external
    }
}

/// Returns the number of ready endpoints on this node with a weight above 0, each address once.
/// This is the figure of a load balancer's health check.
#[must_use]
pub fn ready_local<'a>(
    slices: impl Iterator<Item = &'a SliceObject>,
    family: IpFamily,
    weights: Option<&Weights>,
) -> usize {
    let wanted = flags::LOCAL | flags::READY;
    let takes_new = |e: &&Endpoint| e.flags & wanted == wanted && weights.is_none_or(|w| w.of(e) != 0);
    let ready = slices.filter(|s| s.family == family).flat_map(|s| &s.endpoints).filter(takes_new);
    let mut addresses: Vec<_> = ready.map(|e| e.addr).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.len()
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    /// [`sort_key`] of the endpoint's address.
    addr: u128,
    port: u16,
    family: IpFamily,
    endpoint: &'a Endpoint,
}

/// Numbers of endpoints by condition, from which the fallbacks of a whole set are decided.
#[derive(Default)]
struct EndpointCounts {
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

/// Returns the backends of one port, sorted by address and port, each endpoint once.
pub(super) fn backends<'a>(
    service: &ServiceObject,
    port: &ServicePort,
    slices: impl Iterator<Item = &'a SliceObject>,
    wants: [Wants; 2],
    context: &Context,
) -> Vec<DesiredBackend> {
    let mut found = candidates(port, slices, wants);
    found.sort_by_key(|c| (c.addr, c.port));
    // An endpoint moves between slices by being in both for a while.
    found.dedup_by(|next, kept| {
        let same = (next.addr, next.port) == (kept.addr, kept.port);
        if same && rank(next.endpoint) > rank(kept.endpoint) {
            kept.endpoint = next.endpoint;
        }
        same
    });
    let zone = context.node.zone.as_deref();
    let rules =
        IpFamily::BOTH.map(|family| FamilyRules::new(&found, family, zone, wants[family.index()], (service, context)));
    found.iter().map(|c| rules[c.family.index()].backend(c, zone, context)).collect()
}

fn candidates<'a>(
    port: &ServicePort,
    slices: impl Iterator<Item = &'a SliceObject>,
    wants: [Wants; 2],
) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for slice in slices.filter(|s| wants[s.family.index()].sets() != 0) {
        let target = slice.ports.iter().find(|p| p.proto == port.proto && p.name == port.name);
        let Some(target) = target else { continue };
        found.extend(slice.endpoints.iter().map(|endpoint| Candidate {
            addr: sort_key(endpoint.addr),
            port: target.port,
            family: slice.family,
            endpoint,
        }));
    }
    found
}

/// Returns the rank of an entry. Of two entries for the same endpoint the one with the higher rank
/// is used. Slices may be updated out of order, so an endpoint can be in two.
fn rank(e: &Endpoint) -> u8 {
    let bit = |flag, worth| if e.flags & flag == 0 { 0 } else { worth };
    bit(flags::LOCAL, 8) | bit(flags::READY, 4) | bit(flags::SERVING, 2) | bit(flags::TERMINATING, 1)
}

struct FamilyRules<'a> {
    any_ready: bool,
    any_ready_local: bool,
    topology: Topology,
    wants: Wants,
    remembered: Wants,
    /// Weights of the endpoints; `None` if all have the same.
    weights: Option<&'a Weights>,
}

impl<'a> FamilyRules<'a> {
    fn new(
        found: &[Candidate<'_>],
        family: IpFamily,
        zone: Option<&str>,
        wants: Wants,
        (service, context): (&'a ServiceObject, &Context),
    ) -> Self {
        let weights = service.scheduling().map(|s| &s.weights).filter(|w| **w != Weights::default());
        let mut counts = EndpointCounts::default();
        // A draining endpoint (weight 0) is not considered: its zone or node must not be preferred
        // for its sake, or clients there would find no endpoint.
        let takes_new = |e: &&Endpoint| e.flags & flags::READY != 0 && weights.is_none_or(|w| w.of(e) != 0);
        for e in found.iter().filter(|c| c.family == family).map(|c| c.endpoint).filter(takes_new) {
            counts.ready += 1;
            counts.ready_local += usize::from(is_local(e, context));
            counts.node_hints += usize::from(e.flags & flags::NODE_HINTS != 0);
            counts.this_node_hinted += usize::from(e.flags & flags::THIS_NODE_HINTED != 0);
            counts.zone_hints += usize::from(e.zones.is_some());
            counts.this_zone_hinted += usize::from(is_hinted(e, zone));
        }
        // Hints are used only if all ready endpoints have them, and one is for this node or zone.
        let topology = if counts.node_hints == counts.ready && counts.this_node_hinted > 0 {
            Topology::ThisNode
        } else if counts.zone_hints == counts.ready && counts.this_zone_hinted > 0 {
            Topology::ThisZone
        } else {
            Topology::All
        };
        let (any_ready, any_ready_local) = (counts.ready > 0, counts.ready_local > 0);
        Self { any_ready, any_ready_local, topology, wants, remembered: wants.remembered(service), weights }
    }

    fn backend(&self, c: &Candidate<'_>, zone: Option<&str>, context: &Context) -> DesiredBackend {
        let e = c.endpoint;
        let has = |flag| e.flags & flag != 0;
        let leaving_but_serving = has(flags::SERVING) && has(flags::TERMINATING);
        let preferred = match self.topology {
            Topology::All => true,
            Topology::ThisNode => has(flags::THIS_NODE_HINTED),
            Topology::ThisZone => is_hinted(e, zone),
        };
        // Without ready endpoints, terminating ones that still serve take the connections.
        let cluster = if self.any_ready { has(flags::READY) && preferred } else { leaving_but_serving };
        let is_local = is_local(e, context);
        let local = is_local && if self.any_ready_local { has(flags::READY) } else { leaving_but_serving };
        let mut sets = if cluster { sets::CLUSTER } else { 0 };
        sets |= if local { sets::LOCAL } else { 0 };
        let weight = self.weights.map_or(1, |w| w.of(e));
        // Sets that no frontend uses get no slot table.
        sets &= if weight == 0 { 0 } else { self.wants.sets() };
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let state = state::LISTED
            | bit(sets & self.remembered.internal != 0, state::INTERNAL)
            | bit(sets & self.remembered.external != 0, state::EXTERNAL)
            | bit(has(flags::SERVING) || has(flags::READY), state::SERVING)
            | bit(has(flags::TERMINATING), state::TERMINATING)
            | bit(is_local, state::LOCAL)
            | bit(has(flags::REMOTE), state::REMOTE)
            | bit(context.cluster.is_host(e.addr), state::HOST);
        DesiredBackend { addr: e.addr, port: c.port, state, sets, weight }
    }
}

/// Returns true if the endpoint is on this node, by its `nodeName` and its address.
fn is_local(e: &Endpoint, context: &Context) -> bool {
    e.flags & flags::LOCAL != 0 && context.can_be_local(e.addr)
}

fn is_hinted(e: &Endpoint, zone: Option<&str>) -> bool {
    let (Some(zones), Some(zone)) = (&e.zones, zone) else { return false };
    zones.iter().any(|z| **z == *zone)
}
