//! Derives the frontends of a Service: its addresses, and the flags of each.
//!
//! Rejects addresses that belong to pods or other Services, and ports that nodes need for
//! themselves. Conflicts with other Services over the same address and port are resolved later, by
//! the ownership of frontends.

use std::net::IpAddr;

use dataplane_common::types::service::{frontend_flags as flags, proto};

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
        let refused = if balancer { None } else { refused(addr, context) };
        if let Some(reason) = pod_range(addr, context).or(refused) {
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
/// A cluster IP on a device of the node stays the Service's (`kube-ipvs0`), unless a process
/// listens there: then the node serves it itself (`NodeLocal` `DNSCache`).
///
/// The API server assigns cluster IPs, so the word of a Node does not count against one: whoever
/// controls a kubelet could withdraw any Service on all nodes, and so could a wrong pod range. It
/// counts only outside the known ranges of cluster IPs.
fn cluster_ip_taken(addr: IpAddr, context: &Context) -> Option<&'static str> {
    if context.node.primary.contains(&addr) {
        return Some("is the address of a node");
    }
    if context.node.listening.contains(&addr) {
        return Some("is on a device of this node, and a process listens there");
    }
    let ranges = context.cluster.service_ranges();
    let known = ranges.iter().any(|range| range.is_ipv6() == addr.is_ipv6());
    if !known || context.cluster.is_service_range(addr) {
        None
    } else if context.is_this_node(addr) || context.cluster.is_node(addr) {
        Some("is the address of a node")
    } else {
        pod_range(addr, context)
    }
}

/// Returns the reason why no Service may have this address, if it may be a pod's. Without the check
/// a Service could take over traffic to a pod (CVE-2020-8554).
fn pod_range(addr: IpAddr, context: &Context) -> Option<&'static str> {
    context.cluster.is_pod(addr).then_some("is in the range of pod addresses")
}

/// Returns the reason why no Service may have this port of an external address, if there is one.
///
/// At an address of a node, the ports of a Service are the Service's, also if a process listens
/// there, as with kube-proxy. Excepted are those without which the node is lost to the cluster.
fn reserved(addr: IpAddr, port: &ServicePort, context: &Context) -> Option<&'static str> {
    if !context.is_this_node(addr) && !context.cluster.is_node(addr) {
        None
    } else if context.node.reserved_ports.contains(&(port.proto, port.port)) {
        Some("is a port that nodes need for themselves")
    } else if port.proto == proto::TCP && context.cluster.is_api_endpoint(addr, port.port) {
        Some("is the port of an API server")
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

/// Returns the frontends of one port, each address and port once, and reports those that it may not
/// have.
pub(super) fn of_port(
    (key, service): (&ObjectKey, &ServiceObject),
    port: &ServicePort,
    claims: &[AddressClaim],
    context: &Context,
    rejections: &mut Vec<Rejection>,
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
    let mut all = Vec::with_capacity(claims.len());
    for c in claims {
        let reason = if c.external { reserved(c.addr, port, context) } else { None };
        if let Some(reason) = reason {
            let reason = format!("{} port {} {reason}", c.addr, port.port);
            let rejection = Rejection::of(ObjectKind::Service, key, "spec.ports", reason);
            rejections.push(rejection.because(Cause::AddressRefused));
            continue;
        }
        let ranges = if c.balancer && are_restricted(service, c.addr) { flags::SOURCE_RANGES } else { 0 };
        all.push(at(c.addr, port.port, ranges | if c.external { external | flags::EXTERNAL } else { internal }));
    }
    if port.node_port != 0 {
        // With the number of the port itself, an external address of the node has it already.
        let taken = |a: &IpAddr| port.node_port == port.port && claims.iter().any(|c| c.addr == *a);
        let addresses = node_port_addresses(context).filter(|a| !taken(a));
        all.extend(addresses.map(|a| at(a, port.node_port, external | flags::NODE_PORT)));
    }
    all
}
