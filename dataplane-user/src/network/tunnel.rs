//! The way to nodes behind another subnet: VXLAN devices, one for each address family of the networks between the nodes.
//!
//! Nothing is learnt and nothing is asked for: network identifier, port and hardware addresses are the same rule on every
//! node, so a Node object says all that the other ends must know. A device of this name with another network identifier
//! is somebody else's and is left alone.

mod apply;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use dataplane_common::types::fnv::hash64;
use dataplane_host::netlink::{Link, Vxlan};
use ipnetwork::IpNetwork;

pub use apply::{TunnelError, TunnelOutcome, apply, remove_all};

/// The network identifier ("RW").
pub const VNI: u32 = 0x5257;

/// The devices' names: the one whose datagrams are IPv4, and IPv6.
pub const NAMES: [&str; 2] = ["ropeway.vx4", "ropeway.vx6"];

/// The device's name by the family of its datagrams.
#[must_use]
pub const fn name(v6: bool) -> &'static str {
    NAMES[v6 as usize]
}

/// How many bytes of a packet of the network between the nodes the tunnel takes: the headers of IP, UDP and VXLAN, and the
/// inner Ethernet header.
#[must_use]
pub const fn overhead(v6: bool) -> u32 {
    (if v6 { 40 } else { 20 }) + 8 + 8 + 14
}

/// The hardware address in the tunnel of the node with this address: `52:57` and the IPv4 address, or `56` and five bytes of a hash
/// of the IPv6 address (FNV-1a, 64 bits, of which the last five).
#[must_use]
pub fn mac(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(a) => {
            let [b0, b1, b2, b3] = a.octets();
            [0x52, 0x57, b0, b1, b2, b3]
        }
        IpAddr::V6(a) => {
            let hash = hash64(&a.octets());
            let [_, _, _, h3, h4, h5, h6, h7] = hash.to_be_bytes();
            [0x56, h3, h4, h5, h6, h7]
        }
    }
}

/// The next hop of IPv6 packets in the tunnel: the link-local address that belongs to a hardware address (RFC 4291, appendix A).
#[must_use]
pub fn link_local(mac: [u8; 6]) -> IpAddr {
    let [m0, m1, m2, m3, m4, m5] = mac;
    let id = u64::from_be_bytes([m0 ^ 2, m1, m2, 0xff, 0xfe, m3, m4, m5]);
    Ipv6Addr::from_bits(0xfe80_u128 << 112 | u128::from(id)).into()
}

/// The other ends: the address of a node, by which the hardware address is made as well, and its addresses in the tunnel.
pub type Peers = BTreeMap<IpAddr, BTreeSet<IpAddr>>;

/// The addresses of the tunnel: those of the node's ranges themselves, of each family the first, which no pod ever gets. What a node's own processes send
/// into the tunnel comes from there, so that the answer takes the same way, and no router has to let pods' addresses pass.
#[must_use]
pub fn addresses(ranges: &[IpNetwork]) -> BTreeSet<IpNetwork> {
    let first = |v6| {
        let range = ranges.iter().find(|r| r.is_ipv6() == v6)?;
        // In a range of one or two addresses all are for pods.
        let whole: u8 = if v6 { 128 } else { 32 };
        (whole - range.prefix() > 1).then(|| range.network().into())
    };
    [false, true].into_iter().filter_map(first).collect()
}

/// What a device should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// This node's address, whose family is that of the datagrams.
    pub local: IpAddr,
    /// This node's hardware address in the tunnel.
    pub mac: [u8; 6],
    /// Largest packet in the tunnel.
    pub mtu: u32,
    /// UDP port.
    pub port: u16,
    /// Its own addresses, each a network of one.
    pub addresses: BTreeSet<IpNetwork>,
    /// The other ends, of the same family.
    pub peers: Peers,
}

impl Tunnel {
    /// The device's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        name(self.local.is_ipv6())
    }

    /// Its settings. No checksum in the outer UDP header: what is inside has its own, and to compute another costs each packet. Over IPv6
    /// that has to be allowed at both ends (RFC 6935).
    #[must_use]
    pub const fn settings(&self) -> Vxlan {
        let six = self.local.is_ipv6();
        Vxlan {
            vni: VNI,
            port: self.port,
            local: Some(self.local),
            learning: false,
            zero_checksum6_sent: six,
            zero_checksum6_taken: six,
        }
    }
}

/// Whether we have made this device, or an agent before us.
#[must_use]
pub fn is_ours(link: &Link) -> bool {
    NAMES.contains(&link.name.as_str()) && link.vxlan.is_some_and(|v| v.vni == VNI)
}

/// The change that a tunnel device needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelAction {
    /// Made.
    Make,
    /// Removed, and made anew: what differs can't be changed.
    Remake,
    /// Given its hardware address, MTU and flag again, as far as they differ.
    Change {
        /// The hardware address.
        mac: bool,
        /// The MTU.
        mtu: bool,
        /// It is down.
        down: bool,
    },
    /// Nothing.
    Keep,
    /// Nothing, because it is somebody else's.
    Foreign,
}

/// Compares the present device with the wanted one.
#[must_use]
pub fn action(present: Option<&Link>, wanted: &Tunnel) -> TunnelAction {
    let Some(link) = present else { return TunnelAction::Make };
    if !is_ours(link) {
        return TunnelAction::Foreign;
    }
    if link.vxlan != Some(wanted.settings()) {
        return TunnelAction::Remake;
    }
    let (mac, mtu, down) = (link.mac != wanted.mac, link.mtu != wanted.mtu, !link.up);
    if mac || mtu || down { TunnelAction::Change { mac, mtu, down } } else { TunnelAction::Keep }
}

/// Indices of the devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// Of the one with IPv4 datagrams and the one with IPv6 datagrams.
    pub indices: [Option<u32>; 2],
}

impl Devices {
    /// The device that leads to a node's address.
    #[must_use]
    pub const fn to(&self, remote: IpAddr) -> Option<u32> {
        self.indices[remote.is_ipv6() as usize]
    }
}
