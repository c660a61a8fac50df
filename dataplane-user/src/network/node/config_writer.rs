//! Writes the node's configuration: the maps `config` and `masq_sources` for the programs,
//! node.json for the CNI plugin.
//!
//! A job of the node's task. The maps are written twice in a refresh: before programs are attached,
//! and again after the routes, because some features need their routes first. Both contents are
//! computed by pure functions, and written only if they have changed.

use std::collections::BTreeMap;

use dataplane_common::types::clock::Clock;
use dataplane_common::types::pod::{MasqueradeSource, NodeConfig};
use dataplane_host::contract::{self, FileError, NodeFile, ReservedPort};
use dataplane_host::map::{MapError, PinnedMap};
use dataplane_host::netlink::IfIndex;
use dataplane_host::pins::Pins;
use dataplane_host::store::Transport;

use super::discover::NodeFacts;
use super::node_routes::Tunnels;
use crate::config::{Config, Ipam, RouteMode};
use crate::load::{LoadError, resize};

/// Least size of the rings of surplus flows: a smaller flow table has no budgets, which would allow
/// a sender no more than a few flows a second.
const LEAST_SURPLUS: u32 = 1024;

/// The writer, with the values that do not change while the agent runs.
#[derive(Debug)]
pub(super) struct ConfigWriter {
    pub(super) pins: Pins,
    pub(super) clock: Clock,
    /// Cookie of the node's network namespace.
    pub(super) netns_cookie: u64,
}

/// The values that change between refreshes.
#[derive(Clone, Copy)]
pub(super) struct ConfigInputs<'a> {
    pub(super) config: &'a Config,
    pub(super) facts: &'a NodeFacts,
    pub(super) tunnels: &'a Tunnels,
    /// Bits of [`NodeConfig::features`]; `None` until the network tries have been compared.
    pub(super) features: Option<u32>,
}

impl ConfigWriter {
    /// Writes the map `config` and returns the number of operations.
    ///
    /// `knows_nodes`: the Node objects have been listed. Until then, an entry of the predecessor
    /// stays: the node's own object says which of its addresses are masqueraded with.
    pub(super) fn apply(&self, inputs: &ConfigInputs<'_>, knows_nodes: bool) -> Result<usize, LoadError> {
        let table: PinnedMap<u32, NodeConfig> = PinnedMap::open(&self.pins, "config")?;
        let present = table.get(&0)?;
        if !knows_nodes && present.is_some_and(|config| config.netns_cookie == self.netns_cookie) {
            return Ok(0);
        }
        let sources = self.write_sources(&inputs.facts.sources)?;
        let surplus = resize::entries(&self.pins, "surplus4")?.filter(|entries| *entries >= LEAST_SURPLUS);
        let wanted = NodeConfig {
            netns_cookie: self.netns_cookie,
            surplus: surplus.unwrap_or(0),
            ..node_config(inputs, self.clock, present)
        };
        if present == Some(wanted) {
            return Ok(sources);
        }
        table.insert(&0, &wanted)?;
        Ok(sources + 1)
    }

    /// Writes the map `masq_sources` and returns the number of operations. Before `config`, which
    /// decides if the programs look into it.
    fn write_sources(&self, wanted: &BTreeMap<IfIndex, MasqueradeSource>) -> Result<usize, MapError> {
        let table: PinnedMap<u32, MasqueradeSource> = PinnedMap::open(&self.pins, "masq_sources")?;
        let present: BTreeMap<_, _> = table.entries()?.into_iter().collect();
        let new = wanted.iter().filter(|(index, source)| present.get(&index.0) != Some(source));
        let gone = present.keys().filter(|index| !wanted.contains_key(&IfIndex(**index)));
        let mut operations = 0;
        for (index, source) in new {
            table.insert(&index.0, source)?;
            operations += 1;
        }
        for index in gone {
            operations += usize::from(table.remove(index)?);
        }
        Ok(operations)
    }
}

