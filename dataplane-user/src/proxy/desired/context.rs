//! What the derivation must know besides the objects of one Service.

use std::net::IpAddr;

pub use dataplane_common::types::address::octets16;
use hashbrown::HashSet;
use ipnetwork::IpNetwork;

use crate::proxy::source::NodeObject;

/// The address of a 16-byte form.
#[must_use]
pub fn ip(addr: [u8; 16]) -> IpAddr {
    IpAddr::from(addr).to_canonical()
}

/// What the node itself is like; the rest of the agent finds it out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeContext {
    /// Name of this node.
    pub name: String,
    /// Zone, if it is not to be taken from the Node object.
    pub zone: Option<Box<str>>,
    /// All local addresses, without loopback and link-local ones: they become the `NODE` entries.
    pub addresses: Vec<IpAddr>,
    /// The node's own address of each family.
    pub primary: Vec<IpAddr>,
    /// The addresses that have node ports, loopback ones among them.
    pub nodeport_addresses: Vec<IpAddr>,
    /// Ranges of pod addresses besides those of the Node objects.
    pub pod_ranges: Vec<IpNetwork>,
    /// Ranges of cluster IPs besides those of the `ServiceCIDR` objects.
    pub service_ranges: Vec<IpNetwork>,
    /// The rule that picks a backend where a Service does not say: one of [`dataplane_common::types::service::scheduler`].
    pub scheduler: u8,
    /// Length of Maglev tables where a Service does not say; 0: the default.
    pub maglev_size: u32,
    /// Serve IPv4.
    pub ipv4: bool,
    /// Serve IPv6.
    pub ipv6: bool,
}

/// What the Node objects say together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterContext {
    addresses: HashSet<[u8; 16]>,
    /// First and last address of each range, sorted.
    pod_ranges: Vec<(u128, u128)>,
    service_ranges: Vec<IpNetwork>,
}

impl ClusterContext {
    /// From all Nodes, and ranges that are known otherwise.
    #[must_use]
    pub fn new<'a>(nodes: impl Iterator<Item = &'a NodeObject>, more_ranges: &[IpNetwork]) -> Self {
        let mut context = Self::default();
        let mut ranges: Vec<_> = more_ranges.iter().map(bounds).collect();
        for node in nodes {
            context.addresses.extend(node.addresses.iter().map(|a| octets16(*a)));
            ranges.extend(node.pod_cidrs.iter().map(bounds));
        }
        ranges.sort_unstable();
        for (first, last) in ranges {
            match context.pod_ranges.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => context.pod_ranges.push((first, last)),
            }
        }
        context
    }

    /// With the ranges of cluster IPs. One within another is left out.
    #[must_use]
    pub fn with_service_ranges<'a>(mut self, ranges: impl Iterator<Item = &'a IpNetwork>) -> Self {
        let mut ranges: Vec<IpNetwork> = ranges.copied().collect();
        ranges.sort_unstable_by_key(|r| (octets16(r.network()), r.prefix()));
        for range in ranges {
            if !self.service_ranges.last().is_some_and(|l| l.contains(range.network())) {
                self.service_ranges.push(range);
            }
        }
        self
    }

    /// The ranges of cluster IPs that are known.
    #[must_use]
    pub fn service_ranges(&self) -> &[IpNetwork] {
        &self.service_ranges
    }

    /// Whether this could become a Service's cluster IP.
    #[must_use]
    pub fn is_service_range(&self, addr: IpAddr) -> bool {
        self.service_ranges.iter().any(|r| r.contains(addr))
    }

    /// Whether a pod could have this address.
    #[must_use]
    pub fn is_pod(&self, addr: &[u8; 16]) -> bool {
        let addr = u128::from_be_bytes(*addr);
        let after = self.pod_ranges.partition_point(|(first, _)| *first <= addr);
        after > 0 && addr <= self.pod_ranges[after - 1].1
    }

    /// Whether a node has this address.
    #[must_use]
    pub fn is_node(&self, addr: &[u8; 16]) -> bool {
        self.addresses.contains(addr)
    }

    /// Whether an endpoint there is outside the pod network: a node, or a server that is no part of the cluster.
    #[must_use]
    pub fn is_host(&self, addr: &[u8; 16]) -> bool {
        self.is_node(addr) || (!self.pod_ranges.is_empty() && !self.is_pod(addr))
    }
}

fn bounds(range: &IpNetwork) -> (u128, u128) {
    let number = |a| u128::from_be_bytes(octets16(a));
    (number(range.network()), number(range.broadcast()))
}

/// All that the derivation must know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Context {
    /// This node.
    pub node: NodeContext,
    /// All nodes.
    pub cluster: ClusterContext,
}

impl Context {
    /// Whether this node has this address.
    #[must_use]
    pub fn is_this_node(&self, addr: IpAddr) -> bool {
        self.node.addresses.contains(&addr)
    }

    /// Whether the node serves the family of this address.
    #[must_use]
    pub const fn serves(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(_) => self.node.ipv4,
            IpAddr::V6(_) => self.node.ipv6,
        }
    }
}
