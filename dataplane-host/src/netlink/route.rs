//! Routes of the main table: build requests, list the present ones.
//!
//! The agent routes to other nodes' pods, the plugin to the node's own. Only routes with
//! [`PROTOCOL`] are ever removed.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags, RouteProtocol,
    RouteScope, RouteType,
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

    /// Reads a message, which names one route or, with several next hops (multipath), one for each.
    pub(super) fn from_message(message: &RouteMessage) -> Vec<Self> {
        let Some(route) = Self::without_hops(message) else { return vec![] };
        let hops = message.attributes.iter().filter_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        });
        let hops: Vec<_> = hops.flatten().collect();
        if hops.is_empty() {
            let onlink = message.header.flags.contains(RouteFlags::Onlink);
            let hop = hop(message.header.kind, &message.attributes, None, onlink);
            return hop.map(|hop| Self { hop, ..route }).into_iter().collect();
        }
        let each = hops.into_iter().filter_map(|next| {
            let onlink = next.flags.contains(RouteNextHopFlags::Onlink);
            hop(message.header.kind, &next.attributes, Some(IfIndex(next.interface_index)), onlink)
        });
        each.map(|hop| Self { hop, ..route }).collect()
    }

    /// Reads everything but the next hops.
    fn without_hops(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => [0_u8; 4].into(),
            AddressFamily::Inet6 => [0_u8; 16].into(),
            _ => return None,
        };
        let (mut destination, mut metric, mut source, mut mtu) = (unspecified, 0, None, None);
        let mut table = u32::from(header.table);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(a) => destination = ip(a)?,
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
        let destination = IpNetwork::new(destination, header.destination_prefix_length).ok()?;
        // The kernel's default metric of IPv6 routes counts as none.
        if destination.is_ipv6() && metric == 1024 {
            metric = 0;
        }
        Some(Self { destination, hop: Hop::Blackhole, metric, protocol: header.protocol.into(), source, mtu })
    }
}

/// Reads a next hop; `index`: its device, unless an attribute names it.
fn hop(kind: RouteType, attributes: &[RouteAttribute], mut index: Option<IfIndex>, onlink: bool) -> Option<Hop> {
    let mut via = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(a) => via = ip(a),
            RouteAttribute::Oif(i) => index = Some(IfIndex(*i)),
            _ => {}
        }
    }
    match (kind, via, index) {
        (RouteType::BlackHole, ..) => Some(Hop::Blackhole),
        (RouteType::Unicast, Some(via), index) => Some(Hop::Gateway { via, index, onlink }),
        (RouteType::Unicast, None, Some(index)) => Some(Hop::Device { index }),
        _ => None,
    }
}

/// Returns the routes of a message if it is of that family. A kernel without IPv6 answers a request
/// for IPv6 routes with those of all families (`rtnl_dump_all` in net/core/rtnetlink.c).
fn routes_of(family: AddressFamily, message: &RouteNetlinkMessage) -> Vec<Route> {
    match message {
        RouteNetlinkMessage::NewRoute(m) if m.header.address_family == family => Route::from_message(m),
        _ => vec![],
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
    /// A route with several next hops is one [`Route`] for each; kinds that [`Route`] cannot
    /// express are left out.
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
            let route = |m| routes_of(family, &m);
            match self.dump(&request) {
                Ok(found) => {
                    routes.extend(found.into_iter().flat_map(route).filter(|r| [0, r.protocol].contains(&protocol)));
                }
                // A kernel without IPv6, or a table that has never had an entry.
                Err(e) if matches!(e.refusal(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(routes)
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    #[test]
    fn answer_of_a_kernel_without_ipv6_has_no_route_twice() {
        let route = Route::new("10.1.0.0/16".parse().unwrap(), Hop::Blackhole);
        let message = RouteNetlinkMessage::NewRoute(route.message());
        assert_eq!(routes_of(AddressFamily::Inet, &message), [route]);
        assert_eq!(routes_of(AddressFamily::Inet6, &message), []);
    }

    #[test]
    fn route_with_several_next_hops_is_read_as_one_route_for_each() {
        let gateway = |last| RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, last].into()));
        let next = |interface_index, last| {
            let mut next = RouteNextHop::default();
            (next.interface_index, next.attributes) = (interface_index, vec![gateway(last)]);
            next
        };
        let mut message = Route::new("0.0.0.0/0".parse().unwrap(), Hop::Blackhole).message();
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::MultiPath(vec![next(2, 1), next(3, 7)]));
        let hop = |index, last: u8| Hop::Gateway {
            via: [192, 0, 2, last].into(),
            index: Some(IfIndex(index)),
            onlink: false,
        };
        let hops = Route::from_message(&message).into_iter().map(|route| route.hop).collect::<Vec<_>>();
        assert_eq!(hops, [hop(2, 1), hop(3, 7)]);
    }
}