/// Writes node.json and returns the number of operations.
///
/// Call it once the tunnels and, in pool mode, the blocks are known: pods take their MTU from the
/// file, which must leave room for the tunnel's headers.
pub(super) fn write_file(inputs: &ConfigInputs<'_>) -> Result<usize, FileError> {
    let Some(file) = node_file(inputs) else { return Ok(0) };
    contract::write(&inputs.config.state_dir, &file).map(usize::from)
}

/// Computes the map's entry, without cookie and surplus. `present`: the entry in the map, written
/// by this agent or its predecessor.
fn node_config(inputs: &ConfigInputs<'_>, clock: Clock, present: Option<NodeConfig>) -> NodeConfig {
    let ConfigInputs { config, facts, tunnels, features } = inputs;
    let mut wanted = facts.node_config(config, clock);
    wanted.tunnel_mtu = tunnels.mtu();
    wanted.tunnels = tunnels.devices.indices.map(|index| index.map_or(0, |index| index.0));
    // The tries say who may use the tunnel.
    let port = if tunnels.links.is_empty() { 0 } else { config.vxlan_port };
    wanted.tunnel_port = if features.is_some() { port } else { present.map_or(0, |c| c.tunnel_port) };
    // Until the tries have been compared, features that were on stay on.
    wanted.features = features.unwrap_or_else(|| present.map_or(0, |c| c.features));
    if !tunnels.links.is_empty() && features.is_none() && present.is_none_or(|c| c.uplink == 0) {
        // Until the tries say which packets go through the tunnel, only the host's routes know.
        wanted.uplink = 0;
    }
    wanted
}

/// Computes node.json; `None` for a node without pools that has no pod range.
fn node_file(inputs: &ConfigInputs<'_>) -> Option<NodeFile> {
    let ConfigInputs { config, facts, tunnels, .. } = inputs;
    let mtu = facts.pod_mtu(config, tunnels.mtu());
    let file = if config.ipam == Ipam::Pools {
        NodeFile::of_pools(&config.node_name, mtu)
    } else if facts.pod_cidrs.is_empty() {
        return None;
    } else {
        NodeFile::new(&config.node_name, &facts.pod_cidrs, mtu)
    };
    Some(file.with_reserved_ports(reserved_ports(config)))
}

/// Returns the ports of the tunnel and the agent. Host ports there would lead the tunnel's packets,
/// and kubelet's probes of the agent, into a pod.
fn reserved_ports(config: &Config) -> Vec<ReservedPort> {
    let of_agent = [config.metrics_bind_address.port(), config.healthz_bind_address.port()];
    let of_agent = of_agent.into_iter().filter(|port| *port != 0);
    let of_agent = of_agent.map(|port| ReservedPort { protocol: Transport::Tcp, port, user: "ropeway-agent".into() });
    let tunnel = ReservedPort { protocol: Transport::Udp, port: config.vxlan_port, user: "the VXLAN tunnel".into() };
    of_agent.chain((config.route_mode != RouteMode::Direct).then_some(tunnel)).collect()
}

#[cfg(test)]
mod tests {
    use dataplane_common::types::pod::node_features;
    use dataplane_host::netlink::{IfIndex, Link};

    use super::*;
    use crate::config::Options;

    fn link(index: u32, mtu: u32) -> Link {
        Link {
            index: IfIndex(index),
            name: format!("link{index}"),
            mac: [0; 6],
            ethernet: true,
            mtu,
            up: true,
            running: true,
            kind: None,
            group: 0,
            lower: None,
            peer_netns: None,
            controller: None,
            vxlan: None,
        }
    }

    fn config() -> Config {
        Config::new(Options { node_name: Some("n1".into()), ..Options::default() }).unwrap()
    }

    fn facts() -> NodeFacts {
        NodeFacts { uplinks: vec![link(2, 1500)], uplink_mtu: 1500, ..NodeFacts::default() }
    }

