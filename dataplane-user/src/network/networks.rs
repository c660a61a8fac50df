//! Classifies networks (pod, node, service, tunnel) and writes the LPM tries `networks4` and
//! `networks6`.
//!
//! [`desired`] and [`NetworkChanges::between`] are pure; [`write`] is the only writer of the two
//! maps. The node task calls them whenever routes, tunnels or Service ranges change. Only the
//! difference is written, so an agent that finds the tries right writes nothing.

#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dataplane_common::types::pod::{Network, network_flags, node_features};
use ipnetwork::IpNetwork;

pub use write::{NetworkChanges, NetworkKey, read, write};

use crate::network::routes::{NextHop, RoutePlan};
use crate::network::tunnel::Devices;

/// All entries of both tries, by network.
pub type NetworkEntries = BTreeMap<IpNetwork, Network>;

/// The input of [`desired`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Next hops of all blocks and nodes.
    pub plan: &'a RoutePlan,
    /// Interface indices of the tunnel devices.
    pub devices: Devices,
    /// Networks of pods: `clusterCIDRs` and the ranges of pools.
    pub pod_networks: &'a [&'a [IpNetwork]],
    /// Other networks to which pods keep their source address.
    pub non_masquerade: &'a [IpNetwork],
    /// IPv4 link-local networks that the host's routes lead to other devices than uplinks.
    pub link_local: &'a [IpNetwork],
    /// True if packets of pods to the outside are masqueraded.
    pub masquerade: bool,
    /// Networks of Services (cluster IPs).
    pub service_ranges: &'a [IpNetwork],
    /// True if Ropeway's programs serve Services; false beside another proxy.
    pub service_proxy: bool,
}

/// Computes the entries of both tries.
///
/// A packet finds only the longest prefix, so each entry carries all flags of its addresses.
///
/// Other nodes see the source addresses of pods, as the Kubernetes network model demands. A node
/// behind a router gets IPv4 packets of pods through the tunnel, because the router need not have
/// routes to pods. For IPv6 the tunnel can't be used for a node's own address: its next hops in the
/// tunnel are link-local addresses, not the destination.
#[must_use]
pub fn desired(inputs: &Inputs<'_>) -> NetworkEntries {
    let mut entries = NetworkEntries::new();
    let mut add = |range: IpNetwork, oif: u32, flags: u32| {
        let net = entries.entry(range).or_default();
        net.flags |= flags;
        // Several inputs may name the same range. Flags add up; a tunnel device is never cleared.
        if oif != 0 {
            net.oif = oif;
        }
    };
    for (range, hop) in &inputs.plan.blocks {
        let (oif, owner) = match hop {
            // Another proxy can't serve packets that the node's routes lead to the host device.
            NextHop::Own => (0, network_flags::LOCAL | if inputs.service_proxy { network_flags::OWN } else { 0 }),
            NextHop::Direct { .. } => (0, network_flags::REMOTE),
            NextHop::Tunnel { remote, .. } => {
                (inputs.devices.to(*remote).map_or(0, |device| device.0), network_flags::REMOTE)
            }
        };
        add(*range, oif, network_flags::KEEP_SOURCE | owner);
    }
    for (address, remote) in &inputs.plan.hosts {
        let oif = remote.and_then(|remote| inputs.devices.to(remote)).map_or(0, |device| device.0);
        add((*address).into(), oif, network_flags::KEEP_SOURCE | network_flags::NODE);
    }
    for range in inputs.pod_networks.iter().copied().flatten().chain(inputs.non_masquerade) {
        add(*range, 0, network_flags::KEEP_SOURCE);
    }
    // Beside another proxy all packets take the host's routes.
    if inputs.service_proxy {
        for range in host_routed(inputs) {
            add(range, 0, network_flags::KEEP_SOURCE | network_flags::OWN);
        }
    }
    for range in inputs.service_ranges {
        // Another proxy translates its Services' addresses itself, so packets must pass unchanged.
        add(*range, 0, if inputs.service_proxy { network_flags::SERVICE } else { network_flags::KEEP_SOURCE });
    }
    for (range, number) in &inputs.plan.numbers {
        // An entry for each of them has been made above.
        if let Some(net) = entries.get_mut(range) {
            net.node = *number;
        }
    }
    entries
}

/// Returns the IPv4 link-local networks whose packets the host's stack handles: those that lead
/// elsewhere than to an uplink, and those that are not masqueraded. Rules of the host may translate
/// them, as agents for cloud credentials do.
fn host_routed<'a>(inputs: &'a Inputs<'_>) -> impl Iterator<Item = IpNetwork> + 'a {
    let within = |range: &&IpNetwork| matches!(range, IpNetwork::V4(r) if r.ip().is_link_local() && r.prefix() >= 16);
    let exempt = inputs.non_masquerade.iter().filter(within);
    let all = IpNetwork::new(Ipv4Addr::new(169, 254, 0, 0).into(), 16).ok().filter(|_| !inputs.masquerade);
    inputs.link_local.iter().chain(exempt).copied().chain(all)
}

/// Returns the bits of `NodeConfig::features` for these entries. Lookups that would change nothing
/// are switched off, which saves each new flow a lookup.
#[must_use]
pub fn features(entries: &NetworkEntries, masquerade: bool, service_proxy: bool) -> u32 {
    let known = network_flags::SERVICE | network_flags::OWN | network_flags::LOCAL;
    let matters = |net: &Network| net.oif != 0 || net.flags & known != 0;
    let networks = if masquerade || entries.values().any(matters) { node_features::NETWORKS } else { 0 };
    let masquerade = if masquerade { node_features::MASQUERADE } else { 0 };
    networks | masquerade | if service_proxy { 0 } else { node_features::HOST_ROUTING }
}
