//! Finds the uplinks: the devices that can carry the node's traffic to other hosts.
//!
//! A pure function of the configuration, the kernel's links, addresses and routes, and the Node
//! objects; [`super::discover`] calls it once per refresh. Programs are attached to the uplinks, so
//! a device that is missing here serves no node port, and a device that is here by mistake costs
//! its packets a lookup.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane_host::netlink::{Hop, IfIndex, Link, PROTOCOL, Route};

use super::discover::{KernelSnapshot, is_link_local};
use crate::config::Config;
use crate::proxy::controller::Nodes;
use crate::proxy::source::NodeObject;

/// The uplinks, and what an operator should know of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplinks {
    /// Links to other hosts, in the order of the configuration; else those of default routes, node
    /// addresses and other nodes before all others.
    pub links: Vec<Link>,
    /// Configured uplinks that do not exist.
    pub missing: Vec<String>,
    /// Devices that cannot be uplinks, and contradictions between the node's addresses and the
    /// uplinks, one sentence each.
    pub warnings: Vec<String>,
    /// Indices of those that other nodes, the node's addresses and default routes use, in the order
    /// of the links.
    pub main: Vec<IfIndex>,
    /// Smallest MTU of the uplinks that other nodes, the node's addresses and default routes use.
    pub mtu: Option<u32>,
}

/// Finds the uplinks: those of the configuration, or the devices of default routes, of the node's
/// own addresses, of routes to other nodes, and network cards with any other address. `nodes`: all
/// Node objects, the node's own among them.
#[must_use]
pub fn find(config: &Config, snapshot: &KernelSnapshot, nodes: &Nodes) -> Uplinks {
    let own = nodes.get(config.node_name.as_str());
    let mut found =
        if config.uplinks.is_empty() { discovered(config, snapshot, nodes) } else { named(config, snapshot) };
    found.warnings.extend(contradictions(config, snapshot, own, &found));
    let (supported, others) = found.links.into_iter().partition(|link| link.ethernet);
    found.links = supported;
    found.warnings.extend(others.iter().map(without_ethernet));
    found
}

/// Returns the warning about a device whose packets the programs cannot parse.
fn without_ethernet(link: &Link) -> String {
    let kind = link.kind.as_ref().map(|kind| format!(" ({kind})")).unwrap_or_default();
    format!(
        "{}{kind} has no Ethernet header, which is not supported: node ports, external addresses of Services and \
         masqueraded pods do not work by that device; use an Ethernet device, or a tunnel that carries Ethernet frames \
         (gretap, vxlan)",
        link.name
    )
}

/// Returns the uplinks that `--uplink` names.
fn named(config: &Config, snapshot: &KernelSnapshot) -> Uplinks {
    let mut found = Uplinks::default();
    for name in &config.uplinks {
        match snapshot.links.iter().find(|l| l.name == *name) {
            Some(link) => found.links.push(link.clone()),
            None => found.missing.push(name.clone()),
        }
    }
    found.main = found.links.iter().map(|l| l.index).collect();
    found.mtu = found.links.iter().map(|l| l.mtu).min();
    found
}

fn discovered(config: &Config, snapshot: &KernelSnapshot, nodes: &Nodes) -> Uplinks {
    let own = nodes.get(config.node_name.as_str());
    let mut indices: BTreeSet<_> =
        snapshot.routes.iter().filter(|r| r.destination.prefix() == 0).filter_map(device).collect();
    indices.extend(node_addresses(config, own).filter_map(|ip| snapshot.device_of(ip)));
    let to_nodes = devices_to_nodes(snapshot, &indices, || {
        nodes.iter().filter(|(name, _)| ***name != *config.node_name).flat_map(|(_, node)| &node.addresses).copied()
    });
    indices.extend(to_nodes);
    let by_index = |index: IfIndex| snapshot.links.iter().find(|l| l.index == index).filter(|link| leads_out(link));
    let mut links: Vec<_> = indices.iter().copied().filter_map(by_index).cloned().collect();
    let (main, mtu) = (links.iter().map(|l| l.index).collect(), links.iter().map(|l| l.mtu).min());
    let further = snapshot.links.iter().filter(|link| !indices.contains(&link.index) && is_card(link, snapshot));
    links.extend(further.filter(|link| leads_out(link)).cloned());
    Uplinks { links, main, mtu, ..Uplinks::default() }
}

