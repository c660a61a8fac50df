//! Tunnels, routes and the LPM tries of networks, in the order in which they need each other.
//!
//! A job of the node's task: [`Routing::apply_tunnels`] runs first in a refresh, because programs
//! are attached to the tunnels and pods take their MTU from them; [`Routing::apply`] runs after the
//! host devices, to which routes lead. It keeps the state of `node_routes` and `network_tries` and
//! computes nothing itself.

use dataplane_common::types::pod::node_features;
use dataplane_host::map::MapError;
use dataplane_host::netlink::{NetlinkEvent, Socket};
use dataplane_host::pins::Pins;
use ipnetwork::IpNetwork;
use tracing::{info, warn};

use super::cluster_view::ClusterView;
use super::discover::{KernelSnapshot, NodeFacts};
use super::error::NodeError;
use super::host_device::HostDevice;
use super::network_tries::{NetworkInputs, NetworkTries, PendingNetworks};
use super::node_routes::{NodeRoutes, TunnelInputs, Tunnels};
use super::status::NodeStatus;
use crate::config::{Config, SocketScope};
use crate::network::routes::{HostDeviceRoutes, RoutePlan};
use crate::network::tunnel::TunnelError;

/// State of the tunnels, routes and tries as of the last refresh.
pub(super) struct Routing {
    pins: Pins,
    node_routes: NodeRoutes,
    tries: NetworkTries,
    /// Routes lead to the host device.
    host_device_routed: bool,
}

/// What a refresh has found out before.
#[derive(Clone, Copy)]
pub(super) struct RoutingInputs<'a> {
    pub(super) config: &'a Config,
    pub(super) cluster: &'a ClusterView,
    pub(super) facts: &'a NodeFacts,
    pub(super) snapshot: &'a KernelSnapshot,
    pub(super) host_device: Option<&'a HostDevice>,
}

impl Routing {
    pub(super) fn new(pins: Pins) -> Self {
        Self { pins, node_routes: NodeRoutes::default(), tries: NetworkTries::default(), host_device_routed: false }
    }

    pub(super) const fn tunnels(&self) -> &Tunnels {
        &self.node_routes.tunnels
    }

    /// Returns the bits of `NodeConfig::features`; `None` before the tries have been compared.
    pub(super) fn features(&self, config: &Config) -> Option<u32> {
        let client = if self.host_device_routed { node_features::NODE_CLIENT } else { 0 };
        let sockets = if config.translate_sockets == SocketScope::Node { node_features::NODE_SOCKETS } else { 0 };
        self.tries.features().map(|bits| bits | client | sockets)
    }

    /// Reads the tries again at the next refresh, because another program may have changed them.
    pub(super) fn invalidate(&mut self) {
        self.tries.invalidate();
    }

    /// Calls [`NetworkTries::settle`].
    pub(super) const fn settle(&mut self) {
        self.tries.settle();
    }

    pub(super) fn is_relevant(&self, event: &NetlinkEvent) -> bool {
        self.node_routes.is_relevant(event)
    }

    /// Creates and configures the tunnels of the plan; returns the number of operations and the
    /// tunnels' errors. Without a plan it only finds the tunnels that the previous agent has left.
    pub(super) fn apply_tunnels(
        &mut self,
        socket: &mut Socket,
        inputs: &TunnelInputs<'_>,
        plan: Option<&RoutePlan>,
    ) -> Result<(usize, Vec<TunnelError>), NodeError> {
        let Some(plan) = plan else {
            self.node_routes.adopt(&inputs.snapshot.links);
            return Ok((0, Vec::new()));
        };
        Ok(self.node_routes.tunnels(socket, inputs, plan)?)
    }

    /// Writes the routes, then the tries; returns the number of operations.
    pub(super) fn apply(
        &mut self,
        socket: &mut Socket,
        inputs: &RoutingInputs<'_>,
        plan: &RoutePlan,
        status: &NodeStatus,
    ) -> Result<usize, NodeError> {
        let RoutingInputs { config, facts, snapshot, host_device, .. } = inputs;
        let pending = self.pending(inputs, plan)?;
        let services = service_networks(pending.as_ref(), *host_device, snapshot);
        let routed = host_device.map(|device| HostDeviceRoutes {
            index: device.out.index,
            node_ips: &facts.node_ips,
            services: &services,
        });
        // Before the tries: a packet that the programs send into the tunnel needs its route.
        let mut operations =
            self.node_routes.routes(socket, config, (plan, routed.as_ref()), &snapshot.routes, status)?;
        self.host_device_routed = routed.is_some();
        if let Some(pending) = pending {
            operations += match self.tries.write(&self.pins, config, pending) {
                Ok(count) => {
                    report_full(status, None);
                    count
                }
                // No reason to take the node out of service: pods and Services that fit are served.
                Err(full @ MapError::Full { .. }) => {
                    report_full(status, Some(&full.to_string()));
                    0
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(operations)
    }

    /// Compares the tries; `None` until all Services have been applied once.
    fn pending(&mut self, inputs: &RoutingInputs<'_>, plan: &RoutePlan) -> Result<Option<PendingNetworks>, MapError> {
        let cluster = inputs.cluster;
        if !cluster.conditions.services {
            return Ok(None);
        }
        let known = NetworkInputs {
            plan,
            devices: self.node_routes.tunnels.devices,
            pools: cluster.pools(),
            link_local: &inputs.facts.link_local,
            service_ranges: &cluster.service_ranges,
        };
        self.tries.compare(&self.pins, inputs.config, &known).map(Some)
    }
}

/// Returns the networks that are routed to the host device. Until all networks of Services are
/// known, those that are routed there now stay.
fn service_networks(
    pending: Option<&PendingNetworks>,
    host_device: Option<&HostDevice>,
    snapshot: &KernelSnapshot,
) -> Vec<IpNetwork> {
    match pending {
        Some(pending) => pending.services(),
        None => host_device.map_or_else(Vec::new, |device| device.networks(&snapshot.routes)),
    }
}

/// Logs that a trie is full, or has room again, when that changes.
fn report_full(status: &NodeStatus, full: Option<&str>) {
    if !status.set_networks_full(full) {
        return;
    }
    if let Some(error) = full {
        warn!(error, "networks not written: packets to some nodes may be masqueraded or misrouted");
    } else {
        info!("all networks are written");
    }
}
