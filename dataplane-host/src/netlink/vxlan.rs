//! VXLAN devices (RFC 7348): Ethernet frames between machines in UDP datagrams.
//!
//! The agent creates one per address family for nodes behind a router.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo};

use super::NetlinkRequest;
use super::link::{NO_DEVICE, message};

/// The VXLAN settings of a [`super::Link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Vxlan {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP port, here and at the other ends.
    pub port: u16,
    /// The local address; all remote addresses are of the same family.
    pub local: Option<IpAddr>,
    /// Learns from received frames which machine has a MAC.
    pub learning: bool,
    /// Sends datagrams over IPv6 without a checksum.
    pub zero_checksum6_sent: bool,
    /// Accepts datagrams over IPv6 without a checksum.
    pub zero_checksum6_taken: bool,
}

/// Creates a VXLAN device without default remote: frames are sent only to machines that
/// [`super::replace_fdb`] has set.
///
/// The kernel refuses with `EEXIST` when the name is taken, or another device has the same network
/// identifier and port, and with `EADDRINUSE` when another socket has the port.
#[must_use]
pub fn create_vxlan(name: &str, mac: [u8; 6], mtu: u32, vxlan: &Vxlan) -> NetlinkRequest {
    let mut data = vec![
        InfoVxlan::Id(vxlan.vni),
        InfoVxlan::Port(vxlan.port),
        InfoVxlan::Learning(vxlan.learning),
        InfoVxlan::UDPZeroCsumTX(vxlan.zero_checksum6_sent),
        InfoVxlan::UDPZeroCsumRX(vxlan.zero_checksum6_taken),
    ];
    data.extend(vxlan.local.map(|local| match local {
        IpAddr::V4(a) => InfoVxlan::Local(a),
        IpAddr::V6(a) => InfoVxlan::Local6(a),
    }));
    let attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]),
    ];
    let attempt = format!("make tunnel device {name} (VNI {}, UDP port {})", vxlan.vni, vxlan.port);
    NetlinkRequest::create(RouteNetlinkMessage::NewLink(message(NO_DEVICE, attributes)), attempt)
}

impl Vxlan {
    pub(super) fn from_data(data: &[InfoVxlan]) -> Self {
        let mut vxlan = Self::default();
        for item in data {
            match item {
                InfoVxlan::Id(vni) => vxlan.vni = *vni,
                InfoVxlan::Port(port) => vxlan.port = *port,
                InfoVxlan::Local(a) => vxlan.local = Some((*a).into()),
                InfoVxlan::Local6(a) => vxlan.local = Some((*a).into()),
                InfoVxlan::Learning(is) => vxlan.learning = *is,
                InfoVxlan::UDPZeroCsumTX(is) => vxlan.zero_checksum6_sent = *is,
                InfoVxlan::UDPZeroCsumRX(is) => vxlan.zero_checksum6_taken = *is,
                _ => {}
            }
        }
        vxlan
    }
}
