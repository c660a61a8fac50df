//! Network devices: create, change, remove and list them.
//!
//! The plugin creates pods' veth pairs, the agent its host and tunnel devices.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkLayerType, LinkMessage,
};

use super::{IfIndex, NetlinkError, NetlinkRequest, Socket, Vxlan};

/// The index in a message that names no device, or leaves the choice of the index to the kernel.
pub(super) const NO_DEVICE: IfIndex = IfIndex(0);

/// A network device as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: IfIndex,
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// Hardware address; all zero where the device has none of six bytes.
    pub mac: [u8; 6],
    /// Frames of the device begin with an Ethernet header (`ARPHRD_ETHER`).
    pub ethernet: bool,
    /// MTU of the device in bytes.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Operationally up: the other end is up as well.
    pub running: bool,
    /// Kind of a virtual device: `veth`, `vxlan`, `bridge`, ...; physical devices have none.
    pub kind: Option<String>,
    /// Device group, 0 by default; see [`delete_group`].
    pub group: u32,
    /// Index of the other end (veth) or of the device below; it may lie in another namespace.
    pub lower: Option<IfIndex>,
    /// Id of the namespace in which [`Self::lower`] lies (see [`Socket::netns_number`]); `None`:
    /// this one.
    pub peer_netns: Option<i32>,
    /// Index of the bridge or bond that has it as a port.
    pub controller: Option<IfIndex>,
    /// The VXLAN settings, if it is a VXLAN device.
    pub vxlan: Option<Vxlan>,
}

/// A veth pair to create: one end here, the other directly in its namespace.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// Name of this end.
    pub name: &'a str,
    /// Index of this end.
    pub index: IfIndex,
    /// Hardware address of this end.
    pub mac: [u8; 6],
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Hardware address of the other end.
    pub peer_mac: [u8; 6],
    /// Network namespace of the other end.
    pub peer_netns: BorrowedFd<'a>,
}

pub(super) fn message(index: IfIndex, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index.0;
    message.attributes = attributes;
    message
}

fn set_up_flag(message: &mut LinkMessage, up: bool) {
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Up;
}

/// Creates a pair of virtual devices, both down: the kernel cannot set the other end up before they
/// are paired.
///
/// The kernel refuses with `EEXIST` when a name is taken and with `EBUSY` (older kernels: `EEXIST`)
/// when the index is.
#[must_use]
pub fn create_veth(veth: &Veth<'_>) -> NetlinkRequest {
    let peer = message(
        NO_DEVICE,
        vec![
            LinkAttribute::IfName(veth.peer_name.into()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::Address(veth.peer_mac.to_vec()),
            LinkAttribute::NetNsFd(veth.peer_netns.as_raw_fd()),
        ],
    );
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    let attributes = vec![
        LinkAttribute::IfName(veth.name.into()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::Address(veth.mac.to_vec()),
        LinkAttribute::LinkInfo(info),
    ];
    let attempt = format!("make veth {} (index {}) with peer {}", veth.name, veth.index, veth.peer_name);
    NetlinkRequest::create(RouteNetlinkMessage::NewLink(message(veth.index, attributes)), attempt)
}

fn set(index: IfIndex, attributes: Vec<LinkAttribute>, what: &str) -> NetlinkRequest {
    NetlinkRequest::change(RouteNetlinkMessage::SetLink(message(index, attributes)), format!("device {index}: {what}"))
}

fn set_flag(index: IfIndex, up: bool, what: &str) -> NetlinkRequest {
    let mut message = message(index, vec![]);
    set_up_flag(&mut message, up);
    NetlinkRequest::change(RouteNetlinkMessage::SetLink(message), format!("device {index}: {what}"))
}

/// Sets a device up.
#[must_use]
pub fn set_up(index: IfIndex) -> NetlinkRequest {
    set_flag(index, true, "set up")
}

/// Sets a device down.
#[must_use]
pub fn set_down(index: IfIndex) -> NetlinkRequest {
    set_flag(index, false, "set down")
}

/// Switches off ARP and neighbour discovery on a device (`IFF_NOARP`).
#[must_use]
pub fn without_arp(index: IfIndex) -> NetlinkRequest {
    let mut message = message(index, vec![]);
    message.header.flags = LinkFlags::Noarp;
    message.header.change_mask = LinkFlags::Noarp;
    NetlinkRequest::change(RouteNetlinkMessage::SetLink(message), format!("device {index}: no ARP"))
}

/// Sets the hardware address.
#[must_use]
pub fn set_mac(index: IfIndex, mac: [u8; 6]) -> NetlinkRequest {
    set(index, vec![LinkAttribute::Address(mac.to_vec())], "set the MAC")
}

/// Sets the largest packet.
#[must_use]
pub fn set_mtu(index: IfIndex, mtu: u32) -> NetlinkRequest {
    set(index, vec![LinkAttribute::Mtu(mtu)], &format!("set the MTU to {mtu}"))
}

/// Puts a device into a group; see [`delete_group`].
#[must_use]
pub fn set_group(index: IfIndex, group: u32) -> NetlinkRequest {
    set(index, vec![LinkAttribute::Group(group)], &format!("put into group {group:#x}"))
}

/// Switches off the automatic link-local IPv6 address and IPv4 redirects in both directions. (IPv6
/// has no such attributes; there it takes a write to `/proc/sys`.) `ipv6`: the kernel has IPv6, see
/// [`has_ipv6`]; without it the kernel refuses the attributes of IPv6.
#[must_use]
pub fn quiet_link(index: IfIndex, ipv6: bool) -> NetlinkRequest {
    configure(index, &[(ACCEPT_REDIRECTS, 0), (SEND_REDIRECTS, 0)], ipv6, "no own addresses, no redirects")
}

/// Configures a device like [`quiet_link`], and sets `rp_filter` to 2 (loose): packets from it may
/// have sources that the node would reach through another device. The kernel uses the larger of the
/// device's value and the common one.
#[must_use]
pub fn quiet_tunnel(index: IfIndex, ipv6: bool) -> NetlinkRequest {
    let settings = [(ACCEPT_REDIRECTS, 0), (SEND_REDIRECTS, 0), (RP_FILTER, 2)];
    configure(index, &settings, ipv6, "no own addresses, no redirects, loose reverse-path filter")
}

/// Returns true if the kernel has IPv6: it was built with it and started without `ipv6.disable=1`.
#[must_use]
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

// include/uapi/linux/ip.h, IPV4_DEVCONF_*.
const ACCEPT_REDIRECTS: u16 = 4;
const SEND_REDIRECTS: u16 = 6;
const RP_FILTER: u16 = 8;

fn configure(index: IfIndex, settings: &[(u16, u32)], ipv6: bool, what: &str) -> NetlinkRequest {
    // IFLA_INET_CONF, which is a nest here.
    const INET_CONF_NEST: u16 = 1 | 0x8000;
    let mut conf = Vec::with_capacity(8 * settings.len());
    for (setting, value) in settings {
        conf.extend_from_slice(&8_u16.to_ne_bytes());
        conf.extend_from_slice(&setting.to_ne_bytes());
        conf.extend_from_slice(&value.to_ne_bytes());
    }
    let mut spec = vec![AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(INET_CONF_NEST, conf))])];
    if ipv6 {
        spec.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]));
    }
    set(index, vec![LinkAttribute::AfSpecUnspec(spec)], what)
}

