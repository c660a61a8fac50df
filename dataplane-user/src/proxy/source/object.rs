//! Kubernetes objects, cut down to what the dataplane needs.
//!
//! 50,000 Services and 150,000 endpoints live in these types, so they are small: no maps, no empty strings, names that
//! repeat are shared, rare fields are boxed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane_common::types::fnv::hash32;
use ipnetwork::IpNetwork;

/// At most one address of each family.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DualAddr {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl DualAddr {
    /// The addresses that are there, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Policy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Endpoints of this node only.
    Local,
}

/// A Service whose cluster IPs are not `None` and whose type is not `ExternalName`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ServiceObject {
    /// `spec.clusterIPs`.
    pub cluster_ips: DualAddr,
    /// `spec.ports`.
    pub ports: Box<[ServicePort]>,
    /// When it was created, in seconds since 1970: the older of two claimants to an address wins.
    pub created: u32,
    /// Client-IP affinity in seconds; 0: none.
    pub affinity: u32,
    /// `spec.internalTrafficPolicy`.
    pub internal: Policy,
    /// `spec.externalTrafficPolicy`.
    pub external: Policy,
    /// Fields that few Services have.
    pub extra: Option<Box<ServiceExtra>>,
}

/// Fields that few Services have.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ServiceExtra {
    /// `spec.externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` absent or `VIP`.
    pub load_balancer_ips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`, without bits beyond the prefixes.
    pub source_ranges: Box<[IpNetwork]>,
    /// Whether IPv4 and IPv6 have source ranges, usable or not: a family that has none is open to everybody, and one whose ranges can't be read
    /// to nobody.
    pub restricted: [bool; 2],
    /// `spec.healthCheckNodePort`; 0: none.
    pub health_check_node_port: u16,
    /// What its annotations say of the choice of backends.
    pub scheduling: Option<Box<Scheduling>>,
}

impl ServiceObject {
    /// What its annotations say of the choice of backends.
    #[must_use]
    pub fn scheduling(&self) -> Option<&Scheduling> {
        self.extra.as_ref()?.scheduling.as_deref()
    }
}

/// What the annotations of a Service say of the choice of backends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scheduling {
    /// One of [`dataplane_common::types::service::scheduler`]; else the node's.
    pub scheduler: Option<u8>,
    /// Length of Maglev tables; else the node's.
    pub maglev_size: Option<u32>,
    /// Rules that hash the client's address hash its port, too.
    pub hash_port: bool,
    /// Weights of endpoints.
    pub weights: Weights,
}

/// Weights, by what they are for. The most exact that fits counts: an address, the smallest network, a node, all others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Weights {
    /// Networks, the smallest first; addresses as networks of their own.
    pub networks: Box<[(IpNetwork, u16)]>,
    /// Nodes, by [`name_hash`].
    pub nodes: Box<[(u32, u16)]>,
    /// All others; else 1.
    pub others: Option<u16>,
}

impl Weights {
    /// The weight of an endpoint.
    #[must_use]
    pub fn of(&self, endpoint: &Endpoint) -> u16 {
        let addr = IpAddr::from(endpoint.addr).to_canonical();
        let network = self.networks.iter().find(|(n, _)| n.contains(addr)).map(|(_, w)| *w);
        let node = || self.nodes.iter().find(|(n, _)| *n == endpoint.node && *n != 0).map(|(_, w)| *w);
        network.or_else(node).or(self.others).unwrap_or(1)
    }
}

/// A name in four bytes, for endpoints that exist by the hundred thousand (FNV-1a). Two of 10,000 nodes have the same once in 86 clusters; then a
/// weight for one holds for the other. 0: no name.
#[must_use]
pub fn name_hash(name: &str) -> u32 {
    let hash = hash32(name.as_bytes());
    if name.is_empty() { 0 } else { hash.max(1) }
}

/// One of `spec.ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Name; may be empty.
    pub name: Arc<str>,
    /// Port.
    pub port: u16,
    /// Node port; 0: none.
    pub node_port: u16,
    /// IP protocol number.
    pub proto: u8,
}

/// An `EndpointSlice` of addresses.
#[derive(Clone, PartialEq, Debug)]
pub struct SliceObject {
    /// Name of the Service in the same namespace.
    pub service: Box<str>,
    /// Ports, shared by all endpoints.
    pub ports: Box<[SlicePort]>,
    /// Endpoints, sorted by address.
    pub endpoints: Box<[Endpoint]>,
    /// When the change that caused this state of the slice happened (`endpoints.kubernetes.io/last-change-trigger-time`), in
    /// milliseconds since 1970; 0: unknown.
    pub triggered: u64,
    /// `addressType: IPv6`.
    pub v6: bool,
}

/// One of an `EndpointSlice`'s ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlicePort {
    /// The Service port's name; may be empty.
    pub name: Arc<str>,
    /// Target port.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
}

/// Names of zones; thin behind an `Arc`, and shared by all endpoints with the same hints.
pub type Zones = Box<[Box<str>]>;

/// One of an `EndpointSlice`'s endpoints.
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoint {
    /// The first address; IPv4 as `::ffff:a.b.c.d`.
    pub addr: [u8; 16],
    /// Zones that the endpoint should serve.
    pub zones: Option<Arc<Zones>>,
    /// [`name_hash`] of its node.
    pub node: u32,
    /// Bits of [`endpoint_flags`].
    pub flags: u8,
}

/// Bits of [`Endpoint::flags`].
pub mod endpoint_flags {
    /// Condition `ready`.
    pub const READY: u8 = 1;
    /// Condition `serving`.
    pub const SERVING: u8 = 2;
    /// Condition `terminating`.
    pub const TERMINATING: u8 = 4;
    /// On this node.
    pub const LOCAL: u8 = 8;
    /// Has hints for nodes.
    pub const NODE_HINTS: u8 = 16;
    /// One of them names this node.
    pub const THIS_NODE_HINTED: u8 = 32;
    /// Names another node as its own.
    pub const REMOTE: u8 = 64;
}

/// A Node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeObject {
    /// `InternalIP` addresses first, then `ExternalIP`.
    pub addresses: Box<[IpAddr]>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Box<[IpNetwork]>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Box<str>>,
    /// Has a deletion timestamp or the taint of the cluster autoscaler.
    pub leaving: bool,
}

/// A Pod of this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PodObject {
    /// UID.
    pub uid: Box<str>,
    /// Addresses.
    pub addresses: DualAddr,
    /// Shares the node's network namespace.
    pub host_network: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_that_exist_by_the_ten_thousand_are_small() {
        assert!(size_of::<Endpoint>() <= 32, "{}", size_of::<Endpoint>());
        assert!(size_of::<ServicePort>() <= 24);
        assert!(size_of::<SlicePort>() <= 24);
        assert!(size_of::<ServiceObject>() <= 72, "{}", size_of::<ServiceObject>());
        assert!(size_of::<SliceObject>() <= 64);
    }
}
