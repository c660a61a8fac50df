//! Routes of the main table: build requests, list the present ones.
//!
//! The agent routes to other nodes' pods, the plugin to the node's own. Only routes with
//! [`PROTOCOL`] are ever removed.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::family;
use super::{IfIndex, NetlinkError, NetlinkRequest, Socket};

/// The protocol number of Ropeway's routes ("RW"). Only routes that carry it are ever removed.
pub const PROTOCOL: u8 = 82;

/// The next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hop {
    /// Direct: the destination is a neighbour on that device.
    Device {
        /// Index of the device.
        index: IfIndex,
    },
    /// Gateway: through a router.
    Gateway {
        /// IP address of the router.
        via: IpAddr,
        /// Index of the device that leads there; without it the kernel looks.
        index: Option<IfIndex>,
        /// The router is on-link although no address of the device covers it.
        onlink: bool,
    },
    /// Blackhole: packets are dropped silently.
    Blackhole,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// The network of destination addresses.
    pub destination: IpNetwork,
    /// The next hop of matching packets.
    pub hop: Hop,
    /// Among routes to the same destination the lowest wins. 0 is the kernel's default: 0 for IPv4,
    /// 1024 for IPv6.
    pub metric: u32,
    /// The program that owns it; [`PROTOCOL`] for Ropeway.
    pub protocol: u8,
    /// The node's own packets on this route get this source address.
    pub source: Option<IpAddr>,
    /// Largest packet, if smaller than the device's.
    pub mtu: Option<u32>,
}

impl Route {
    /// Returns a route of Ropeway with default metric, source and MTU.
    #[must_use]
    pub const fn new(destination: IpNetwork, hop: Hop) -> Self {
        Self { destination, hop, metric: 0, protocol: PROTOCOL, source: None, mtu: None }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(self.destination.ip()),
            destination_prefix_length: self.destination.prefix(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::from(self.protocol),
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        let attributes = &mut message.attributes;
        if self.destination.prefix() > 0 {
            attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        }
        match self.hop {
            Hop::Device { index } => {
                message.header.scope = if self.destination.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
                attributes.push(RouteAttribute::Oif(index.0));
            }
            Hop::Gateway { via, index, onlink } => {
                attributes.push(RouteAttribute::Gateway(via.into()));
                attributes.extend(index.map(|index| RouteAttribute::Oif(index.0)));
                if onlink {
                    message.header.flags = RouteFlags::Onlink;
                }
            }
            Hop::Blackhole => message.header.kind = RouteType::BlackHole,
        }
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        attributes.extend(self.source.map(|a| RouteAttribute::PrefSource(a.into())));
        attributes.extend(self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        message
    }

    /// Describes destination and next hop for error texts and logs.
    #[must_use]
    pub fn describe(&self) -> String {
        let to = match self.hop {
            Hop::Device { index } => format!("device {index}"),
            Hop::Gateway { via, index: Some(index), .. } => format!("{via}, device {index}"),
            Hop::Gateway { via, .. } => via.to_string(),
            Hop::Blackhole => "nowhere".into(),
        };
        format!("route {} to {to}", self.destination)
    }

    pub(super) fn from_message(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => [0_u8; 4].into(),
            AddressFamily::Inet6 => [0_u8; 16].into(),
            _ => return None,
        };
        let (mut destination, mut via, mut index, mut metric, mut source, mut mtu) =
            (unspecified, None, None, 0, None, None);
        let mut table = u32::from(header.table);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(a) => destination = ip(a)?,
                RouteAttribute::Gateway(a) => via = ip(a),
                RouteAttribute::Oif(i) => index = Some(IfIndex(*i)),
                RouteAttribute::Priority(p) => metric = *p,
                RouteAttribute::PrefSource(a) => source = ip(a),
                RouteAttribute::Table(t) => table = *t,
                RouteAttribute::Metrics(m) => {
                    mtu = m.iter().find_map(|m| if let RouteMetric::Mtu(v) = m { Some(*v) } else { None });
                }
                _ => {}
            }
        }
        if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
            return None;
        }
        let hop = match (header.kind, via, index) {
            (RouteType::BlackHole, ..) => Hop::Blackhole,
            (RouteType::Unicast, Some(via), index) => {
                Hop::Gateway { via, index, onlink: header.flags.contains(RouteFlags::Onlink) }
            }
            (RouteType::Unicast, None, Some(index)) => Hop::Device { index },
            _ => return None,
        };
        let destination = IpNetwork::new(destination, header.destination_prefix_length).ok()?;
        // The kernel's default metric of IPv6 routes counts as none.
        if destination.is_ipv6() && metric == 1024 {
            metric = 0;
        }
        Some(Self { destination, hop, metric, protocol: header.protocol.into(), source, mtu })
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

/// Adds a route; the kernel refuses with `EEXIST` when there is one with the same destination and
/// metric.
#[must_use]
pub fn add_route(route: &Route) -> NetlinkRequest {
    NetlinkRequest::create(RouteNetlinkMessage::NewRoute(route.message()), format!("add {}", route.describe()))
}

/// Adds a route, or replaces the one with the same destination and metric, of any owner.
#[must_use]
pub fn replace_route(route: &Route) -> NetlinkRequest {
    NetlinkRequest::replace(RouteNetlinkMessage::NewRoute(route.message()), format!("set {}", route.describe()))
}

/// Removes a route; only one with the same protocol number, destination and hop is removed.
#[must_use]
pub fn delete_route(route: &Route) -> NetlinkRequest {
    let mut message = route.message();
    if matches!(route.hop, Hop::Gateway { .. } | Hop::Device { .. }) && route.destination.is_ipv4() {
        // `RT_SCOPE_NOWHERE` matches any scope; otherwise the kernel compares it.
        message.header.scope = RouteScope::NoWhere;
    }
    message.attributes.retain(|a| !matches!(a, RouteAttribute::Metrics(_)));
    NetlinkRequest::change(RouteNetlinkMessage::DelRoute(message), format!("remove {}", route.describe()))
}

impl Socket {
    /// Lists the routes of the main table with a protocol number (0: any), of both families.
    /// Multipath routes and other kinds that [`Route`] cannot express are left out.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn routes(&mut self, protocol: u8) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.header.protocol = RouteProtocol::from(protocol);
            let request = NetlinkRequest::dump(RouteNetlinkMessage::GetRoute(message), "list routes");
            let route = |m| match m {
                RouteNetlinkMessage::NewRoute(m) => Route::from_message(&m),
                _ => None,
            };
            match self.dump(&request) {
                Ok(found) => {
                    routes.extend(found.into_iter().filter_map(route).filter(|r| [0, r.protocol].contains(&protocol)));
                }
                // A kernel without IPv6, or a table that has never had an entry.
                Err(e) if matches!(e.refusal(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(routes)
    }
}