    #[test]
    fn features_of_the_previous_agent_stay_on_until_the_tries_are_compared() {
        let (config, facts, tunnels) = (config(), facts(), Tunnels::default());
        let with = |features, present| {
            let inputs = ConfigInputs { config: &config, facts: &facts, tunnels: &tunnels, features };
            node_config(&inputs, Clock { jiffies_per_second: 250 }, present).features
        };
        let before = NodeConfig { features: node_features::NODE_CLIENT, ..NodeConfig::default() };
        assert_eq!([with(None, None), with(None, Some(before))], [0, node_features::NODE_CLIENT]);
        assert_eq!(with(Some(0), Some(before)), 0);
    }

    #[test]
    fn host_routes_are_used_until_the_tries_say_what_the_tunnel_carries() {
        let (config, facts) = (config(), facts());
        let tunnels = Tunnels { links: vec![link(7, 1450)], ..Tunnels::default() };
        let with = |features, tunnels: &Tunnels, present| {
            let inputs = ConfigInputs { config: &config, facts: &facts, tunnels, features };
            let entry = node_config(&inputs, Clock { jiffies_per_second: 250 }, present);
            (entry.uplink, entry.tunnel_mtu)
        };
        let before = |uplink| Some(NodeConfig { uplink, ..NodeConfig::default() });
        assert_eq!(with(None, &Tunnels::default(), None), (2, 0));
        assert_eq!(with(None, &tunnels, None), (0, 1450));
        assert_eq!(with(None, &tunnels, before(0)), (0, 1450));
        assert_eq!(with(None, &tunnels, before(2)), (2, 1450), "it was on: the tries were complete once");
        assert_eq!(with(Some(0), &tunnels, before(0)), (2, 1450));
    }

    #[test]
    fn tunnel_port_is_closed_once_the_tries_say_who_may_use_it() {
        let (config, facts) = (config(), facts());
        let tunnels = Tunnels { links: vec![link(7, 1450)], ..Tunnels::default() };
        let with = |features, tunnels: &Tunnels, tunnel_port| {
            let inputs = ConfigInputs { config: &config, facts: &facts, tunnels, features };
            let present = NodeConfig { tunnel_port, ..NodeConfig::default() };
            node_config(&inputs, Clock { jiffies_per_second: 250 }, Some(present)).tunnel_port
        };
        assert_eq!([with(None, &tunnels, 0), with(Some(0), &tunnels, 0)], [0, 4789]);
        assert_eq!(with(None, &tunnels, 4789), 4789, "the tries of the previous agent say so");
        assert_eq!(with(Some(0), &Tunnels::default(), 4789), 0);
    }

    #[test]
    fn node_file_leaves_room_for_the_tunnel_and_waits_for_a_range() {
        let (mut config, mut facts) = (config(), facts());
        let tunnels = Tunnels { links: vec![link(7, 1450)], ..Tunnels::default() };
        let file = |config: &Config, facts: &NodeFacts| {
            node_file(&ConfigInputs { config, facts, tunnels: &tunnels, features: None })
        };
        assert!(file(&config, &facts).is_none());
        facts.pod_cidrs = vec!["10.1.0.0/24".parse().unwrap()];
        let found = file(&config, &facts).unwrap();
        let ports: Vec<_> = found.reserved_ports.iter().map(|r| format!("{} {}", r.protocol, r.port)).collect();
        assert_eq!(ports, ["TCP 10249", "TCP 10256", "UDP 4789"]);
        let with_ports = |file: NodeFile| file.with_reserved_ports(found.reserved_ports.clone());
        assert_eq!(found, with_ports(NodeFile::new("n1", &facts.pod_cidrs, 1450)));
        config.ipam = Ipam::Pools;
        assert_eq!(file(&config, &NodeFacts::default()).unwrap(), with_ports(NodeFile::of_pools("n1", 0)));
        config.route_mode = RouteMode::Direct;
        assert_eq!(file(&config, &facts).unwrap().reserved_ports.len(), 2, "no tunnel ends here");
    }
}
