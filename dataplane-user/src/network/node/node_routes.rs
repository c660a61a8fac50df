//! Tunnels and routes to the pods of other nodes.
//!
//! Called by the node's task and its job `routing` at each refresh: `plan` is pure, `tunnels` and
//! `routes` apply the difference by rtnetlink. Routes of other programs are never changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane_common::types::ip_family::IpFamily;
use dataplane_host::netlink::{Link, NetlinkError, NetlinkEvent, Route, Socket};
use ipnetwork::IpNetwork;
use tracing::{debug, warn};

use super::discover::{KernelSnapshot, NodeFacts};
use super::status::NodeStatus;
use crate::config::{Config, Ipam, RouteMode};
use crate::network::routes::{self, HostDeviceRoutes, LocalNode, RoutePlan};
use crate::network::tunnel::{self, Devices, Peers, Tunnel, TunnelError};
use crate::proxy::controller::Nodes;
use crate::proxy::source::NodeObject;

/// The tunnels that exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// Links of the tunnels.
    pub links: Vec<Link>,
    /// Interface indices by family.
    pub devices: Devices,
}

impl Tunnels {
    /// Returns the smallest MTU of the tunnels; 0 if there is none.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.links.iter().map(|l| l.mtu).min().unwrap_or(0)
    }
}

/// Values that tunnels depend on besides the plan.
#[derive(Clone, Copy, Debug)]
pub struct TunnelInputs<'a> {
    /// Configuration of the agent.
    pub config: &'a Config,
    /// Facts of this node.
    pub facts: &'a NodeFacts,
    /// Network state of the kernel.
    pub snapshot: &'a KernelSnapshot,
    /// Node object of this node.
    pub own: Option<&'a NodeObject>,
}

/// The tunnels and routes that are in place, as of the last refresh.
#[derive(Debug, Default)]
pub struct NodeRoutes {
    /// Tunnels that were used once, by the family of their outer packets. They stay while the agent
    /// runs, so that the MTU of new pods does not change whenever a node joins or leaves.
    used: [bool; 2],
    /// The tunnels as of the last refresh.
    pub tunnels: Tunnels,
    /// Candidates for the source address of the node's own packets into the tunnel, best first.
    sources: Vec<IpAddr>,
    /// Routes that were in place at the end of the last refresh.
    routes: BTreeSet<Route>,
    wanted: BTreeSet<Route>,
}

impl NodeRoutes {
    /// Computes the next hop of every node's ranges.
    #[must_use]
    pub fn plan(config: &Config, facts: &NodeFacts, nodes: &Nodes) -> RoutePlan {
        let local_node = LocalNode {
            node: &config.node_name,
            node_ips: &facts.node_ips,
            pod_cidrs: &facts.pod_cidrs,
            on_link: &facts.on_link,
            ipv6: facts.ipv6,
            mode: config.route_mode,
        };
        routes::plan(nodes.iter().map(|(name, node)| (name.as_ref(), node)), &local_node)
    }

    /// Takes over the tunnels of the previous agent, which are used until the Nodes are known.
    pub fn adopt(&mut self, links: &[Link]) {
        let links: Vec<_> = links.iter().filter(|l| tunnel::is_ours(l)).cloned().collect();
        let index = |family| links.iter().find(|l| l.name == tunnel::name(family)).map(|l| l.index);
        self.tunnels = Tunnels { devices: Devices { indices: IpFamily::BOTH.map(index) }, links };
    }