/// Returns true for network cards, real or virtual, with an address in a network of several hosts.
///
/// Veths, bridges, tunnels and the devices of virtual switches are those of container runtimes and
/// other plugins, unless a route or the node's address says otherwise: a program there would take
/// packets of their pods for packets from outside.
fn is_card(link: &Link, snapshot: &KernelSnapshot) -> bool {
    const KINDS: [&str; 5] = ["bond", "team", "vlan", "macvlan", "ipvlan"];
    let mut addresses = snapshot.global().filter(|a| a.index == link.index).map(|a| a.network);
    link.kind.as_deref().is_none_or(|kind| KINDS.contains(&kind))
        && addresses.any(|network| network.prefix() < if network.is_ipv4() { 32 } else { 128 })
}

/// Returns the addresses that configuration and Node object name; not all of them are local.
fn node_addresses<'a>(config: &'a Config, own: Option<&'a NodeObject>) -> impl Iterator<Item = IpAddr> + 'a {
    config.node_ips.iter().chain(own.map_or(&[][..], |node| &node.addresses)).copied()
}

/// Returns the devices besides `known` to which the most specific route to another node leads.
///
/// Bridges do not count: the networks of other container runtimes can overlap with addresses that
/// another cluster member claims. A bridge that is an uplink has the node's address.
fn devices_to_nodes<A: Iterator<Item = IpAddr>>(
    snapshot: &KernelSnapshot,
    known: &BTreeSet<IfIndex>,
    addresses: impl FnOnce() -> A,
) -> BTreeSet<IfIndex> {
    let eligible = |index: IfIndex| {
        let link = snapshot.links.iter().find(|l| l.index == index);
        !known.contains(&index) && link.is_some_and(|l| leads_out(l) && l.kind.as_deref() != Some("bridge"))
    };
    let mut routes: Vec<_> = snapshot.routes.iter().filter(|r| r.protocol != PROTOCOL).collect();
    let is_candidate = |r: &&&Route| {
        let ip = r.destination.ip();
        r.destination.prefix() != 0 && !is_link_local(ip) && !ip.is_multicast() && device(r).is_some_and(eligible)
    };
    // Most nodes have no such device, and are spared a comparison of all Nodes with all routes.
    if !routes.iter().any(|r| is_candidate(&r)) {
        return BTreeSet::new();
    }
    routes.sort_by_key(|r| std::cmp::Reverse(r.destination.prefix()));
    let device_to = |ip: IpAddr| device(routes.iter().find(|r| r.destination.contains(ip))?);
    addresses().filter_map(device_to).filter(|index| eligible(*index)).collect()
}

/// Returns the index of a route's egress device, if the route is another program's.
fn device(route: &Route) -> Option<IfIndex> {
    match route.hop {
        _ if route.protocol == PROTOCOL => None,
        Hop::Gateway { index, .. } => index,
        Hop::Device { index } => Some(index),
        Hop::Blackhole => None,
    }
}

/// Returns false for devices that carry no packet to another host, whatever addresses and routes
/// they have: the loopback device, Ropeway's own devices, and dummies such as `kube-ipvs0` (which a
/// kernel without that driver can have as an empty bridge).
fn leads_out(link: &Link) -> bool {
    let by_name = ["lo", "kube-ipvs0"].contains(&link.name.as_str()) || link.name.starts_with("ropeway.");
    !by_name && link.kind.as_deref() != Some("dummy")
}

/// Returns a sentence for each address of the node on a device that is no uplink but could be one.
fn contradictions(
    config: &Config,
    snapshot: &KernelSnapshot,
    own: Option<&NodeObject>,
    found: &Uplinks,
) -> BTreeSet<String> {
    let strays = node_addresses(config, own).filter_map(|ip| {
        let index = snapshot.device_of(ip)?;
        let link = snapshot.links.iter().find(|l| l.index == index)?;
        let stray = leads_out(link) && !found.links.iter().any(|l| l.index == index);
        let (name, uplinks) = (&link.name, config.uplinks.join(","));
        stray.then(|| {
            format!(
                "the node's address {ip} is on {name}, which --uplink={uplinks} does not name: packets that arrive \
                 there are not translated (node ports, masqueraded pods); add {name} to --uplink, or unset it"
            )
        })
    });
    strays.collect()
}
