//! Map types of the pod network: pods, addresses, networks, and the node's configuration.
//!
//! The plugin writes pods and their addresses, the agent everything else. The programs only read.
//! The module defines layouts and bits; `dataplane-common/src/path` decides by them.

use crate::types::address::{V4, V6};

/// Number of elements in the array `pods`.
///
/// The index is the interface index of the host-side veth, which makes the lookup of a pod an array
/// access that the verifier inlines (`array_map_gen_lookup` in kernel/bpf/arraymap.c) instead of a
/// hash lookup. The CNI plugin therefore creates these interfaces with an index below this number.
pub const POD_SLOTS: u32 = 16384;

/// One attachment: element of the array `pods`, by interface index of the host-side veth.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Pod {
    /// Cookie of the pod's network namespace (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// The pod's IPv4 address; all zero if it has none.
    pub addr4: V4,
    /// The pod's IPv6 address; all zero if it has none.
    pub addr6: V6,
    /// MAC of the pod's end of the veth; the only source MAC that its frames may have.
    pub mac: [u8; 6],
    /// MAC of the host's end of the veth.
    pub host_mac: [u8; 6],
    /// Bits of [`pod_flags`]; 0 if there is no pod.
    pub flags: u32,
    /// Padding, zero like every gap.
    pub pad: u32,
}

impl Pod {
    /// Returns the number that flows record for a pod's device: the interface index, and above it
    /// the low half of the namespace's cookie. Another pod gets the index again later, but with
    /// another cookie.
    #[inline(always)]
    #[must_use]
    pub const fn device(&self, ifindex: u32) -> u32 {
        ifindex | (self.netns_cookie as u32) << DEVICE_BITS
    }
}

/// Number of bits of the interface index in [`Pod::device`].
pub const DEVICE_BITS: u32 = 16;

const _: () = assert!(POD_SLOTS <= 1 << DEVICE_BITS);

/// Bits of [`Pod::flags`], set by the plugin unless noted.
pub mod pod_flags {
    /// The entry is in use. Packets of a pod without this bit are dropped.
    pub const PRESENT: u32 = 1;
    /// The queue of the veth limits what the pod receives, so packets must pass through it.
    pub const SHAPED: u32 = super::address_flags::SHAPED as u32;
    /// The host device: the "pod" is the node itself, whose packets arrive here if no socket hook
    /// has translated them. Written by the agent.
    pub const NODE: u32 = 1 << 8;
}

/// The role of an address, seen from this node: value of `addresses4` and `addresses6`.
///
/// The plugin writes and removes the entries of pods, the agent all others.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct AddressInfo {
    /// Pods: interface index of the host-side veth.
    pub ifindex: u32,
    /// Role of the address, one of [`address_kind`].
    pub kind: u8,
    /// Properties of the address, bits of [`address_flags`].
    pub flags: u8,
    /// Pods: MAC of the pod's end of the veth.
    pub mac: [u8; 6],
}

/// Values of [`AddressInfo::kind`]; 0 stands for an unknown address.
pub mod address_kind {
    /// A pod on this node.
    pub const POD: u8 = 1;
    /// A cluster IP. The Service owns the whole address, so undefined ports are rejected.
    pub const SERVICE: u8 = 2;
    /// An address of this node, which may have node ports and host ports.
    pub const NODE: u8 = 3;
    /// An external or load-balancer IP. Ports that its Service does not define are not touched.
    pub const EXTERNAL: u8 = 4;
}

/// Bits of [`AddressInfo::flags`], set for pods only.
pub mod address_flags {
    /// A pod with [`super::pod_flags::SHAPED`], repeated here to save the lookup of the pod. The
    /// bit equals [`crate::types::flow::flow_flags::SHAPED`], so a mask copies it into a flow.
    pub const SHAPED: u8 = crate::types::flow::flow_flags::SHAPED;
}

/// The pod in a network namespace: map `pod_netns`, by the namespace's cookie (u64).
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct PodNetns {
    /// The pod's IPv4 address; all zero if it has none.
    pub addr4: V4,
    /// The pod's IPv6 address; all zero if it has none.
    pub addr6: V6,
    /// Interface index of the host-side veth.
    pub ifindex: u32,
}