    /// Creates and configures the tunnels of the plan; returns the number of operations, and an
    /// error for each tunnel that is missing.
    ///
    /// # Errors
    /// The kernel's links could not be read.
    pub fn tunnels(
        &mut self,
        socket: &mut Socket,
        known: &TunnelInputs<'_>,
        plan: &RoutePlan,
    ) -> Result<(usize, Vec<TunnelError>), NetlinkError> {
        let TunnelInputs { config, facts, snapshot, own } = known;
        let links = &snapshot.links;
        // Pods get every address of a pool's block, so the tunnel cannot have the first one.
        let in_pools = config.ipam == Ipam::Pools;
        let mut addresses = if in_pools { BTreeSet::new() } else { tunnel::addresses(&facts.pod_cidrs) };
        self.sources = addresses.iter().map(IpNetwork::ip).chain(facts.node_ips.iter().copied()).collect();
        for remote in plan.peers.keys() {
            self.used[IpFamily::of(*remote).index()] = true;
        }
        if config.route_mode == RouteMode::Vxlan
            && let Some(ip) = facts.node_ips.first()
        {
            self.used[IpFamily::of(*ip).index()] = true;
        }
        let wanted: Vec<_> = IpFamily::BOTH
            .into_iter()
            .filter(|family| self.used[family.index()])
            .filter_map(|family| {
                let local = facts.node_ips.iter().copied().find(|ip| family.has(*ip))?;
                let peers: Peers =
                    plan.peers.iter().filter(|(r, _)| family.has(**r)).map(|(r, n)| (*r, n.clone())).collect();
                let mtu = facts.uplink_mtu.saturating_sub(tunnel::overhead(family));
                // Other nodes derive the MAC address from the Node object.
                let mac = tunnel::mac(own.and_then(|node| routes::first(node, family)).unwrap_or(local));
                Some(Tunnel {
                    local,
                    mac,
                    mtu,
                    port: config.vxlan_port,
                    addresses: std::mem::take(&mut addresses),
                    peers,
                })
            })
            .collect();
        let outcome = tunnel::apply(socket, links, &snapshot.addresses, &wanted, self.used);
        let mut there = Vec::new();
        for index in outcome.devices.indices.into_iter().flatten() {
            there.extend(match links.iter().find(|l| l.index == index) {
                Some(link) if outcome.operations == 0 => Some(link.clone()),
                _ => socket.link_by_index(index)?,
            });
        }
        self.tunnels = Tunnels { links: there, devices: outcome.devices };
        Ok((outcome.operations, outcome.errors))
    }

    /// Writes the routes of the plan; returns the number of operations.
    ///
    /// # Errors
    /// The kernel refused one of them; the others are in place.
    pub fn routes(
        &mut self,
        socket: &mut Socket,
        config: &Config,
        (plan, host_device): (&RoutePlan, Option<&HostDeviceRoutes<'_>>),
        present: &[Route],
        status: &NodeStatus,
    ) -> Result<usize, NetlinkError> {
        self.wanted = plan.routes(self.tunnels.devices, &self.sources, host_device, config.route_metric);
        let ours: BTreeSet<_> = present.iter().filter(|r| routes::is_ours(r)).copied().collect();
        let lost: Vec<_> = self.routes.intersection(&self.wanted).filter(|r| !ours.contains(r)).collect();
        for route in &lost {
            warn!("{}: another program has removed or changed this route of Ropeway", route.describe());
        }
        status.lost_routes(lost.len());
        let outcome = routes::apply(socket, present, &self.wanted);
        debug!(routes = self.wanted.len(), operations = outcome.operations, "routes compared");
        let blocked: BTreeSet<_> = outcome.blocked.iter().copied().collect();
        self.routes = self.wanted.iter().filter(|r| !blocked.contains(&r.destination)).copied().collect();
        let in_the_way = blocked
            .iter()
            .map(|range| format!("range {range}: another program's route is in the way and is left alone: no route"));
        let problems: Vec<_> = plan.problems.iter().cloned().chain(in_the_way).collect();
        if status.problems(&problems) {
            for problem in &problems {
                warn!("{problem}");
            }
        }
        outcome.errors.into_iter().next().map_or(Ok(outcome.operations), Err)
    }

    /// Returns true if an event changes a tunnel, or another program's route to one of our
    /// destinations.
    #[must_use]
    pub fn is_relevant(&self, event: &NetlinkEvent) -> bool {
        match event {
            NetlinkEvent::Link(link) => {
                tunnel::NAMES.contains(&link.name.as_str()) && !self.tunnels.links.contains(link)
            }
            NetlinkEvent::LinkGone(link) => self.tunnels.links.iter().any(|l| l.index == link.index),
            // Another program's route takes the place of ours, or gives it up.
            NetlinkEvent::Route(route) | NetlinkEvent::RouteGone(route) => {
                !routes::is_ours(route) && self.wanted.iter().any(|ours| ours.destination == route.destination)
            }
            NetlinkEvent::Address(_) | NetlinkEvent::AddressGone(_) | NetlinkEvent::Lost => false,
        }
    }
}
