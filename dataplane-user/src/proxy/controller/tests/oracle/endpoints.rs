//! The endpoints of one service port and family: which of them take new connections.
//!
//! Written from docs/services.md, and not from the code that it judges.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::backend_state as state;

use super::{Objects, Policy, Seen, ServiceObject, ServicePort, is_of_a_node, is_of_a_pod, pod_ranges};
use crate::proxy::source::ObjectKey;
use crate::proxy::source::SliceObject;
use crate::proxy::source::object::{Endpoint, endpoint_flags as flags};

/// The endpoints that a frontend uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Set {
    /// Those of all nodes.
    Cluster,
    /// Those of this node, under policy Local.
    Local,
}

/// The endpoints of one service port and family, by address and port.
pub(super) struct PortEndpoints {
    all: Vec<(Seen, BTreeSet<Set>)>,
}

impl PortEndpoints {
    /// Finds and sorts them. `frontends` says for each frontend of the port and family which sets
    /// internal and external clients use; without any there are no backends.
    pub(super) fn new(
        objects: &Objects,
        key: &ObjectKey,
        service: &ServiceObject,
        port: &ServicePort,
        v6: bool,
        frontends: &[[Set; 2]],
    ) -> Self {
        if frontends.is_empty() {
            return Self { all: Vec::new() };
        }
        let listed = listed(objects, key, port, v6);
        let zone = zone(objects);
        let cluster = cluster(service, &listed, zone.as_deref());
        let local = local(service, &listed);
        // The members of these sets are remembered by client affinity, one for all frontends of a
        // client's kind: "a client gets the same endpoint at every address of the Service". If one
        // of the frontends allows local endpoints alone, these are remembered.
        let remembered = [(0, service.internal), (1, service.external)].map(|(side, policy)| {
            let used: BTreeSet<Set> = frontends.iter().map(|sets| sets[side]).collect();
            let only_local = service.affinity != 0 && policy == Policy::Local && used.contains(&Set::Local);
            if only_local { [Set::Local].into() } else { used }
        });
        let backend = |((addr, port), e): &((IpAddr, u16), &Endpoint)| {
            let in_set = |set: &Set| match set {
                Set::Cluster => cluster.contains(&(*addr, *port)),
                Set::Local => local.contains(&(*addr, *port)),
            };
            let sets: BTreeSet<Set> = [Set::Cluster, Set::Local].into_iter().filter(in_set).collect();
            let bit = |set: bool, bit: u8| if set { bit } else { 0 };
            // Without a known pod range any address may be a pod's.
            let outside = pod_ranges(objects).next().is_some() && !is_of_a_pod(objects, *addr);
            let bits = state::LISTED
                | bit(!sets.is_disjoint(&remembered[0]), state::INTERNAL)
                | bit(!sets.is_disjoint(&remembered[1]), state::EXTERNAL)
                | bit(has(e, flags::SERVING) || has(e, flags::READY), state::SERVING)
                | bit(has(e, flags::TERMINATING), state::TERMINATING)
                | bit(has(e, flags::LOCAL), state::LOCAL)
                | bit(has(e, flags::REMOTE), state::REMOTE)
                | bit(outside || is_of_a_node(objects, *addr), state::HOST);
            ((*addr, *port, bits, u32::from(weight(service, e))), sets)
        };
        Self { all: listed.iter().map(backend).collect() }
    }

    /// Returns all of them: existing connections stay with each that is listed.
    pub(super) fn backends(&self) -> impl Iterator<Item = Seen> {
        self.all.iter().map(|(seen, _)| *seen)
    }

    /// Returns those that take new connections.
    pub(super) fn members(&self, set: Set) -> Vec<Seen> {
        self.all.iter().filter(|(_, sets)| sets.contains(&set)).map(|(seen, _)| *seen).collect()
    }
}

type Listed<'a> = Vec<((IpAddr, u16), &'a Endpoint)>;

const fn has(endpoint: &Endpoint, flag: u8) -> bool {
    endpoint.flags & flag != 0
}

/// Returns the slices of a Service: those in its own namespace, by name.
fn slices<'a>(objects: &'a Objects, key: &ObjectKey) -> impl Iterator<Item = &'a SliceObject> {
    objects
        .slices
        .iter()
        .filter(|(slice, object)| slice.namespace == key.namespace && object.service == key.name)
        .map(|(_, object)| object)
}

