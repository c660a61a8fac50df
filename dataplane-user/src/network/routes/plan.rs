//! Computes the next hop of each block of each node: direct, through the tunnel, or none. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_host::contract::gateway;
use dataplane_host::netlink::{Hop, Route};
use ipnetwork::IpNetwork;

use crate::config::RouteMode;
use crate::network::tunnel::{self, Devices, Peers};
use crate::proxy::source::NodeObject;

/// The next hop to a block of pod addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// It is this node's own.
    Own,
    /// Its node is a neighbour.
    Direct {
        /// The node's address.
        via: IpAddr,
        /// The device.
        index: u32,
    },
    /// By the tunnel.
    Tunnel {
        /// The node's address, to which the datagrams go.
        remote: IpAddr,
        /// Its address in the tunnel.
        via: IpAddr,
    },
}

/// The next hops to all blocks and nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePlan {
    /// Blocks, none of which overlaps one of another node.
    pub blocks: BTreeMap<IpNetwork, NextHop>,
    /// Addresses of other nodes, with the end of the tunnel by which pods reach them.
    pub hosts: BTreeMap<IpAddr, Option<IpAddr>>,
    /// The other ends of the tunnels.
    pub peers: Peers,
    /// Blocks that can't be reached, and why.
    pub problems: Vec<String>,
}

/// What the plan depends on besides the Nodes.
#[derive(Clone, Copy, Debug)]
pub struct LocalNode<'a> {
    /// Name of this node.
    pub node: &'a str,
    /// This node's addresses, at most one of each family.
    pub node_ips: &'a [IpAddr],
    /// This node's ranges.
    pub pod_cidrs: &'a [IpNetwork],
    /// The networks that are reached without a router: network and device.
    pub on_link: &'a [(IpNetwork, u32)],
    /// Which nodes are reached by the tunnel.
    pub mode: RouteMode,
}

/// Makes the plan.
#[must_use]
pub fn plan<'a>(nodes: impl Iterator<Item = (&'a str, &'a NodeObject)>, local_node: &LocalNode<'a>) -> RoutePlan {
    let mut plan = RoutePlan::default();
    let mut owners = Owners::default();
    for range in local_node.pod_cidrs.iter().copied() {
        if owners.claim(range, local_node.node, &mut plan.problems) {
            plan.blocks.insert(range, NextHop::Own);
        }
    }
    let mut ends: BTreeMap<[u8; 6], IpAddr> = BTreeMap::new();
    for (name, node) in nodes.filter(|(name, _)| *name != local_node.node) {
        // Both families once, not once for each block.
        let hops = [false, true].map(|v6| next_hop(node, v6, local_node));
        for address in &node.addresses {
            let through = match (&hops[0], first(node, false)) {
                (Ok(NextHop::Tunnel { remote, .. }), Some(own)) if own == *address => Some(*remote),
                _ => None,
            };
            plan.hosts.insert(*address, through);
        }
        for range in node.pod_cidrs.iter().copied() {
            if !owners.claim(range, name, &mut plan.problems) {
                continue;
            }
            let hop = match &hops[usize::from(range.is_ipv6())] {
                Ok(hop) => *hop,
                Err(problem) => {
                    plan.problems.push(format!("range {range} of node {name}: {problem}: no route"));
                    continue;
                }
            };
            if let NextHop::Tunnel { remote, via } = hop {
                let other = *ends.entry(tunnel::mac(remote)).or_insert(remote);
                if other != remote {
                    let problem = "have the same hash and can't both be ends of the tunnel";
                    plan.problems
                        .push(format!("range {range} of node {name}: {remote} and {other} {problem}: no route"));
                    continue;
                }
                plan.peers.entry(remote).or_default().insert(via);
            }
            plan.blocks.insert(range, hop);
        }
    }
    plan
}

/// How the blocks of a node of one family are reached.
fn next_hop(node: &NodeObject, v6: bool, local_node: &LocalNode<'_>) -> Result<NextHop, String> {
    let Some(own) = first(node, v6) else {
        return Err(format!("the node has no {} address", if v6 { "IPv6" } else { "IPv4" }));
    };
    let neighbour = node.addresses.iter().filter(|a| a.is_ipv6() == v6).find_map(|ip| {
        let (_, index) = local_node.on_link.iter().find(|(network, _)| network.contains(*ip))?;
        Some(NextHop::Direct { via: *ip, index: *index })
    });
    match (neighbour, local_node.mode) {
        (Some(hop), RouteMode::Auto | RouteMode::Direct) => Ok(hop),
        (None, RouteMode::Direct) => Err(format!("its address {own} is behind a router, and --route-mode is direct")),
        (_, RouteMode::Auto | RouteMode::Vxlan) => {
            let here = |v6| local_node.node_ips.iter().any(|ip| ip.is_ipv6() == v6);
            let mut ends = [false, true].into_iter().filter(|v6| here(*v6));
            let Some(remote) = ends.find_map(|v6| first(node, v6)) else {
                return Err("it and this node have no address of the same family".into());
            };
            let via = if v6 { tunnel::link_local(tunnel::mac(remote)) } else { own };
            Ok(NextHop::Tunnel { remote, via })
        }
    }
}

/// The address of a node by which the tunnel knows it.
#[must_use]
pub fn first(node: &NodeObject, v6: bool) -> Option<IpAddr> {
    of_family(&node.addresses, v6)
}

fn of_family(addresses: &[IpAddr], v6: bool) -> Option<IpAddr> {
    addresses.iter().copied().find(|a| a.is_ipv6() == v6)
}

/// Whose a range is; none overlaps one of another owner.
#[derive(Default)]
struct Owners<'a> {
    /// By the first address; those of one owner may lie in each other, and the outermost is here.
    ranges: BTreeMap<(bool, u128), (IpNetwork, &'a str)>,
}

impl<'a> Owners<'a> {
    /// Says whether the range is now `owner`'s.
    fn claim(&mut self, range: IpNetwork, owner: &'a str, problems: &mut Vec<String>) -> bool {
        let key = (range.is_ipv6(), bits(range.network()));
        let end = (range.is_ipv6(), bits(range.broadcast()));
        // What is outside of it begins at or before it, what is inside begins in it.
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
    /// The routes, at most one for each range. Ways through a tunnel whose device is not there are left out. `sources`: what
    /// the node's own packets into the tunnel have as source, of each family the first.
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
                    (Hop::Gateway { via, index, onlink: via.is_ipv4() }, of_family(sources, range.is_ipv6()))
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

/// The host device, for the routes that lead the node's own packets into the packet path.
#[derive(Clone, Copy, Debug)]
pub struct HostDeviceRoutes<'a> {
    /// The device.
    pub index: u32,
    /// The node's addresses, at most one of each family: the packets' source.
    pub node_ips: &'a [IpAddr],
    /// The networks of Services.
    pub services: &'a [IpNetwork],
}

impl HostDeviceRoutes<'_> {
    /// The device has no neighbours; a router makes the routes different from those of pods. Without an address of the node there is no way.
    fn hop(&self, range: IpNetwork) -> Option<(Hop, Option<IpAddr>)> {
        let source = of_family(self.node_ips, range.is_ipv6())?;
        let via = gateway(range.ip());
        Some((Hop::Gateway { via, index: Some(self.index), onlink: via.is_ipv4() }, Some(source)))
    }
}
