//! Neighbour entries: the hardware address of an IP address on a link.
//!
//! The plugin sets permanent entries at both ends of a pod's veth, so that no ARP or neighbour
//! discovery is needed.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;

use super::address::family;
use super::{IfIndex, NetlinkError, NetlinkRequest, Socket};

/// An entry of the neighbour table (ARP or neighbour discovery).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the device.
    pub index: IfIndex,
    /// IP address of the neighbour.
    pub address: IpAddr,
    /// Its hardware address, if known.
    pub mac: Option<[u8; 6]>,
    /// Permanent: set by a program, never resolved by the kernel.
    pub permanent: bool,
}

fn message(index: IfIndex, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family: family(address),
        ifindex: index.0,
        state: NeighbourState::Permanent,
        kind: RouteType::Unicast,
        ..NeighbourHeader::default()
    };
    let destination = match address {
        IpAddr::V4(a) => NeighbourAddress::Inet(a),
        IpAddr::V6(a) => NeighbourAddress::Inet6(a),
    };
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    message
}

/// Sets a permanent entry: the kernel does not resolve it, and the neighbour cannot change it.
#[must_use]
pub fn replace_neighbour(index: IfIndex, address: IpAddr, mac: [u8; 6]) -> NetlinkRequest {
    let mut message = message(index, address);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    NetlinkRequest::replace(
        RouteNetlinkMessage::NewNeighbour(message),
        format!("device {index}: set neighbour {address}"),
    )
}

/// Removes the entry of an address on a device.
#[must_use]
pub fn delete_neighbour(index: IfIndex, address: IpAddr) -> NetlinkRequest {
    let message = message(index, address);
    NetlinkRequest::change(
        RouteNetlinkMessage::DelNeighbour(message),
        format!("device {index}: remove neighbour {address}"),
    )
}

impl Socket {
    /// Lists the neighbours of both families.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, NetlinkError> {
        let request =
            NetlinkRequest::dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), "list neighbours");
        let neighbour = |m| match m {
            RouteNetlinkMessage::NewNeighbour(m) => from_message(&m),
            _ => None,
        };
        Ok(self.dump(&request)?.into_iter().filter_map(neighbour).collect())
    }
}

fn from_message(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::from(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::from(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    Some(Neighbour { index: IfIndex(message.header.ifindex), address: address?, mac, permanent })
}
