//! Computes the node's facts: uplinks, addresses, networks, pod ranges, MTU.
//!
//! A pure function of the configuration, the kernel's links, addresses and routes, and the Node
//! objects. Called once per refresh. [`NodeFacts::node_config`] and [`NodeFacts::context`] derive
//! the values for the programs and the controller; [`super::uplinks`] finds the uplinks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_common::types::address::{Address as _, V4, V6};
use dataplane_common::types::clock::Clock;
use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::pod::{MasqueradeSource, NodeConfig};
use dataplane_common::types::service::proto;
use dataplane_host::netlink;
use dataplane_host::netlink::{
    Hop, IfIndex, InterfaceAddress, Link, NetlinkError, PROTOCOL, Route, Socket, listening_addresses,
};
use ipnetwork::IpNetwork;
use tracing::debug;

use crate::config::{Config, Ipam, NodePortRange, RouteMode};
use crate::load::sizes;
use crate::proxy::controller::Nodes;
use crate::proxy::desired::NodeContext;
use crate::proxy::source::NodeObject;

use super::uplinks::{self, Uplinks};

/// Interface index of `lo` in every network namespace.
const LOOPBACK: IfIndex = IfIndex(1);

/// The device on which kube-proxy in mode `ipvs` keeps all cluster IPs, also after its end. Its
/// addresses are none of the node, as for kube-proxy itself.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// The port at which the API server reaches kubelet.
const KUBELET_PORT: u16 = 10250;

/// Seconds of pause after which a datagram of an unreplied UDP flow counts as a new exchange.
const UNREPLIED: u32 = 1;

/// Longest pause between the datagrams of an assured UDP flow, in seconds. Consent to receive
/// media, for example, is renewed every five seconds (RFC 7675, section 5.1).
const ASSURED: u32 = 8;

/// The kernel's network state at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelSnapshot {
    /// All links.
    pub links: Vec<Link>,
    /// Addresses of all links.
    pub addresses: Vec<InterfaceAddress>,
    /// Routes of the main table.
    pub routes: Vec<Route>,
    /// The kernel has IPv6.
    pub ipv6: bool,
    /// Addresses at which sockets of the node listen; empty if no device has a single address.
    pub listening: BTreeSet<IpAddr>,
}

impl KernelSnapshot {
    /// Lists links, addresses, routes and listening sockets.
    ///
    /// # Errors
    /// The kernel refused a request.
    pub fn take(socket: &mut Socket) -> Result<Self, NetlinkError> {
        let (links, addresses, routes) = (socket.links()?, socket.addresses()?, socket.routes(0)?);
        let mut snapshot = Self { links, addresses, routes, listening: BTreeSet::new(), ipv6: netlink::has_ipv6() };
        // A device carries a cluster IP as a single address; other nodes save the listing.
        if snapshot.global().any(|a| a.network.prefix() == if a.network.is_ipv4() { 32 } else { 128 }) {
            snapshot.listening = listening();
        }
        Ok(snapshot)
    }

    /// Returns the addresses by which other hosts reach this node, of all links but the one of
    /// IPVS.
    pub(super) fn global(&self) -> impl Iterator<Item = &InterfaceAddress> {
        let ipvs = self.links.iter().find(|l| l.name == IPVS_DEVICE).map(|l| l.index);
        let global = move |a: &&InterfaceAddress| {
            let ip = a.network.ip();
            let other = Some(a.index) != ipvs && !ip.is_multicast() && !ip.is_unspecified();
            other && !a.narrow && !ip.is_loopback() && !is_link_local(ip)
        };
        self.addresses.iter().filter(global)
    }

    /// Returns the IPv4 link-local addresses of all links, whatever their scope: pods reach them as
    /// they reach other addresses of the node, for example a DNS cache.
    fn link_local4(&self) -> impl Iterator<Item = &InterfaceAddress> {
        self.addresses.iter().filter(|a| a.network.is_ipv4() && is_link_local(a.network.ip()))
    }

    /// Returns the device that has this address.
    pub(super) fn device_of(&self, ip: IpAddr) -> Option<IfIndex> {
        self.addresses.iter().find(|a| a.network.ip() == ip).map(|a| a.index)
    }
}

/// Returns the addresses at which sockets listen; none if the kernel can't tell.
pub(super) fn listening() -> BTreeSet<IpAddr> {
    listening_addresses().unwrap_or_else(|error| {
        debug!(%error, "listening sockets unknown: cluster IPs on devices of the node are served");
        BTreeSet::new()
    })
}

pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// The node's facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The kernel has IPv6. Without it there are no IPv6 addresses and ranges of pods.
    pub ipv6: bool,
    /// Links to other hosts, in the order of [`Uplinks::links`].
    pub uplinks: Vec<Link>,
    /// Configured uplinks that do not exist.
    pub missing: Vec<String>,
    /// Devices that cannot be uplinks, and contradictions between the node's addresses and the
    /// uplinks, one sentence each.
    pub warnings: Vec<String>,
    /// Primary addresses of the node, at most one per family, IPv4 first.
    pub node_ips: Vec<IpAddr>,
    /// All addresses of the node, sorted.
    pub addresses: Vec<IpAddr>,
    /// Those of them at which a process listens, sorted.
    pub listening: Vec<IpAddr>,
    /// IPv4 link-local networks that other programs' routes lead to a device that is no uplink,
    /// sorted.
    pub link_local: Vec<IpNetwork>,
    /// Networks that other programs' routes lead straight to a device that is no uplink, sorted:
    /// such as the pods of a plugin before.
    pub behind_devices: Vec<IpNetwork>,
    /// Networks reached through an uplink without a router, with the uplink's index.
    pub on_link: Vec<(IpNetwork, IfIndex)>,
    /// Ranges of the node's pods.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Next hops of other programs' routes, sorted.
    pub gateways: Vec<IpAddr>,
    /// Addresses of masqueraded packets by the uplink that they take.
    pub sources: BTreeMap<IfIndex, MasqueradeSource>,
    /// Smallest MTU of the uplinks to other nodes and of default routes.
    pub uplink_mtu: u32,
    /// Smallest MTU of the links that are no uplinks but have routes of other programs (a bridge of
    /// another runtime, a tunnel); `None` if there is no such route.
    pub elsewhere: Option<u32>,
}

/// Computes the facts; `nodes`: all Node objects, the node's own among them.
#[must_use]
pub fn facts(config: &Config, snapshot: &KernelSnapshot, nodes: &Nodes) -> NodeFacts {
    let node = nodes.get(config.node_name.as_str());
    let Uplinks { links: uplinks, missing, mut warnings, main, mtu } = uplinks::find(config, snapshot, nodes);
    let node_ips = node_ips(config, snapshot, node, &main);
    let addresses: BTreeSet<_> = snapshot.global().chain(snapshot.link_local4()).map(|a| a.network.ip()).collect();
    let is_uplink = |index: IfIndex| uplinks.iter().any(|l| l.index == index);
    let mut on_link: Vec<_> = snapshot.global().filter(|a| is_uplink(a.index)).map(|a| (a.network, a.index)).collect();
    let routed = snapshot.routes.iter().filter(|r| r.protocol != PROTOCOL).filter_map(|r| match r.hop {
        Hop::Device { index } if is_uplink(index) && !is_link_local(r.destination.ip()) => Some((r.destination, index)),
        _ => None,
    });
    on_link.extend(routed);
    let foreign =
        |r: &&Route| r.protocol != PROTOCOL && !is_link_local(r.destination.ip()) && !r.destination.ip().is_multicast();
    let elsewhere = snapshot
        .routes
        .iter()
        .filter(foreign)
        .filter_map(device)
        .filter(|index| *index != LOOPBACK && !is_uplink(*index))
        .map(|index| snapshot.links.iter().find(|l| l.index == index).map_or(u32::MAX, |l| l.mtu))
        .min();
    let behind_devices: BTreeSet<_> = snapshot
        .routes
        .iter()
        .filter(foreign)
        .filter(|r| r.destination.prefix() != 0)
        .filter(|r| matches!(r.hop, Hop::Device { index } if index != LOOPBACK && !is_uplink(index)))
        .map(|r| r.destination)
        .collect();
    let link_local = link_local_elsewhere(snapshot, is_uplink);
    let uplink_mtu = mtu.unwrap_or(1500);
    let mut pod_cidrs = if config.pod_cidrs.is_empty() {
        node.map_or_else(Vec::new, |n| n.pod_cidrs.to_vec())
    } else {
        config.pod_cidrs.clone()
    };
    if !snapshot.ipv6 && pod_cidrs.iter().any(IpNetwork::is_ipv6) {
        pod_cidrs.retain(IpNetwork::is_ipv4);
        let text = "this kernel has no IPv6 (ipv6.disable=1): pods get no IPv6 addresses, and IPv6 is not served here";
        warnings.push(text.into());
    }
    let sources = uplinks.iter().map(|l| (l.index, masquerade_source(snapshot, l.index, &node_ips))).collect();
    let gateways: BTreeSet<_> = snapshot.routes.iter().filter_map(gateway).collect();
    let listening = addresses.intersection(&snapshot.listening).copied().collect();
    let (addresses, gateways) = (addresses.into_iter().collect(), gateways.into_iter().collect());
    NodeFacts {
        ipv6: snapshot.ipv6,
        uplinks,
        missing,
        warnings,
        node_ips,
        addresses,
        listening,
        link_local,
        behind_devices: behind_devices.into_iter().collect(),
        on_link,
        pod_cidrs,
        gateways,
        sources,
        uplink_mtu,
        elsewhere,
    }
}

