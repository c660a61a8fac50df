//! VXLAN devices to nodes behind a router, one per address family of the underlay.
//!
//! The node task calls [`apply`] with the tunnels that the route plan needs; uninstall calls
//! [`remove_all`]. There is no learning and no control protocol. VNI, port and hardware addresses
//! follow the same rule on every node, so a Node object contains all that the other nodes need. A
//! device of our name with another VNI belongs to another program and is never changed.

mod apply;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use dataplane_common::types::fnv::hash64;
use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::pod::TUNNEL_VNI;
use dataplane_host::netlink::{IfIndex, Link, Vxlan};
use ipnetwork::IpNetwork;

pub use apply::{TunnelError, TunnelOutcome, apply, remove_all};

/// The VXLAN network identifier.
pub const VNI: u32 = TUNNEL_VNI;

/// Names of the devices, by the family of the outer packets: IPv4, IPv6.
pub const NAMES: [&str; 2] = ["ropeway.vx4", "ropeway.vx6"];

/// Returns the name of the device for this family of outer packets.
#[must_use]
pub const fn name(family: IpFamily) -> &'static str {
    NAMES[family.index()]
}

/// Returns the bytes that the tunnel adds to a packet: outer IP, UDP and VXLAN headers, and the
/// inner Ethernet header.
#[must_use]
pub const fn overhead(family: IpFamily) -> u32 {
    let ip = match family {
        IpFamily::V4 => 20,
        IpFamily::V6 => 40,
    };
    ip + 8 + 8 + 14
}

/// Returns the hardware address in the tunnel of the node with this address.
///
/// For IPv4: `52:57` and the four bytes of the address. For IPv6: `56` and the last five bytes of
/// the address's FNV-1a hash (64 bits).
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

/// Returns the next hop of IPv6 packets in the tunnel: the link-local address that belongs to a
/// hardware address (RFC 4291, appendix A).
#[must_use]
pub fn link_local(mac: [u8; 6]) -> IpAddr {
    let [m0, m1, m2, m3, m4, m5] = mac;
    // Modified EUI-64: inverts the universal/local bit and inserts ff:fe in the middle.
    let id = u64::from_be_bytes([m0 ^ 2, m1, m2, 0xff, 0xfe, m3, m4, m5]);
    Ipv6Addr::from_bits(0xfe80_u128 << 112 | u128::from(id)).into()
}

/// Remote nodes of a tunnel: the node's address, from which its hardware address follows, and its
/// addresses in the tunnel.
pub type Peers = BTreeMap<IpAddr, BTreeSet<IpAddr>>;

/// Returns the tunnel's own addresses: the first address of the node's first range of each family,
/// which no pod gets.
///
/// The node's own packets into the tunnel have it as source. So the replies take the tunnel too,
/// and no router has to let addresses of pods pass.
#[must_use]
pub fn addresses(ranges: &[IpNetwork]) -> BTreeSet<IpNetwork> {
    let first = |family: IpFamily| {
        let range = ranges.iter().find(|r| family.has(r.ip()))?;
        // In a range of one or two addresses, all of them are for pods.
        let whole: u8 = if range.is_ipv6() { 128 } else { 32 };
        (whole - range.prefix() > 1).then(|| range.network().into())
    };
    IpFamily::BOTH.into_iter().filter_map(first).collect()
}

/// The desired state of a tunnel device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Address of this node; its family is that of the outer packets.
    pub local: IpAddr,
    /// Hardware address of this node in the tunnel.
    pub mac: [u8; 6],
    /// Size of the largest inner IP packet, in bytes.
    pub mtu: u32,
    /// UDP destination port, the same on all nodes.
    pub port: u16,
    /// Addresses of the device, as host networks (/32 and /128).
    pub addresses: BTreeSet<IpNetwork>,
    /// Remote nodes, of the same family.
    pub peers: Peers,
}

impl Tunnel {
    /// Returns the name of the device.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        name(IpFamily::of(self.local))
    }

    /// Returns the VXLAN settings.
    ///
    /// The outer UDP header has no checksum: inner packets have theirs, and computing another one
    /// would cost every packet. Over IPv6 both ends must allow that (RFC 6935).
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

/// Returns true if this agent, or one before it, has created the device.
#[must_use]
pub fn is_ours(link: &Link) -> bool {
    NAMES.contains(&link.name.as_str()) && link.vxlan.is_some_and(|v| v.vni == VNI)
}

/// The change that turns the present device into the wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelAction {
    /// Create the device, which does not exist.
    Make,
    /// Remove the device and create it again, because the differing settings can't be changed.
    Remake,
    /// Set the attributes that differ.
    Change {
        /// Set the hardware address.
        mac: bool,
        /// Set the MTU of the device.
        mtu: bool,
        /// Set the device up.
        down: bool,
    },
    /// The device is right.
    Keep,
    /// The device belongs to another program and stays as it is.
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

/// Interface indices of the tunnel devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// Index by the family of the outer packets: IPv4, IPv6. `None` if the device does not exist.
    pub indices: [Option<IfIndex>; 2],
}

impl Devices {
    /// Returns the device that leads to a node's address.
    #[must_use]
    pub const fn to(&self, remote: IpAddr) -> Option<IfIndex> {
        self.indices[IpFamily::of(remote).index()]
    }
}
