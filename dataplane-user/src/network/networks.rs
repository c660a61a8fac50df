//! What networks are, seen from this node: the tries `networks4` and `networks6`.
//!
//! [`desired`] and [`NetworkChanges::between`] are pure; [`write`] is the only writer of the two maps. Only the difference is written, so that an
//! agent that finds everything right does nothing.

#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use dataplane_common::types::pod::{Network, network_flags, node_features};
use ipnetwork::IpNetwork;

pub use write::{NetworkChanges, NetworkKey, read, write};

use crate::network::routes::{NextHop, RoutePlan};
use crate::network::tunnel::Devices;

/// All entries.
pub type NetworkEntries = BTreeMap<IpNetwork, Network>;

/// What the entries depend on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Where the blocks and addresses of nodes are.
    pub plan: &'a RoutePlan,
    /// The tunnels.
    pub devices: Devices,
    /// The networks of pods.
    pub pod_networks: &'a [&'a [IpNetwork]],
    /// Other networks without masquerading.
    pub non_masquerade: &'a [IpNetwork],
    /// The networks of Services.
    pub service_ranges: &'a [IpNetwork],
    /// Whether it is the programs that serve Services.
    pub service_proxy: bool,
}

/// What should be in the tries. A packet finds the longest prefix only, so each entry says all about its addresses.
///
/// Other nodes see the addresses of pods, as the Kubernetes network model has it. A node behind a router gets IPv4 packets from pods by
/// the tunnel, because the router need not know what pods are; there is no such way for IPv6, whose next hops in the tunnel are others than the
/// destination.
#[must_use]
pub fn desired(inputs: &Inputs<'_>) -> NetworkEntries {
    let mut nets = NetworkEntries::new();
    let mut add = |range: IpNetwork, oif: u32, flags: u32| {
        let net = nets.entry(range).or_default();
        net.flags |= flags;
        if oif != 0 {
            net.oif = oif;
        }
    };
    for (range, hop) in &inputs.plan.blocks {
        let (oif, own) = match hop {
            // another proxy has no use for what the node's routes lead there
            NextHop::Own => (0, if inputs.service_proxy { network_flags::OWN } else { 0 }),
            NextHop::Direct { .. } => (0, 0),
            NextHop::Tunnel { remote, .. } => (inputs.devices.to(*remote).unwrap_or(0), 0),
        };
        add(*range, oif, network_flags::KEEP_SOURCE | own);
    }
    for (address, remote) in &inputs.plan.hosts {
        let oif = remote.and_then(|remote| inputs.devices.to(remote)).unwrap_or(0);
        add((*address).into(), oif, network_flags::KEEP_SOURCE);
    }
    for range in inputs.pod_networks.iter().copied().flatten().chain(inputs.non_masquerade) {
        add(*range, 0, network_flags::KEEP_SOURCE);
    }
    for range in inputs.service_ranges {
        // another proxy knows its Services' addresses, and only it
        add(*range, 0, if inputs.service_proxy { network_flags::SERVICE } else { network_flags::KEEP_SOURCE });
    }
    nets
}

/// The bits of `NodeConfig::features` for these entries: what would change nothing is off.
#[must_use]
pub fn features(nets: &NetworkEntries, masquerade: bool, service_proxy: bool) -> u32 {
    let matters = |net: &Network| net.oif != 0 || net.flags & (network_flags::SERVICE | network_flags::OWN) != 0;
    let nets = if masquerade || nets.values().any(matters) { node_features::NETWORKS } else { 0 };
    let masquerade = if masquerade { node_features::MASQUERADE } else { 0 };
    nets | masquerade | if service_proxy { 0 } else { node_features::HOST_ROUTING }
}
