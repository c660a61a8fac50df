//! A second opinion on Services: small, slow and obvious.
//!
//! [`evaluate`] says from the API objects alone what the maps of a node must contain, by the rules
//! of docs/service-matrix.md, docs/services.md and docs/schedulers.md. Random histories compare it
//! with what the controller has written. It shares no code with `desired` and `reconcile`, keeps no
//! state, and computes everything again from all objects each time.

mod compare;
mod endpoints;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_common::types::pod::address_kind;
use dataplane_common::types::service::frontend_flags as flags;
use ipnetwork::IpNetwork;

use self::endpoints::{PortEndpoints, Set};
use super::CLOCK;
use super::objects::Objects;
use super::view::Seen;
use crate::proxy::source::object::{Policy, ServicePort};
use crate::proxy::source::{ObjectKey, ServiceObject};

/// Address, port and protocol.
type FrontendId = (IpAddr, u16, u8);
/// First address and bits of a range of clients.
type Range = (IpAddr, u32);

/// A slot table: its members by address and port, and how often each is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Table {
    scheduler: u8,
    maglev_size: u32,
    members: Vec<Seen>,
}

/// What a Service asks for at one frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Claim {
    service: ObjectKey,
    /// Name of the service port in the map `services`.
    port: String,
    internal: Table,
    external: Table,
    flags: u16,
    affinity_ticks: u32,
    /// The clients that may use it; empty if all may.
    ranges: BTreeSet<Range>,
}

/// What the maps must contain.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Expected {
    /// All claims on each frontend. The first one is served.
    claims: BTreeMap<FrontendId, Vec<Claim>>,
    backends: BTreeSet<(String, Seen)>,
    names: BTreeSet<String>,
    sources: BTreeSet<(String, IpAddr, u32)>,
    addresses: BTreeMap<IpAddr, u8>,
    rejections: Vec<String>,
    /// Service and ready endpoints on this node (IPv4, IPv6) by health check node port.
    health: BTreeMap<u16, (ObjectKey, [usize; 2])>,
}

/// An address at which a Service is served.
#[derive(Clone, Copy)]
struct ServiceAddress {
    addr: IpAddr,
    /// An external or load-balancer IP.
    external: bool,
    balancer: bool,
}

/// Computes what the maps must contain.
pub(super) fn evaluate(objects: &Objects) -> Expected {
    let mut expected = Expected::default();
    // "The Service that was created first gets it. If two were created in the same second,
    // namespace and name decide in alphabetical order."
    let mut by_age: Vec<_> = objects.services.iter().collect();
    by_age.sort_by_key(|(key, service)| (service.created, *key));
    for (key, service) in by_age {
        let addresses = addresses(objects, key, service, &mut expected.rejections);
        for port in &service.ports {
            expected.add_port(objects, key, service, port, &addresses);
        }
        if let Some(port) = service.extra.as_ref().map(|e| e.health_check_node_port).filter(|port| *port != 0) {
            expected.health.insert(port, (key.clone(), endpoints::ready_here(objects, key, service)));
        }
    }
    expected.add_conflicts();
    expected.add_addresses(objects);
    expected.rejections.sort_unstable();
    expected
}

/// Returns the addresses of a Service without its node ports, and says which it may not have.
fn addresses(
    objects: &Objects,
    key: &ObjectKey,
    service: &ServiceObject,
    rejections: &mut Vec<String>,
) -> Vec<ServiceAddress> {
    let mut found: Vec<ServiceAddress> = Vec::new();
    let mut refuse =
        |field: &str, addr: IpAddr, why: &str| rejections.push(format!("Service {key}, {field}: {addr} {why}"));
    for addr in service.cluster_ips.iter().filter(|a| is_served(objects, *a)) {
        let ranges: Vec<IpNetwork> = service_ranges(objects).filter(|r| r.is_ipv4() == addr.is_ipv4()).collect();
        let outside = !ranges.is_empty() && !ranges.iter().any(|r| r.contains(addr));
        if objects.node.listening.contains(&addr) {
            refuse("spec.clusterIPs", addr, "is on a device of this node, and a process listens there");
        } else if objects.node.primary.contains(&addr) || (outside && is_of_a_node(objects, addr)) {
            refuse("spec.clusterIPs", addr, "is the address of a node");
        } else if outside && is_of_a_pod(objects, addr) {
            refuse("spec.clusterIPs", addr, "is in the range of pod addresses");
        } else {
            found.push(ServiceAddress { addr, external: false, balancer: false });
        }
    }
    let Some(extra) = &service.extra else { return found };
    let external = extra.external_ips.iter().map(|addr| ("spec.externalIPs", *addr));
    let balancer = extra.load_balancer_ips.iter().map(|addr| ("status.loadBalancer.ingress", *addr));
    for (field, addr) in external.chain(balancer).filter(|(_, addr)| is_served(objects, *addr)) {
        let is_balancer = field.starts_with("status");
        if let Some(known) = found.iter_mut().find(|known| known.addr == addr) {
            known.balancer |= is_balancer;
        } else if is_of_a_pod(objects, addr) {
            refuse(field, addr, "is in the range of pod addresses");
        } else if objects.services.values().any(|s| s.cluster_ips.iter().any(|c| c == addr)) {
            refuse(field, addr, "is the cluster IP of another Service");
        } else if service_ranges(objects).any(|range| range.contains(addr)) {
            refuse(field, addr, "is in the range of cluster IPs");
        } else {
            found.push(ServiceAddress { addr, external: true, balancer: is_balancer });
        }
    }
    found
}

