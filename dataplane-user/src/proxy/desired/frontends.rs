//! Derives the frontends of a Service: its addresses, and the flags of each.
//!
//! Rejects addresses that belong to nodes, pods or other Services. Conflicts with other Services
//! over the same address and port are resolved later, by the ownership of frontends.

use std::net::IpAddr;

use dataplane_common::types::service::frontend_flags as flags;

use super::context::Context;
use super::sources::are_restricted;
use super::{DesiredFrontend, FrontendAddr};
use crate::proxy::source::object::{Policy, ServiceObject, ServicePort};
use crate::proxy::source::{Cause, ObjectKey, ObjectKind, Rejection};

/// An address at which a Service is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AddressClaim {
    /// An address of a family that the node serves.
    pub(super) addr: IpAddr,
    /// True for an external or load-balancer IP, false for a cluster IP.
    pub(super) external: bool,
    /// True for a load-balancer IP, even if it is another kind of address as well. Source ranges
    /// apply to it.
    pub(super) balancer: bool,
}

/// Returns the addresses of a Service and reports those that it may not have.
pub(super) fn claims(
    key: &ObjectKey,
    service: &ServiceObject,
    context: &Context,
    is_cluster_ip: impl Fn(IpAddr) -> bool,
    rejections: &mut Vec<Rejection>,
) -> Vec<AddressClaim> {
    let mut claims: Vec<AddressClaim> = Vec::with_capacity(2);
    for addr in service.cluster_ips.iter().filter(|a| context.serves(*a)) {
        match cluster_ip_taken(addr, context) {
            Some(reason) => rejections.push(reject(key, "spec.clusterIPs", addr, reason)),
            None => claims.push(AddressClaim { addr, external: false, balancer: false }),
        }
    }
    let Some(extra) = &service.extra else { return claims };
    let external = extra.external_ips.iter().map(|a| ("spec.externalIPs", *a));
    let balancer = extra.load_balancer_ips.iter().map(|a| ("status.loadBalancer.ingress", *a));
    let external = external.map(|(field, addr)| (field, addr, false));
    let balancer = balancer.map(|(field, addr)| (field, addr, true));
    for (field, addr, balancer) in external.chain(balancer).filter(|(_, a, _)| context.serves(*a)) {
        // An address that is listed twice is one frontend with the properties of both.
        if let Some(known) = claims.iter_mut().find(|c| c.addr == addr) {
            known.balancer |= balancer;
            continue;
        }
        let reason = taken(addr, context).or_else(|| if balancer { None } else { refused(addr, context) });
        if let Some(reason) = reason {
            rejections.push(reject(key, field, addr, reason));
        } else if is_cluster_ip(addr) {
            rejections.push(reject(key, field, addr, "is the cluster IP of another Service"));
        } else if context.cluster.is_service_range(addr) {
            rejections.push(reject(key, field, addr, "is in the range of cluster IPs"));
        } else {
            claims.push(AddressClaim { addr, external: true, balancer });
        }
    }
    claims
}

fn reject(key: &ObjectKey, field: &str, addr: IpAddr, reason: &str) -> Rejection {
    Rejection::of(ObjectKind::Service, key, field, format!("{addr} {reason}")).because(Cause::AddressRefused)
}

/// Returns the reason why no Service may have this cluster IP, if there is one.
///
/// The API server assigns cluster IPs, so the word of a Node does not count against one: whoever
/// controls a kubelet could withdraw any Service on all nodes, and so could a wrong pod range. It
/// counts only outside the known ranges of cluster IPs.
fn cluster_ip_taken(addr: IpAddr, context: &Context) -> Option<&'static str> {
    if context.is_this_node(addr) {
        return Some("is the address of a node");
    }
    let ranges = context.cluster.service_ranges();
    let known = ranges.iter().any(|range| range.is_ipv6() == addr.is_ipv6());
    if known && !context.cluster.is_service_range(addr) { taken(addr, context) } else { None }
}

/// Returns the reason why no Service may have this address, if there is one. Without the check a
/// Service could take over traffic to a node or a pod (CVE-2020-8554).
fn taken(addr: IpAddr, context: &Context) -> Option<&'static str> {
    if context.is_this_node(addr) || context.cluster.is_node(addr) {
        Some("is the address of a node")
    } else if context.cluster.is_pod(addr) {
        Some("is in the range of pod addresses")
    } else {
        None
    }
}

/// Returns the reason why no Service may have this address in `spec.externalIPs`, if there is one.
/// Whoever may create a Service writes that field; the addresses of a load balancer are written by
/// its controller, which needs a permission of its own.
fn refused(addr: IpAddr, context: &Context) -> Option<&'static str> {
    let node = &context.node;
    if context.cluster.is_api_server(addr) {
        Some("is the address of an API server")
    } else if node.gateways.contains(&addr) {
        Some("is the address of a gateway")
    } else if node.resolvers.contains(&addr) {
        Some("is the address of a DNS server of the node")
    } else if node.external_ranges.as_ref().is_some_and(|ranges| !ranges.iter().any(|r| r.contains(addr))) {
        Some("is outside the ranges of the agent's option --external-ips")
    } else {
        None
    }
}

/// Returns the addresses of this node at which node ports are served.
fn node_port_addresses(context: &Context) -> impl Iterator<Item = IpAddr> {
    context.node.nodeport_addresses.iter().copied().filter(|a| context.serves(*a))
}

pub(super) fn of_port(
    service: &ServiceObject,
    port: &ServicePort,
    claims: &[AddressClaim],
    context: &Context,
) -> Vec<DesiredFrontend> {
    let internal = match service.internal {
        Policy::Cluster => 0,
        Policy::Local => flags::INTERNAL_DROP | flags::EXTERNAL_DROP,
    };
    // Under policy Local, pods and nodes that use an external address still reach all endpoints.
    let external = match service.external {
        Policy::Cluster => 0,
        Policy::Local => flags::EXTERNAL_DROP | flags::KEEP_CLIENT,
    };
    let hash = if service.scheduling().is_some_and(|s| s.hash_port) { flags::HASH_PORT } else { 0 };
    let at = |addr, port_number, flags| DesiredFrontend {
        key: FrontendAddr { addr, port: port_number, proto: port.proto },
        flags: flags | hash,
    };
    let own = claims.iter().map(|c| {
        let ranges = if c.balancer && are_restricted(service, c.addr) { flags::SOURCE_RANGES } else { 0 };
        at(c.addr, port.port, ranges | if c.external { external | flags::EXTERNAL } else { internal })
    });
    let mut all = Vec::with_capacity(claims.len());
    all.extend(own);
    if port.node_port != 0 {
        all.extend(node_port_addresses(context).map(|a| at(a, port.node_port, external | flags::NODE_PORT)));
    }
    all
}
