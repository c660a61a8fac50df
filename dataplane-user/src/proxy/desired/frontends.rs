//! Which addresses a Service may have, and what a client finds at each.

use std::net::IpAddr;

use dataplane_common::types::service::frontend_flags as flags;

use super::context::{Context, octets16};
use super::sources::are_restricted;
use super::{DesiredFrontend, FrontendAddr};
use crate::proxy::source::object::{Policy, ServiceObject, ServicePort};
use crate::proxy::source::{Cause, ObjectKey, ObjectKind, Rejection};

/// An address that a Service may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AddressClaim {
    /// The address.
    pub(super) addr: IpAddr,
    /// From outside the cluster: an external or load-balancer IP.
    pub(super) external: bool,
    /// A load-balancer IP, whatever else it is: source ranges hold here.
    pub(super) balancer: bool,
}

/// The addresses of a Service; those that belong to others are refused.
pub(super) fn claims(
    key: &ObjectKey,
    service: &ServiceObject,
    context: &Context,
    is_cluster_ip: impl Fn(&[u8; 16]) -> bool,
    rejections: &mut Vec<Rejection>,
) -> Vec<AddressClaim> {
    let mut claims: Vec<AddressClaim> = Vec::with_capacity(2);
    for addr in service.cluster_ips.iter().filter(|a| context.serves(*a)) {
        match taken(addr, context) {
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
        if let Some(known) = claims.iter_mut().find(|c| c.addr == addr) {
            known.balancer |= balancer;
            continue;
        }
        if let Some(reason) = taken(addr, context) {
            rejections.push(reject(key, field, addr, reason));
        } else if is_cluster_ip(&octets16(addr)) {
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

/// Why no Service may have this address, if so (CVE-2020-8554: else a Service could take over a node's or a pod's traffic).
fn taken(addr: IpAddr, context: &Context) -> Option<&'static str> {
    let octets = octets16(addr);
    if context.is_this_node(addr) || context.cluster.is_node(&octets) {
        Some("is the address of a node")
    } else if context.cluster.is_pod(&octets) {
        Some("is in the range of pod addresses")
    } else {
        None
    }
}

/// The addresses of this node at which node ports are served.
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
    // Pods and nodes that use an external address have all endpoints whatever the policy is.
    let external = match service.external {
        Policy::Cluster => 0,
        Policy::Local => flags::EXTERNAL_DROP | flags::KEEP_CLIENT,
    };
    let hash = if service.scheduling().is_some_and(|s| s.hash_port) { flags::HASH_PORT } else { 0 };
    let at = |addr, port_number, flags| DesiredFrontend {
        key: FrontendAddr { addr: octets16(addr), port: port_number, proto: port.proto },
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