const fn is_served(objects: &Objects, addr: IpAddr) -> bool {
    if addr.is_ipv4() { objects.node.ipv4 } else { objects.node.ipv6 }
}

fn service_ranges(objects: &Objects) -> impl Iterator<Item = IpNetwork> {
    objects.service_cidrs.values().flatten().chain(&objects.node.service_ranges).copied()
}

fn is_of_a_node(objects: &Objects, addr: IpAddr) -> bool {
    objects.node.addresses.contains(&addr) || objects.nodes.values().any(|node| node.addresses.contains(&addr))
}

fn pod_ranges(objects: &Objects) -> impl Iterator<Item = &IpNetwork> {
    objects.nodes.values().flat_map(|node| &node.pod_cidrs).chain(&objects.node.pod_ranges)
}

fn is_of_a_pod(objects: &Objects, addr: IpAddr) -> bool {
    pod_ranges(objects).any(|range| range.contains(addr))
}

/// Returns the clients that `loadBalancerSourceRanges` allows. "If the node's own address lies in a
/// range, all addresses of that node are allowed."
fn allowed_clients(objects: &Objects, service: &ServiceObject) -> BTreeSet<Range> {
    let ranges = service.extra.iter().flat_map(|extra| &extra.source_ranges);
    let mut allowed = BTreeSet::new();
    for range in ranges {
        allowed.insert((range.network(), range.prefix().into()));
        if objects.node.primary.iter().any(|own| range.contains(*own)) {
            let own = objects.node.addresses.iter().filter(|a| a.is_ipv4() == range.is_ipv4());
            allowed.extend(own.map(|addr| (*addr, if addr.is_ipv4() { 32 } else { 128 })));
        }
    }
    allowed
}

/// Returns the smallest number of ticks of 256 jiffies after which an affinity may end: the packet
/// path forgets a client when so many ticks have begun since it was last seen, and the first one
/// may have been about to end.
fn affinity_ticks(seconds: u32) -> u32 {
    if seconds == 0 {
        return 0;
    }
    let lasts = |ticks: &u32| u64::from(*ticks - 1) * 256 >= u64::from(seconds) * u64::from(CLOCK.jiffies_per_second);
    (1..=u32::MAX).find(lasts).unwrap()
}

