//! Compact forms of Kubernetes objects with only the fields that the dataplane needs.
//!
//! Made by `decode`, kept by the controller, read by `desired`. A cluster with 50,000 Services and
//! 150,000 endpoints lives in these types, so they are small: no maps, no empty strings, shared
//! names, boxed rare fields.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane_common::types::fnv::hash32;
use dataplane_common::types::ip_family::IpFamily;
use ipnetwork::IpNetwork;

/// At most one address of each family.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DualAddr {
    /// The IPv4 address, if there is one.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address, if there is one.
    pub v6: Option<Ipv6Addr>,
}

impl DualAddr {
    /// Returns the present addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// The value of `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Policy {
    /// Use all endpoints of the cluster.
    #[default]
    Cluster,
    /// Use only endpoints of this node.
    Local,
}

/// A Service whose cluster IPs are not `None` and whose type is not `ExternalName`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ServiceObject {
    /// Valid addresses of `spec.clusterIPs`.
    pub cluster_ips: DualAddr,
    /// Valid entries of `spec.ports`, in their order.
    pub ports: Box<[ServicePort]>,
    /// Creation time in seconds since 1970. The older of two Services gets a contested address.
    pub created: u32,
    /// Timeout of client-IP affinity in seconds; 0 if there is no affinity.
    pub affinity: u32,
    /// `spec.internalTrafficPolicy`, for clients of the cluster IPs.
    pub internal: Policy,
    /// `spec.externalTrafficPolicy`, for external addresses and node ports.
    pub external: Policy,
    /// Fields that few Services have.
    pub extra: Option<Box<ServiceExtra>>,
}