/// Returns the IPv4 link-local networks that routes of other programs lead to devices that are no
/// uplinks, unless an uplink has a route to the same network.
fn link_local_elsewhere(snapshot: &KernelSnapshot, is_uplink: impl Fn(IfIndex) -> bool) -> Vec<IpNetwork> {
    let routes = snapshot.routes.iter().filter(|r| r.protocol != PROTOCOL && r.destination.is_ipv4());
    let routes = routes.filter(|r| is_link_local(r.destination.ip()) && r.destination.prefix() >= 16);
    let (ours, others): (BTreeSet<_>, BTreeSet<_>) = routes
        .filter_map(|r| Some((r.destination, is_uplink(device(r)?))))
        .fold(Default::default(), |(mut ours, mut others), (range, uplink)| {
            if uplink {
                ours.insert(range)
            } else {
                others.insert(range)
            };
            (ours, others)
        });
    others.difference(&ours).copied().collect()
}

/// Returns the ports of nodes that no Service gets: those of kubelet, the agent and the tunnel.
fn reserved_ports(config: &Config) -> Vec<(u8, u16)> {
    let agent = [config.metrics_bind_address.port(), config.healthz_bind_address.port()];
    let tcp = agent.into_iter().chain([KUBELET_PORT]).filter(|port| *port != 0).map(|port| (proto::TCP, port));
    tcp.chain((config.route_mode != RouteMode::Direct).then_some((proto::UDP, config.vxlan_port))).collect()
}

/// Returns the next hop of a route that is not Ropeway's.
fn gateway(route: &Route) -> Option<IpAddr> {
    match route.hop {
        Hop::Gateway { via, .. } if route.protocol != PROTOCOL => Some(via),
        _ => None,
    }
}

/// Returns the index of a route's egress device.
fn device(route: &Route) -> Option<IfIndex> {
    match route.hop {
        Hop::Gateway { index, .. } => index,
        Hop::Device { index } => Some(index),
        Hop::Blackhole => None,
    }
}

/// Returns the addresses of a device for packets that leave by it: the node's address if the device
/// has it, else the one that its routers share a network with, else the first. A family of which it
/// has none gets the node's address.
fn masquerade_source(snapshot: &KernelSnapshot, index: IfIndex, node_ips: &[IpAddr]) -> MasqueradeSource {
    let of_device = |r: &&Route| device(r) == Some(index);
    let gateways: Vec<_> = snapshot.routes.iter().filter(of_device).filter_map(gateway).collect();
    let best = |family: IpFamily| {
        let usable = snapshot.global().filter(|a| a.index == index && !a.tentative && family.has(a.network.ip()));
        usable.map(|a| a.network).min_by_key(|network| {
            let routed = gateways.iter().any(|gateway| network.contains(*gateway));
            (!node_ips.contains(&network.ip()), !routed)
        })
    };
    let mut source = MasqueradeSource::default();
    let of_device = IpFamily::BOTH.into_iter().filter_map(best).map(|network| network.ip());
    for ip in node_ips.iter().copied().chain(of_device) {
        match ip {
            IpAddr::V4(a) => source.addr4 = a.into(),
            IpAddr::V6(a) => source.addr6 = a.into(),
        }
    }
    source
}

