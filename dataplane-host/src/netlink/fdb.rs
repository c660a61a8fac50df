//! The forwarding database of a VXLAN device: maps a MAC to the remote machine that has it.
//!
//! The agent writes one permanent entry per remote node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{IfIndex, NetlinkError, NetlinkRequest, Socket};

/// An entry of the forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbEntry {
    /// The hardware address in the tunnel.
    pub mac: [u8; 6],
    /// Address of the remote machine to which frames for that MAC are sent.
    pub remote: IpAddr,
    /// Permanent: set by a program, not learnt.
    pub permanent: bool,
}

fn message(index: IfIndex, mac: [u8; 6]) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family: AddressFamily::Bridge,
        ifindex: index.0,
        state: NeighbourState::Permanent,
        flags: NeighbourFlags::Own,
        ..NeighbourHeader::default()
    };
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    message
}

/// Sets the remote machine of a hardware address, as a permanent entry.
#[must_use]
pub fn replace_fdb(index: IfIndex, mac: [u8; 6], remote: IpAddr) -> NetlinkRequest {
    let mut message = message(index, mac);
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(remote)));
    NetlinkRequest::replace(
        RouteNetlinkMessage::NewNeighbour(message),
        format!("device {index}: set tunnel end {remote}"),
    )
}

/// Removes the entries of a hardware address.
#[must_use]
pub fn delete_fdb(index: IfIndex, mac: [u8; 6]) -> NetlinkRequest {
    let attempt = format!("device {index}: remove the tunnel end with MAC {mac:02x?}");
    NetlinkRequest::change(RouteNetlinkMessage::DelNeighbour(message(index, mac)), attempt)
}

impl Socket {
    /// Lists the forwarding database of a VXLAN device.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn fdb(&mut self, index: IfIndex) -> Result<Vec<FdbEntry>, NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index.0;
        let request = NetlinkRequest::dump(RouteNetlinkMessage::GetNeighbour(message), "list tunnel ends");
        let entry = |m| match m {
            RouteNetlinkMessage::NewNeighbour(m) if m.header.ifindex == index.0 => from_message(&m),
            _ => None,
        };
        Ok(self.dump(&request)?.into_iter().filter_map(entry).collect())
    }
}

fn from_message(message: &NeighbourMessage) -> Option<FdbEntry> {
    let (mut mac, mut remote) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::Destination(address) => remote = ip(address),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    Some(FdbEntry { mac: mac?, remote: remote?, permanent })
}

/// Parses the remote address by its length, because the message's family is `AF_BRIDGE`.
fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(a) => Some((*a).into()),
        NeighbourAddress::Inet6(a) => Some((*a).into()),
        NeighbourAddress::Other(bytes) => {
            let four = || <[u8; 4]>::try_from(bytes.as_slice()).ok().map(|a| Ipv4Addr::from(a).into());
            let six = || <[u8; 16]>::try_from(bytes.as_slice()).ok().map(|a| Ipv6Addr::from(a).into());
            four().or_else(six)
        }
        _ => None,
    }
}
