//! Computes the next hop of each block of each node: direct, through the tunnel, or none.
//!
//! Called by the node task whenever Nodes, blocks or this node's networks change. Pure;
//! [`super::apply`] and `tunnel::apply` bring the result into the kernel. Blocks without a next hop
//! are reported with the reason and get no route.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_common::types::fnv::hash32;
use dataplane_common::types::ip_family::IpFamily;
use dataplane_host::contract::gateway;
use dataplane_host::netlink::{Hop, IfIndex, Route};
use ipnetwork::IpNetwork;

use crate::config::RouteMode;
use crate::network::tunnel::{self, Devices, Peers};
use crate::proxy::source::NodeObject;

/// The next hop to a block of pod addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// The block belongs to this node.
    Own,
    /// The block's node is on link.
    Direct {
        /// Address of the block's node, used as gateway.
        via: IpAddr,
        /// Interface index of the uplink.
        index: IfIndex,
    },
    /// The block's node is reached through the tunnel.
    Tunnel {
        /// Address of the node, the destination of the outer packets.
        remote: IpAddr,
        /// Address of the node in the tunnel, used as gateway.
        via: IpAddr,
    },
}

/// The next hops to all blocks and nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePlan {
    /// Next hops of all blocks. Blocks of different nodes do not overlap.
    pub blocks: BTreeMap<IpNetwork, NextHop>,
    /// Addresses of other nodes, at most one per family and node, to which pods show their own
    /// address; with the remote end of the tunnel if pods reach them through it.
    pub hosts: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Numbers of the other nodes, by their blocks and addresses. Two nodes have the same one by
    /// chance, for which nothing but their packets in the tunnel is taken for each other's.
    pub numbers: BTreeMap<IpNetwork, u32>,
    /// Remote nodes of the tunnels, with their addresses in the tunnel.
    pub peers: Peers,
    /// Messages about blocks that can't be reached.
    pub problems: Vec<String>,
}

/// This node's part of the input of [`plan`].
#[derive(Clone, Copy, Debug)]
pub struct LocalNode<'a> {
    /// Name of this node.
    pub node: &'a str,
    /// This node's addresses, at most one per family.
    pub node_ips: &'a [IpAddr],
    /// This node's ranges of pod addresses.
    pub pod_cidrs: &'a [IpNetwork],
    /// Networks that are reached without a router: network and interface index.
    pub on_link: &'a [(IpNetwork, IfIndex)],
    /// The kernel has IPv6. Without it, IPv6 ranges of other nodes get no route.
    pub ipv6: bool,
    /// The route mode: which nodes are reached through the tunnel.
    pub mode: RouteMode,
}

/// Computes the next hops of all blocks of all nodes.
#[must_use]
pub fn plan<'a>(nodes: impl Iterator<Item = (&'a str, &'a NodeObject)>, local_node: &LocalNode<'a>) -> RoutePlan {
    let mut plan = RoutePlan::default();
    let mut owners = Owners::default();
    // Own ranges come first, so that no other node's overlapping range wins.
    for range in local_node.pod_cidrs.iter().copied() {
        if owners.claim(range, local_node.node, &mut plan.problems) {
            plan.blocks.insert(range, NextHop::Own);
        }
    }
    let mut remotes: BTreeMap<[u8; 6], IpAddr> = BTreeMap::new();
    for (name, node) in nodes.filter(|(name, _)| *name != local_node.node) {
        // Once per family instead of once per block: a node can have many blocks.
        let hops = IpFamily::BOTH.map(|family| next_hop(node, family, local_node));
        let number = hash32(name.as_bytes()).max(1);
        for family in IpFamily::BOTH {
            // IPv4 only: next hops of IPv6 in the tunnel are link-local, never the node's address.
            let through = match (family, &hops[0]) {
                (IpFamily::V4, Ok(NextHop::Tunnel { remote, .. })) => Some(*remote),
                _ => None,
            };
            plan.hosts.extend(node.host(family).map(|address| (address, through)));
            plan.numbers.extend(node.host(family).map(|address| (address.into(), number)));
        }
        for range in node.pod_cidrs.iter().copied().filter(|range| local_node.ipv6 || range.is_ipv4()) {
            if !owners.claim(range, name, &mut plan.problems) {
                continue;
            }
            let hop = match &hops[IpFamily::of(range.ip()).index()] {
                Ok(hop) => *hop,
                Err(problem) => {
                    plan.problems.push(format!("range {range} of node {name}: {problem}: no route"));
                    continue;
                }
            };
            if let NextHop::Tunnel { remote, via } = hop {
                // Hashed hardware addresses may collide; the first node keeps the address.
                let other = *remotes.entry(tunnel::mac(remote)).or_insert(remote);
                if other != remote {
                    let problem = "have the same hash and can't both be reached through the tunnel";
                    plan.problems
                        .push(format!("range {range} of node {name}: {remote} and {other} {problem}: no route"));
                    continue;
                }
                plan.peers.entry(remote).or_default().insert(via);
            }
            plan.blocks.insert(range, hop);
            plan.numbers.insert(range, number);
        }
    }
    plan
}