fn node_ips(config: &Config, snapshot: &KernelSnapshot, node: Option<&NodeObject>, main: &[IfIndex]) -> Vec<IpAddr> {
    let object = node.map_or(&[][..], |n| &n.addresses);
    // A card that only has an address is none by which other hosts know the node.
    let on_uplinks = main.iter().flat_map(|index| snapshot.global().filter(move |a| a.index == *index));
    // A tentative IPv6 address cannot be used before duplicate address detection is done.
    let on_uplinks = on_uplinks.filter(|a| !a.tentative).map(|a| a.network.ip());
    let local = object.iter().copied().filter(|ip| snapshot.device_of(*ip).is_some());
    let candidates: Vec<_> = config.node_ips.iter().copied().chain(local).chain(on_uplinks).collect();
    let first = |family: IpFamily| candidates.iter().copied().find(|ip| family.has(*ip));
    let families = IpFamily::BOTH.into_iter().filter(|family| snapshot.ipv6 || *family == IpFamily::V4);
    families.filter_map(first).collect()
}

impl NodeFacts {
    /// Returns the MTU of pods: the configured one, or what fits the uplinks and the tunnel.
    /// `tunnel`: MTU of the tunnel, 0 without one.
    #[must_use]
    pub fn pod_mtu(&self, config: &Config, tunnel: u32) -> u32 {
        config.mtu.unwrap_or(if tunnel == 0 { self.uplink_mtu } else { self.uplink_mtu.min(tunnel) })
    }

    /// Returns the node's context for the controller, without DNS servers.
    #[must_use]
    pub fn context(&self, config: &Config) -> NodeContext {
        NodeContext {
            name: config.node_name.clone(),
            zone: config.zone.as_deref().map(Into::into),
            addresses: self.addresses.clone(),
            listening: self.listening.clone(),
            reserved_ports: reserved_ports(config),
            primary: self.node_ips.clone(),
            nodeport_addresses: self.nodeport_addresses(&config.nodeport_addresses),
            pod_ranges: config.cluster_cidrs.iter().chain(&self.pod_cidrs).copied().collect(),
            service_ranges: config.service_cidrs.clone(),
            external_ranges: config.external_ranges(),
            local_networks: (config.ipam != Ipam::None)
                .then(|| self.pod_cidrs.iter().chain(&self.behind_devices).copied().collect()),
            gateways: self.gateways.clone(),
            resolvers: Vec::new(),
            scheduler: config.scheduler as u8,
            maglev_size: config.maglev_table_size,
            max_slots: config.tables.slots.unwrap_or(sizes::MAX_SLOTS),
            ipv4: true,
            ipv6: self.ipv6,
        }
    }

    /// Returns the addresses at which node ports are served, among them the loopback addresses,
    /// which only the node's own processes reach.
    fn nodeport_addresses(&self, configured: &[NodePortRange]) -> Vec<IpAddr> {
        let within = |ip: &IpAddr| {
            configured.iter().any(|range| match range {
                NodePortRange::Primary => self.node_ips.contains(ip),
                NodePortRange::Range(range) => range.contains(*ip),
            })
        };
        let own = self.addresses.iter().chain(&self.node_ips).copied().filter(|ip| !is_link_local(*ip));
        let own: BTreeSet<_> = own.filter(within).collect();
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        own.into_iter().chain(loopback).collect()
    }

    /// Returns the programs' configuration, without the fields that `config_writer` adds.
    #[must_use]
    pub fn node_config(&self, config: &Config, clock: Clock) -> NodeConfig {
        let (node4, node6) = self.own();
        NodeConfig {
            node4,
            node6,
            snat_port_min: config.snat_ports.first,
            snat_port_max: config.snat_ports.last,
            udp_ticks: clock.ticks(config.udp_timeout).0,
            tcp_ticks: clock.ticks(config.tcp_timeout).0,
            closing_ticks: clock.ticks(config.tcp_closing_timeout).0,
            unreplied_ticks: clock.ticks_to_reach(UNREPLIED).saturating_u16(),
            assured_ticks: clock.ticks(ASSURED).saturating_u16(),
            // With several egress devices the host's routes decide.
            uplink: if let ([only], None) = (&self.uplinks[..], self.elsewhere) { only.index.0 } else { 0 },
            mtu: self.uplinks.iter().map(|l| l.mtu).chain(self.elsewhere).min().unwrap_or(0),
            ..NodeConfig::default()
        }
    }

    /// Returns the primary address of each family in the maps' form; unspecified if there is none.
    #[must_use]
    pub fn own(&self) -> (V4, V6) {
        let (mut v4, mut v6) = (V4::UNSPECIFIED, V6::UNSPECIFIED);
        for ip in &self.node_ips {
            match ip {
                IpAddr::V4(a) => v4 = V4::from(*a),
                IpAddr::V6(a) => v6 = V6::from(*a),
            }
        }
        (v4, v6)
    }
}