/// Fields that few Services have.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ServiceExtra {
    /// Valid addresses of `spec.externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` absent or `VIP`.
    pub load_balancer_ips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`, without bits beyond the prefixes.
    pub source_ranges: Box<[IpNetwork]>,
    /// True for each family (IPv4, IPv6) that has source ranges, valid or not. A family without
    /// ranges is open to all clients; one whose ranges are all invalid is closed.
    pub restricted: [bool; 2],
    /// `spec.healthCheckNodePort`; 0 if it is not set.
    pub health_check_node_port: u16,
    /// Settings of the annotations `ropeway.dev/*`.
    pub scheduling: Option<Box<Scheduling>>,
}

impl ServiceObject {
    /// Returns the settings of the annotations, if the Service has any.
    #[must_use]
    pub fn scheduling(&self) -> Option<&Scheduling> {
        self.extra.as_ref()?.scheduling.as_deref()
    }
}

/// Settings of a Service's annotations for the choice of backends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scheduling {
    /// One of [`dataplane_common::types::service::scheduler`]; `None` for the node's default.
    pub scheduler: Option<u8>,
    /// Length of Maglev tables; `None` for the node's default.
    pub maglev_size: Option<u32>,
    /// Schedulers that hash the client's address also hash its port.
    pub hash_port: bool,
    /// Weights of the endpoints.
    pub weights: Weights,
}

/// Weights by the endpoints that they apply to. The most specific one is used: that of the address,
/// of the smallest network, of the node, the default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Weights {
    /// Weights of networks, the longest prefix first. An address is a network of one.
    pub networks: Box<[(IpNetwork, u16)]>,
    /// Weights of nodes, by [`name_hash`].
    pub nodes: Box<[(u32, u16)]>,
    /// Weight of all other endpoints; 1 if it is `None`.
    pub others: Option<u16>,
}

impl Weights {
    /// Returns the weight of an endpoint.
    #[must_use]
    pub fn of(&self, endpoint: &Endpoint) -> u16 {
        let network = self.networks.iter().find(|(n, _)| n.contains(endpoint.addr)).map(|(_, w)| *w);
        let node = || self.nodes.iter().find(|(n, _)| *n == endpoint.node && *n != 0).map(|(_, w)| *w);
        network.or_else(node).or(self.others).unwrap_or(1)
    }
}

/// Hashes a name to four bytes (FNV-1a), because endpoints exist by the hundred thousand. Returns 0
/// for the empty name.
///
/// In one of 86 clusters of 10,000 nodes, two nodes have the same hash. There, a weight of one also
/// applies to the other.
#[must_use]
pub fn name_hash(name: &str) -> u32 {
    let hash = hash32(name.as_bytes());
    if name.is_empty() { 0 } else { hash.max(1) }
}

/// A valid entry of `spec.ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Name of the port; may be empty.
    pub name: Arc<str>,
    /// Port at the Service's addresses.
    pub port: u16,
    /// Port at the node's addresses; 0 if there is none.
    pub node_port: u16,
    /// IP protocol number: 6 (TCP), 17 (UDP) or 132 (SCTP).
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
    /// Time of the change that caused this state of the slice
    /// (`endpoints.kubernetes.io/last-change-trigger-time`), in milliseconds since 1970; 0 if
    /// unknown.
    pub triggered: u64,
    /// `addressType`.
    pub family: IpFamily,
}

/// One of an `EndpointSlice`'s ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlicePort {
    /// Name of the Service port; may be empty.
    pub name: Arc<str>,
    /// Port at the endpoints.
    pub port: u16,
    /// IP protocol number: 6 (TCP), 17 (UDP) or 132 (SCTP).
    pub proto: u8,
}

/// Names of zones. Behind an `Arc` they take one pointer and are shared by all endpoints with the
/// same hints.
pub type Zones = Box<[Box<str>]>;

/// One of an `EndpointSlice`'s endpoints.
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoint {
    /// The first address.
    pub addr: IpAddr,
    /// Zones whose clients should use the endpoint (topology hints).
    pub zones: Option<Arc<Zones>>,
    /// [`name_hash`] of the endpoint's node.
    pub node: u32,
    /// Bits of [`endpoint_flags`]: conditions, place and hints.
    pub flags: u8,
}

/// Bits of [`Endpoint::flags`]: conditions, place and hints.
pub mod endpoint_flags {
    /// The condition `ready` is true.
    pub const READY: u8 = 1;
    /// The condition `serving` is true.
    pub const SERVING: u8 = 2;
    /// The condition `terminating` is true.
    pub const TERMINATING: u8 = 4;
    /// The endpoint is on this node.
    pub const LOCAL: u8 = 8;
    /// The endpoint has hints for nodes.
    pub const NODE_HINTS: u8 = 16;
    /// A hint names this node.
    pub const THIS_NODE_HINTED: u8 = 32;
    /// The endpoint is on another node.
    pub const REMOTE: u8 = 64;
}

/// The parts of a Node that the dataplane needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeObject {
    /// `InternalIP` addresses first, then `ExternalIP` addresses.
    pub addresses: Box<[IpAddr]>,
    /// The number of `ExternalIP` addresses.
    pub external: usize,
    /// Ranges of pod addresses, from `spec.podCIDRs`.
    pub pod_cidrs: Box<[IpNetwork]>,
    /// Value of the label `topology.kubernetes.io/zone`.
    pub zone: Option<Box<str>>,
    /// The Node has a deletion timestamp or the taint of the cluster autoscaler.
    pub leaving: bool,
}

impl NodeObject {
    /// Returns the node's first `InternalIP` address of a family. Kubelet compares that one with
    /// the node's devices; further ones may be claimed wrongly.
    #[must_use]
    pub fn host(&self, family: IpFamily) -> Option<IpAddr> {
        let internal = self.addresses.len().saturating_sub(self.external);
        self.addresses.iter().take(internal).copied().find(|addr| family.has(*addr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_objects_are_small() {
        assert!(size_of::<Endpoint>() <= 32, "{}", size_of::<Endpoint>());
        assert!(size_of::<ServicePort>() <= 24);
        assert!(size_of::<SlicePort>() <= 24);
        assert!(size_of::<ServiceObject>() <= 72, "{}", size_of::<ServiceObject>());
        assert!(size_of::<SliceObject>() <= 64);
    }
}
