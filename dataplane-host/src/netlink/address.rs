//! Addresses of devices: build requests, list the present ones.
//!
//! Called by the plugin for pods and by the agent for its tunnel devices.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{IfIndex, NetlinkError, NetlinkRequest, Socket};

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Index of the device.
    pub index: IfIndex,
    /// The address with the length of its network.
    pub network: IpNetwork,
    /// Valid on this link only (IPv6 `fe80::/10`, IPv4 scope link) or on this host only.
    pub narrow: bool,
    /// IPv6: not usable yet, because duplicate address detection is running.
    pub tentative: bool,
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn message(index: IfIndex, network: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(network.ip());
    message.header.prefix_len = network.prefix();
    message.header.index = index.0;
    message.attributes = vec![AddressAttribute::Local(network.ip()), AddressAttribute::Address(network.ip())];
    message
}

/// Adds an address to a device. It is usable at once, because IPv6 duplicate address detection is
/// skipped. The kernel adds no route to the address's network.
#[must_use]
pub fn add_address(index: IfIndex, network: IpNetwork) -> NetlinkRequest {
    let mut message = message(index, network);
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
    NetlinkRequest::create(RouteNetlinkMessage::NewAddress(message), format!("device {index}: add address {network}"))
}

/// Removes an address from a device.
#[must_use]
pub fn delete_address(index: IfIndex, network: IpNetwork) -> NetlinkRequest {
    let message = message(index, network);
    NetlinkRequest::change(
        RouteNetlinkMessage::DelAddress(message),
        format!("device {index}: remove address {network}"),
    )
}

impl InterfaceAddress {
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut address) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(a) => local = Some(*a),
                AddressAttribute::Address(a) => address = Some(*a),
                AddressAttribute::Flags(f) => flags = *f,
                _ => {}
            }
        }
        Some(Self {
            index: IfIndex(message.header.index),
            network: IpNetwork::new(local.or(address)?, message.header.prefix_len).ok()?,
            narrow: message.header.scope != AddressScope::Universe,
            tentative: flags.contains(AddressFlags::Tentative),
        })
    }
}

impl Socket {
    /// Lists the addresses of all devices, of both families.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn addresses(&mut self) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let request =
            NetlinkRequest::dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "list addresses");
        let messages = self.dump(&request)?;
        let address = |m| match m {
            RouteNetlinkMessage::NewAddress(m) => InterfaceAddress::from_message(&m),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(address).collect())
    }
}
