//! The input of the derivation besides the objects of one Service: facts about this node and about
//! all Nodes.
//!
//! The agent fills [`NodeContext`]; the controller derives [`ClusterContext`] from the Node and
//! `ServiceCIDR` objects. Both are plain values.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane_common::types::address::octets16;
use hashbrown::HashSet;
use ipnetwork::IpNetwork;

use crate::proxy::source::NodeObject;

/// Returns the number by which addresses are sorted and compared with ranges: that of the 16-byte
/// form, IPv4 as `::ffff:a.b.c.d`. One comparison of it is cheaper than one of [`IpAddr`].
#[must_use]
pub const fn sort_key(addr: IpAddr) -> u128 {
    u128::from_be_bytes(octets16(addr))
}

/// Facts about this node, which the agent provides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeContext {
    /// Name of this node.
    pub name: String,
    /// Zone of the node; `None` to take it from the Node object.
    pub zone: Option<Box<str>>,
    /// All local addresses except loopback and link-local ones. They get the `NODE` entries.
    pub addresses: Vec<IpAddr>,
    /// Those of them at which a process listens, if a device has them as single addresses.
    pub listening: Vec<IpAddr>,
    /// Protocols and ports that no Service gets at the addresses of nodes.
    pub reserved_ports: Vec<(u8, u16)>,
    /// The node's primary address of each family.
    pub primary: Vec<IpAddr>,
    /// Addresses at which node ports are served; may include loopback addresses.
    pub nodeport_addresses: Vec<IpAddr>,
    /// Ranges of pod addresses in addition to those of the Node objects.
    pub pod_ranges: Vec<IpNetwork>,
    /// Ranges of cluster IPs in addition to those of the `ServiceCIDR` objects.
    pub service_ranges: Vec<IpNetwork>,
    /// Ranges in which external addresses are served; `None` for all.
    pub external_ranges: Option<Vec<IpNetwork>>,
    /// Networks in which an endpoint can be on this node: its pod ranges, and those that the host's
    /// routes lead to devices of other programs. `None`: the `nodeName` of the endpoint decides
    /// alone, because another plugin gives pods their addresses.
    pub local_networks: Option<Vec<IpNetwork>>,
    /// Next hops of the node's routes.
    pub gateways: Vec<IpAddr>,
    /// DNS servers of the node.
    pub resolvers: Vec<IpAddr>,
    /// Default scheduler: one of [`dataplane_common::types::service::scheduler`].
    pub scheduler: u8,
    /// Default length of Maglev tables; 0 for the built-in default.
    pub maglev_size: u32,
    /// Slots of the map that can't grow any more; 0: unlimited.
    pub max_slots: u32,
    /// True if Services have IPv4 frontends.
    pub ipv4: bool,
    /// True if Services have IPv6 frontends.
    pub ipv6: bool,
}

/// Addresses and ranges of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterContext {
    /// Addresses of all Nodes.
    addresses: HashSet<IpAddr>,
    /// First and last address of each range, sorted and without overlaps.
    pod_ranges: Vec<(u128, u128)>,
    service_ranges: Vec<IpNetwork>,
    /// Addresses of the API servers.
    api_servers: BTreeSet<IpAddr>,
    /// TCP ports of the API servers.
    api_ports: BTreeSet<u16>,
}