/// Returns each endpoint of a service port once, by address and port. Of several entries the one on
/// this node counts, then the ready, the serving, the terminating one, then that of the slice whose
/// name comes first.
fn listed<'a>(objects: &'a Objects, key: &ObjectKey, port: &ServicePort, v6: bool) -> Listed<'a> {
    let mut found: Listed<'a> = Vec::new();
    let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
    for slice in slices(objects, key).filter(|slice| slice.family == family) {
        let Some(target) = slice.ports.iter().find(|p| p.name == port.name && p.proto == port.proto) else { continue };
        for endpoint in &slice.endpoints {
            let place = (endpoint.addr, target.port);
            match found.iter_mut().find(|(known, _)| *known == place) {
                None => found.push((place, endpoint)),
                Some((_, known)) if order(endpoint) > order(known) => *known = endpoint,
                Some(_) => {}
            }
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found
}

fn order(e: &Endpoint) -> [bool; 4] {
    [flags::LOCAL, flags::READY, flags::SERVING, flags::TERMINATING].map(|flag| has(e, flag))
}

fn zone(objects: &Objects) -> Option<Box<str>> {
    let node = &objects.node;
    node.zone.clone().or_else(|| objects.nodes.get(node.name.as_str())?.zone.clone())
}

/// Returns the weight of an endpoint. "The most specific key is used: address, smallest network,
/// node, `*`."
fn weight(service: &ServiceObject, endpoint: &Endpoint) -> u16 {
    let Some(scheduling) = service.scheduling() else { return 1 };
    let weights = &scheduling.weights;
    let networks = weights.networks.iter().filter(|(network, _)| network.contains(endpoint.addr));
    // of two for the same network the first
    let smallest = networks.rev().max_by_key(|(network, _)| network.prefix());
    let of_node = weights.nodes.iter().find(|(node, _)| endpoint.node != 0 && *node == endpoint.node);
    smallest.map(|(_, w)| *w).or(of_node.map(|(_, w)| *w)).or(weights.others).unwrap_or(1)
}

/// "Traffic policies, topology hints and `healthCheckNodePort` treat [weight 0] as not ready."
fn is_ready(service: &ServiceObject, endpoint: &Endpoint) -> bool {
    has(endpoint, flags::READY) && weight(service, endpoint) > 0
}

/// "Endpoints that terminate but still serve take over", except those that drain.
fn is_last_resort(service: &ServiceObject, endpoint: &Endpoint) -> bool {
    has(endpoint, flags::TERMINATING) && has(endpoint, flags::SERVING) && weight(service, endpoint) > 0
}

/// Rules 2.2.1 and 2.2.2 for clients of all endpoints.
fn cluster(service: &ServiceObject, listed: &Listed<'_>, zone: Option<&str>) -> Vec<(IpAddr, u16)> {
    let ready: Vec<_> = listed.iter().filter(|(_, e)| is_ready(service, e)).collect();
    let here = |e: &Endpoint| has(e, flags::THIS_NODE_HINTED);
    let in_zone = |e: &Endpoint| e.zones.iter().any(|zones| zones.iter().any(|z| Some(&**z) == zone));
    let all = |hinted: fn(&Endpoint) -> bool| ready.iter().all(|(_, e)| hinted(e));
    let chosen: Vec<_> = if ready.is_empty() {
        listed.iter().filter(|(_, e)| is_last_resort(service, e)).collect()
    } else if all(|e| has(e, flags::NODE_HINTS)) && ready.iter().any(|(_, e)| here(e)) {
        ready.into_iter().filter(|(_, e)| here(e)).collect()
    } else if all(|e| e.zones.is_some()) && ready.iter().any(|(_, e)| in_zone(e)) {
        ready.into_iter().filter(|(_, e)| in_zone(e)).collect()
    } else {
        ready
    };
    chosen.into_iter().map(|(place, _)| *place).collect()
}

/// Rule 2.2.1 for clients of the endpoints on this node: "local ones are chosen separately".
fn local(service: &ServiceObject, listed: &Listed<'_>) -> Vec<(IpAddr, u16)> {
    let here: Vec<_> = listed.iter().filter(|(_, e)| has(e, flags::LOCAL)).collect();
    let any_ready = here.iter().any(|(_, e)| is_ready(service, e));
    let chosen = |e: &Endpoint| if any_ready { is_ready(service, e) } else { is_last_resort(service, e) };
    here.into_iter().filter(|(_, e)| chosen(e)).map(|(place, _)| *place).collect()
}

/// Returns the answer of the health check node port: the node's ready endpoints, IPv4 and IPv6.
pub(super) fn ready_here(objects: &Objects, key: &ObjectKey, service: &ServiceObject) -> [usize; 2] {
    [IpFamily::V4, IpFamily::V6].map(|family| {
        let all = slices(objects, key).filter(|slice| slice.family == family).flat_map(|slice| &slice.endpoints);
        let ready = all.filter(|e| has(e, flags::LOCAL) && is_ready(service, e));
        ready.map(|e| e.addr).collect::<BTreeSet<_>>().len()
    })
}