impl Expected {
    fn add_port(
        &mut self,
        objects: &Objects,
        key: &ObjectKey,
        service: &ServiceObject,
        port: &ServicePort,
        addresses: &[ServiceAddress],
    ) {
        let name = if port.name.is_empty() { key.to_string() } else { format!("{key}:{}", port.name) };
        self.names.insert(name.clone());
        let scheduling = service.scheduling();
        let hash_port = if scheduling.is_some_and(|s| s.hash_port) { flags::HASH_PORT } else { 0 };
        let scheduler = scheduling.and_then(|s| s.scheduler).unwrap_or(objects.node.scheduler);
        let maglev_size = scheduling.and_then(|s| s.maglev_size).unwrap_or(objects.node.maglev_size);
        let clients = allowed_clients(objects, service);
        let at = |a: &ServiceAddress| {
            let restricted = service.extra.as_ref().is_some_and(|e| e.restricted[usize::from(a.addr.is_ipv6())]);
            let guarded = if a.balancer && restricted { flags::SOURCE_RANGES } else { 0 };
            let kind = if a.external { flags::EXTERNAL } else { 0 };
            ((a.addr, port.port, port.proto), kind | guarded)
        };
        let mut frontends: Vec<(FrontendId, u16)> = addresses.iter().map(at).collect();
        if port.node_port != 0 {
            let served = objects.node.nodeport_addresses.iter().filter(|addr| is_served(objects, **addr));
            let served =
                served.filter(|addr| port.node_port != port.port || addresses.iter().all(|a| a.addr != **addr));
            frontends.extend(served.map(|addr| ((*addr, port.node_port, port.proto), flags::NODE_PORT)));
        }
        for v6 in [false, true] {
            let of_family: Vec<_> = frontends.iter().filter(|((addr, ..), _)| addr.is_ipv6() == v6).collect();
            let sides = of_family.iter().map(|(_, kind)| sets_of(service, *kind));
            let endpoints = PortEndpoints::new(objects, key, service, port, v6, &sides.collect::<Vec<_>>());
            self.backends.extend(endpoints.backends().map(|seen| (name.clone(), seen)));
            for (id, kind) in of_family {
                let [internal, external] = sets_of(service, *kind).map(|set| Table {
                    scheduler,
                    maglev_size,
                    members: endpoints.members(set),
                });
                let guarded = kind & flags::SOURCE_RANGES != 0;
                let ranges = if guarded { clients.clone() } else { BTreeSet::new() };
                let claim = Claim {
                    service: key.clone(),
                    port: name.clone(),
                    internal,
                    external,
                    flags: kind | policy_flags(service, *kind) | hash_port,
                    affinity_ticks: affinity_ticks(service.affinity),
                    ranges,
                };
                self.sources.extend(claim.ranges.iter().map(|(addr, bits)| (name.clone(), *addr, *bits)));
                self.claims.entry(*id).or_default().push(claim);
            }
        }
    }

    /// Reports each claim that is not the first one on its frontend.
    fn add_conflicts(&mut self) {
        for ((addr, port, _), claims) in &self.claims {
            for loser in &claims[1..] {
                let (loser, owner) = (&loser.service, &claims[0].service);
                self.rejections
                    .push(format!("Service {loser}, spec.ports: {addr} port {port} is taken by Service {owner}"));
            }
        }
    }

    /// Adds the kinds of all addresses. An address at which a Service has only external frontends
    /// is external, and one of the node is the node's unless it is a cluster IP that is served.
    /// Loopback has no entry.
    fn add_addresses(&mut self, objects: &Objects) {
        for ((addr, ..), claims) in self.claims.iter().filter(|((addr, ..), _)| !addr.is_loopback()) {
            let external = claims[0].flags & flags::EXTERNAL != 0;
            let kind = if external { address_kind::EXTERNAL } else { address_kind::SERVICE };
            let known = self.addresses.entry(*addr).or_insert(kind);
            if !external {
                *known = kind;
            }
        }
        for addr in &objects.node.addresses {
            let is_cluster_ip = |((at, ..), claims): (&FrontendId, &Vec<Claim>)| {
                at == addr && claims[0].flags & (flags::EXTERNAL | flags::NODE_PORT) == 0
            };
            if !self.claims.iter().any(is_cluster_ip) {
                self.addresses.insert(*addr, address_kind::NODE);
            }
        }
    }
}

/// Returns the endpoints that internal and external clients of a frontend use.
///
/// `internalTrafficPolicy` is about cluster IPs, for whoever uses them. `externalTrafficPolicy` is
/// about external addresses and node ports, at which "pods and processes of the node reach all
/// endpoints".
fn sets_of(service: &ServiceObject, kind: u16) -> [Set; 2] {
    let set = |policy| if policy == Policy::Local { Set::Local } else { Set::Cluster };
    if kind & (flags::EXTERNAL | flags::NODE_PORT) == 0 {
        [set(service.internal); 2]
    } else {
        [Set::Cluster, set(service.external)]
    }
}

/// Returns the flags of a frontend that follow from the traffic policies: under policy Local,
/// packets are dropped instead of rejected, and external clients keep their address.
fn policy_flags(service: &ServiceObject, kind: u16) -> u16 {
    let external_address = kind & (flags::EXTERNAL | flags::NODE_PORT) != 0;
    let policy = if external_address { service.external } else { service.internal };
    match (policy, external_address) {
        (Policy::Cluster, _) => 0,
        (Policy::Local, true) => flags::EXTERNAL_DROP | flags::KEEP_CLIENT,
        (Policy::Local, false) => flags::INTERNAL_DROP | flags::EXTERNAL_DROP,
    }
}