impl ClusterContext {
    /// Collects the addresses and pod ranges of all Nodes, and further pod ranges.
    #[must_use]
    pub fn new<'a>(nodes: impl Iterator<Item = &'a NodeObject>, more_ranges: &[IpNetwork]) -> Self {
        let mut context = Self::default();
        let mut ranges: Vec<_> = more_ranges.iter().map(bounds).collect();
        for node in nodes {
            context.addresses.extend(node.addresses.iter().map(IpAddr::to_canonical));
            ranges.extend(node.pod_cidrs.iter().map(bounds));
        }
        ranges.sort_unstable();
        // Merged, so that a single binary search answers `is_pod`.
        for (first, last) in ranges {
            match context.pod_ranges.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => context.pod_ranges.push((first, last)),
            }
        }
        context
    }

    /// Sets the ranges of cluster IPs. Ranges within another one are left out.
    #[must_use]
    pub fn with_service_ranges<'a>(mut self, ranges: impl Iterator<Item = &'a IpNetwork>) -> Self {
        let mut ranges: Vec<IpNetwork> = ranges.copied().collect();
        ranges.sort_unstable_by_key(|r| (sort_key(r.network()), r.prefix()));
        for range in ranges {
            if !self.service_ranges.last().is_some_and(|l| l.contains(range.network())) {
                self.service_ranges.push(range);
            }
        }
        self
    }

    /// Sets the addresses and the ports of the API servers.
    #[must_use]
    pub fn with_api_servers(self, addresses: impl Iterator<Item = IpAddr>, ports: impl Iterator<Item = u16>) -> Self {
        Self { api_servers: addresses.collect(), api_ports: ports.collect(), ..self }
    }

    /// Returns true if an API server serves its clients at this address and TCP port.
    #[must_use]
    pub fn is_api_endpoint(&self, addr: IpAddr, port: u16) -> bool {
        self.is_api_server(addr) && self.api_ports.contains(&port)
    }

    /// Returns true if an API server has the address.
    #[must_use]
    pub fn is_api_server(&self, addr: IpAddr) -> bool {
        self.api_servers.contains(&addr)
    }

    /// Returns the known ranges of cluster IPs.
    #[must_use]
    pub fn service_ranges(&self) -> &[IpNetwork] {
        &self.service_ranges
    }

    /// Returns true if the address is in a range of cluster IPs.
    #[must_use]
    pub fn is_service_range(&self, addr: IpAddr) -> bool {
        self.service_ranges.iter().any(|r| r.contains(addr))
    }

    /// Returns true if the address is in a range of pod addresses.
    #[must_use]
    pub fn is_pod(&self, addr: IpAddr) -> bool {
        let addr = sort_key(addr);
        let after = self.pod_ranges.partition_point(|(first, _)| *first <= addr);
        after > 0 && addr <= self.pod_ranges[after - 1].1
    }

    /// Returns true if a node has the address.
    #[must_use]
    pub fn is_node(&self, addr: IpAddr) -> bool {
        self.addresses.contains(&addr)
    }

    /// Returns true if an endpoint with this address is outside the pod network: a node, or a
    /// server that is not part of the cluster.
    #[must_use]
    pub fn is_host(&self, addr: IpAddr) -> bool {
        // As long as no pod range is known, any address may be a pod's.
        self.is_node(addr) || (!self.pod_ranges.is_empty() && !self.is_pod(addr))
    }
}

fn bounds(range: &IpNetwork) -> (u128, u128) {
    (sort_key(range.network()), sort_key(range.broadcast()))
}

/// The input of the derivation besides the objects of one Service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Context {
    /// Facts about this node.
    pub node: NodeContext,
    /// Facts about all Nodes.
    pub cluster: ClusterContext,
}

impl Context {
    /// Returns true if this node has the address.
    #[must_use]
    pub fn is_this_node(&self, addr: IpAddr) -> bool {
        self.node.addresses.contains(&addr)
    }

    /// Returns true if an endpoint with this address, whose `nodeName` names this node, can be
    /// here. A tenant writes the name, and packets to endpoints on this node leave it untranslated.
    #[must_use]
    pub fn can_be_local(&self, addr: IpAddr) -> bool {
        let networks = self.node.local_networks.as_deref();
        networks.is_none_or(|networks| networks.iter().any(|n| n.contains(addr))) || self.is_this_node(addr)
    }

    /// Returns true if this node serves the address's family.
    #[must_use]
    pub const fn serves(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(_) => self.node.ipv4,
            IpAddr::V6(_) => self.node.ipv6,
        }
    }
}