/// Removes a device, and with it the other end of a pair, its addresses, routes, neighbours and
/// filters.
#[must_use]
pub fn delete_link(index: IfIndex) -> NetlinkRequest {
    NetlinkRequest::change(RouteNetlinkMessage::DelLink(message(index, vec![])), format!("remove device {index}"))
}

/// Removes all devices of a group at once, for about the time of one.
#[must_use]
pub fn delete_group(group: u32) -> NetlinkRequest {
    let attributes = vec![LinkAttribute::Group(group)];
    NetlinkRequest::change(
        RouteNetlinkMessage::DelLink(message(NO_DEVICE, attributes)),
        format!("remove the devices of group {group:#x}"),
    )
}

impl Link {
    fn from_message(message: RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewLink(message) = message else { return None };
        Some(Self::from_link(message))
    }

    pub(super) fn from_link(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: IfIndex(message.header.index),
            name: String::new(),
            mac: [0; 6],
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            kind: None,
            group: 0,
            lower: None,
            peer_netns: None,
            controller: None,
            vxlan: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::Link(index) => link.lower = Some(IfIndex(index)),
                LinkAttribute::LinkNetNsId(number) => link.peer_netns = Some(number),
                LinkAttribute::Controller(index) => link.controller = Some(IfIndex(index)),
                LinkAttribute::LinkInfo(info) => {
                    for item in info {
                        match item {
                            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                            LinkInfo::Data(InfoData::Vxlan(data)) => link.vxlan = Some(Vxlan::from_data(&data)),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

impl Socket {
    /// Returns the device with that name.
    ///
    /// # Errors
    /// The kernel refused. A missing device is `None`.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.link(message(NO_DEVICE, vec![LinkAttribute::IfName(name.into())]), &format!("look for device {name}"))
    }

    /// Returns the device with that index.
    ///
    /// # Errors
    /// The kernel refused. A missing device is `None`.
    pub fn link_by_index(&mut self, index: IfIndex) -> Result<Option<Link>, NetlinkError> {
        self.link(message(index, vec![]), &format!("look for device {index}"))
    }

    /// Lists all devices of the namespace.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = NetlinkRequest::dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), "list devices");
        Ok(self.dump(&request)?.into_iter().filter_map(Link::from_message).collect())
    }

    fn link(&mut self, message: LinkMessage, attempt: &str) -> Result<Option<Link>, NetlinkError> {
        let request = NetlinkRequest::change(RouteNetlinkMessage::GetLink(message), attempt.into());
        match self.get(&request) {
            Ok(found) => Ok(found.and_then(Link::from_message)),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e),
        }
    }
}