/// The node's settings: the only element of the array `config`, written by the agent.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct NodeConfig {
    /// The node's IPv4 address, source of translated traffic; all zero if it has none.
    pub node4: V4,
    /// The node's IPv6 address, source of translated traffic; all zero if it has none.
    pub node6: V6,
    /// Interface index of the device that leads out of the node; 0: the host's stack routes.
    pub uplink: u32,
    /// First port for source translation.
    pub snat_port_min: u16,
    /// Last port for source translation.
    pub snat_port_max: u16,
    /// Idle timeout of flows other than TCP, in ticks ([`super::clock`]).
    pub udp_ticks: u32,
    /// Idle timeout of TCP flows, in ticks.
    pub tcp_ticks: u32,
    /// Idle timeout of TCP flows after FIN or RST, in ticks.
    pub closing_ticks: u32,
    /// Optional features that are on, bits of [`node_features`].
    pub features: u32,
    /// Least MTU of the devices that lead out of the node, without the tunnel, bytes; 0: unknown.
    pub mtu: u32,
    /// MTU of the tunnel device, bytes; 0: there is no tunnel.
    pub tunnel_mtu: u32,
    /// Pause after which a datagram of an unreplied UDP flow counts as a new exchange, in ticks.
    pub unreplied_ticks: u16,
    /// Longest pause between the datagrams of an assured UDP flow, in ticks (datagrams of one tick
    /// do not count). A repeated SYN within this time is a retransmission.
    pub assured_ticks: u16,
    /// Cookie of the node's network namespace, in which loopback addresses are the node's.
    pub netns_cookie: u64,
    /// Interface indices of the tunnels, by the family of their outer packets; 0: there is none.
    pub tunnels: [u32; 2],
    /// Number of elements of `surplus4` and of `surplus6`, a power of two; 0: no flow is surplus.
    pub surplus: u32,
    /// Raised when network policy takes a permission from a connection, never lowered. Flows of an
    /// earlier epoch are judged again at their next packet.
    pub policy_epoch: u32,
    /// UDP port of the tunnels; 0: there is none, or the nodes that may use it are not known yet.
    pub tunnel_port: u16,
    /// Padding, zero like every gap.
    pub pad: [u16; 3],
}

/// The addresses that masqueraded packets get where they leave by a device: value of
/// `masq_sources`, by interface index. Written by the agent for each uplink.
///
/// A device without an entry, such as the tunnel, has the addresses of [`NodeConfig`]. So far the
/// programs use the IPv4 address only.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct MasqueradeSource {
    /// An IPv4 address of the device; if it has none, the node's.
    pub addr4: V4,
    /// An IPv6 address of the device; if it has none, the node's.
    pub addr6: V6,
}

/// Bits of [`NodeConfig::features`]. A feature that is off costs the programs no lookup.
pub mod node_features {
    /// The tries `networks4` and `networks6` must be consulted for addresses that `addresses4`
    /// and `addresses6` do not contain.
    pub const NETWORKS: u32 = 1;
    /// Packets of pods to destinations outside the cluster get the node's address.
    pub const MASQUERADE: u32 = 2;
    /// Another proxy serves Services in the host's stack. Packets of pods must pass through the
    /// stack and not around it.
    pub const HOST_ROUTING: u32 = 4;
    /// The host device is in place: the node's own packets to [`super::network_flags::SERVICE`]
    /// networks reach the packet path, which can drop them silently.
    pub const NODE_CLIENT: u32 = 8;
    /// The socket hooks leave pods alone, whose packets the packet path translates. So a proxy
    /// inside a pod sees the addresses of Services.
    pub const NODE_SOCKETS: u32 = 16;
    /// A pod of this node has rules in `pod_rules`: connections are judged by network policy.
    pub const POLICY: u32 = 32;
}

/// The role of a network, seen from this node: value of the tries `networks4` and `networks6`,
/// by [`crate::types::address::Prefix`] of an address. Written by the agent.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Network {
    /// Interface index of the tunnel, if the network is reached through it; 0: the uplink.
    pub oif: u32,
    /// Properties of the network, bits of [`network_flags`].
    pub flags: u32,
    /// Number of the other node whose address or pod range the network is; 0: of none. Equal for
    /// all networks of one node, so that a source in the tunnel can be compared with its sender.
    pub node: u32,
}

/// The VXLAN network identifier of the tunnels ("RW" in ASCII).
pub const TUNNEL_VNI: u32 = 0x5257;

/// Bits of [`Network::flags`]; a network may have several.
pub mod network_flags {
    /// A range of cluster IPs (a `ServiceCIDR`). Packets to an address without a Service are
    /// dropped, because no host answers there.
    pub const SERVICE: u32 = 1;
    /// Sees the addresses of pods: pod networks and others that are exempt from masquerading.
    pub const KEEP_SOURCE: u32 = 2;
    /// The host's routes handle addresses that no pod has: a pod range of this node, or IPv4
    /// link-local addresses that the host's packet filter or another device leads on.
    pub const OWN: u32 = 4;
    /// A pod range of this node, also beside another service proxy, where [`OWN`] is not set. No
    /// packet from outside has such a source.
    pub const LOCAL: u32 = 8;
    /// A pod range of another node. Its packets arrive by the tunnel exactly if
    /// [`super::Network::oif`] names one.
    pub const REMOTE: u32 = 16;
    /// An address of another node. Its packets arrive by an uplink and, to pods, by a tunnel.
    pub const NODE: u32 = 32;
}