/// Returns the next hop to the blocks of `node` of one family, or the reason why there is none.
fn next_hop(node: &NodeObject, family: IpFamily, local_node: &LocalNode<'_>) -> Result<NextHop, String> {
    let Some(own) = first(node, family) else {
        return Err(format!("the node has no {family} address"));
    };
    // Any address of the family that is on link makes the node a neighbour.
    let neighbour = node.addresses.iter().filter(|a| family.has(**a)).find_map(|ip| {
        let (_, index) = local_node.on_link.iter().find(|(network, _)| network.contains(*ip))?;
        Some(NextHop::Direct { via: *ip, index: *index })
    });
    match (neighbour, local_node.mode) {
        (Some(hop), RouteMode::Auto | RouteMode::Direct) => Ok(hop),
        (None, RouteMode::Direct) => Err(format!("its address {own} is behind a router, and --route-mode is direct")),
        (_, RouteMode::Auto | RouteMode::Vxlan) => {
            // The underlay is IPv4 if both nodes have it, whatever the family of the inner packets.
            let here = |family: &IpFamily| local_node.node_ips.iter().any(|ip| family.has(*ip));
            let mut families = IpFamily::BOTH.into_iter().filter(here);
            let Some(remote) = families.find_map(|family| first(node, family)) else {
                return Err("it and this node have no address of the same family".into());
            };
            let via = if family == IpFamily::V6 { tunnel::link_local(tunnel::mac(remote)) } else { own };
            Ok(NextHop::Tunnel { remote, via })
        }
    }
}

/// Returns the first address of this family: the one by which the tunnel addresses the node.
#[must_use]
pub fn first(node: &NodeObject, family: IpFamily) -> Option<IpAddr> {
    of_family(&node.addresses, family)
}

fn of_family(addresses: &[IpAddr], family: IpFamily) -> Option<IpAddr> {
    addresses.iter().copied().find(|a| family.has(*a))
}

/// The owners of ranges; ranges of different owners do not overlap.
#[derive(Default)]
struct Owners<'a> {
    /// Ranges by their first address. Ranges of one owner may be nested; only the outermost is
    /// kept.
    ranges: BTreeMap<(bool, u128), (IpNetwork, &'a str)>,
}

impl<'a> Owners<'a> {
    /// Returns true if the range now belongs to `owner`, and reports a problem otherwise.
    fn claim(&mut self, range: IpNetwork, owner: &'a str, problems: &mut Vec<String>) -> bool {
        let key = (range.is_ipv6(), bits(range.network()));
        let end = (range.is_ipv6(), bits(range.broadcast()));
        // A containing range begins at or before this one, contained ranges begin within it. The
        // outermost ranges are disjoint, so looking at the neighbours in the map is enough.
        let outside = self.ranges.range(..=key).next_back().filter(|(_, (r, _))| r.contains(range.network()));
        let inside = self.ranges.range(key..=end).map(|(_, held)| held);
        let mut overlapping = outside.map(|(_, held)| held).into_iter().chain(inside);
        if let Some((other, holder)) = overlapping.find(|(_, holder)| *holder != owner) {
            problems.push(format!("range {range} of node {owner} overlaps {other} of node {holder}: no route"));
            return false;
        }
        if outside.is_none() {
            let inside: Vec<_> = self.ranges.range(key..=end).map(|(key, _)| *key).collect();
            for key in inside {
                self.ranges.remove(&key);
            }
            self.ranges.insert(key, (range, owner));
        }
        true
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

impl RoutePlan {
    /// Returns the routes, at most one for each range.
    ///
    /// Next hops through a tunnel whose device is missing are left out. `sources`: candidates for
    /// the source address of the node's own packets into the tunnel; the first one of each family
    /// is used.
    #[must_use]
    pub fn routes(
        &self,
        devices: Devices,
        sources: &[IpAddr],
        host_device: Option<&HostDeviceRoutes<'_>>,
        metric: Option<u32>,
    ) -> BTreeSet<Route> {
        let block = |(range, hop): (&IpNetwork, &NextHop)| {
            let led = match *hop {
                NextHop::Own => {
                    host_device.and_then(|host_device| host_device.hop(*range)).unwrap_or((Hop::Blackhole, None))
                }
                NextHop::Direct { via, index } => (Hop::Gateway { via, index: Some(index), onlink: false }, None),
                NextHop::Tunnel { remote, via } => {
                    let index = Some(devices.to(remote)?);
                    // No network of the tunnel device covers an IPv4 gateway, so the route needs
                    // `onlink`.
                    (Hop::Gateway { via, index, onlink: via.is_ipv4() }, of_family(sources, IpFamily::of(range.ip())))
                }
            };
            Some((*range, led))
        };
        let services = host_device
            .into_iter()
            .flat_map(|host_device| host_device.services.iter().map(|range| (*range, host_device.hop(*range))));
        let services = services.filter_map(|(range, led)| Some((range, led?)));
        let metric = metric.unwrap_or(0);
        services
            .chain(self.blocks.iter().filter_map(block))
            .map(|(range, (hop, source))| Route { metric, source, ..Route::new(range, hop) })
            .collect()
    }
}

/// The host device, as the gateway of routes that lead the node's own packets into the packet path.
#[derive(Clone, Copy, Debug)]
pub struct HostDeviceRoutes<'a> {
    /// Interface index of `ropeway.out`.
    pub index: IfIndex,
    /// Addresses of the node, at most one per family: the source of the packets.
    pub node_ips: &'a [IpAddr],
    /// Networks of Services, which get a route each.
    pub services: &'a [IpNetwork],
}

impl HostDeviceRoutes<'_> {
    /// Returns the hop and source address for a range; `None` if the node has no address of the
    /// family.
    ///
    /// The device has no neighbours. The routes still lead to a gateway, because routes without one
    /// are the plugin's ([`super::is_ours`]).
    fn hop(&self, range: IpNetwork) -> Option<(Hop, Option<IpAddr>)> {
        let source = of_family(self.node_ips, IpFamily::of(range.ip()))?;
        let via = gateway(range.ip());
        Some((Hop::Gateway { via, index: Some(self.index), onlink: via.is_ipv4() }, Some(source)))
    }
}
