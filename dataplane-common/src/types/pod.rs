//! The types of the pod network: pods, addresses, the node's configuration.

use crate::types::address::{V4, V6};

/// Pods are found by the interface index of their host-side veth in an array of this size, which costs no hash
/// lookup. The CNI plugin therefore makes these interfaces with an index below it.
pub const POD_SLOTS: u32 = 16384;

/// One attachment: array `pods`, by interface index of the host-side veth.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Pod {
    /// The kernel's cookie of the pod's network namespace.
    pub netns_cookie: u64,
    /// All zero: none.
    pub addr4: V4,
    /// All zero: none.
    pub addr6: V6,
    /// MAC of the pod's end of the veth.
    pub mac: [u8; 6],
    /// MAC of the host's end.
    pub host_mac: [u8; 6],
    /// Bits of [`pod_flags`]; 0: no pod there.
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

/// Bits of [`Pod::flags`].
pub mod pod_flags {
    /// The entry is in use.
    pub const PRESENT: u32 = 1;
    /// What it receives is limited by the queue of its device: packets for it must go through there.
    pub const SHAPED: u32 = super::address_flags::SHAPED as u32;
    /// Not a pod but the node itself, whose packets come here if no socket hook has led them elsewhere. Written by the agent.
    pub const NODE: u32 = 1 << 8;
}

/// What an address is, seen from this node: map `addresses4` or `addresses6`, by address.
///
/// The plugin writes and removes the entries of pods, the agent all others.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct AddressInfo {
    /// Pods: the host-side veth.
    pub ifindex: u32,
    /// One of [`address_kind`].
    pub kind: u8,
    /// Bits of [`address_flags`].
    pub flags: u8,
    /// Pods: MAC of the pod's end.
    pub mac: [u8; 6],
}

/// [`AddressInfo::kind`].
pub mod address_kind {
    /// A pod on this node.
    pub const POD: u8 = 1;
    /// A cluster IP: nobody listens on the ports that its Service does not name.
    pub const SERVICE: u8 = 2;
    /// An address of this node, which may have node ports.
    pub const NODE: u8 = 3;
    /// An external or load-balancer IP: its other ports are none of our business.
    pub const EXTERNAL: u8 = 4;
}

/// Bits of [`AddressInfo::flags`].
pub mod address_flags {
    /// A pod with [`super::pod_flags::SHAPED`]: said here too, so that nothing else is to be looked up. The bit is that of
    /// [`crate::types::flow::flow_flags::SHAPED`], so that it is copied without a question.
    pub const SHAPED: u8 = crate::types::flow::flow_flags::SHAPED;
}

/// Which pod lives in a network namespace: map `pod_netns`, by the namespace's cookie (u64).
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct PodNetns {
    /// All zero: none.
    pub addr4: V4,
    /// All zero: none.
    pub addr6: V6,
    /// Host-side veth.
    pub ifindex: u32,
}

/// What the programs must know of their node: the one entry of array `config`, written by the agent.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct NodeConfig {
    /// The node's IPv4 address: source of translated traffic. All zero: none.
    pub node4: V4,
    /// The node's IPv6 address.
    pub node6: V6,
    /// The device that leads out of the node; 0: the host stack decides.
    pub uplink: u32,
    /// First port that source translation may use.
    pub snat_port_min: u16,
    /// Last port that source translation may use.
    pub snat_port_max: u16,
    /// An idle flow other than TCP ends after so many clock ticks ([`super::clock`]).
    pub udp_ticks: u32,
    /// An idle TCP flow ends after so many clock ticks.
    pub tcp_ticks: u32,
    /// A TCP flow that has shown FIN or RST ends after so many idle clock ticks.
    pub closing_ticks: u32,
    /// Bits of [`node_features`].
    pub features: u32,
    /// The least MTU of the devices that lead out of the node, without the tunnel, bytes; 0: not known.
    pub mtu: u32,
    /// The MTU of the tunnel device, bytes; 0: there is none.
    pub tunnel_mtu: u32,
    /// A datagram that comes so many clock ticks after the last one of its flow, or later, asks something else.
    pub unreplied_ticks: u16,
    /// Datagrams with at most so many clock ticks between them, though not in the same tick, are a conversation; a SYN that comes again within
    /// that time is the same one.
    pub assured_ticks: u16,
    /// The kernel's cookie of the node's own network namespace: whose loopback addresses are the node's.
    pub netns_cookie: u64,
}

/// Bits of [`NodeConfig::features`]: what is off costs the programs nothing.
pub mod node_features {
    /// `networks4` and `networks6` say something about addresses that `addresses4` and `addresses6` do not know.
    pub const NETWORKS: u32 = 1;
    /// What pods send out of the cluster gets the node's address.
    pub const MASQUERADE: u32 = 2;
    /// Another proxy serves Services in the host's stack, so packets of pods pass through it instead of around it.
    pub const HOST_ROUTING: u32 = 4;
    /// The node's own packets to [`super::network_flags::SERVICE`] networks come by the packet path, which can be silent.
    pub const NODE_CLIENT: u32 = 8;
}

/// What a network is, seen from this node: tries `networks4` and `networks6`, by [`crate::types::address::Prefix`] of an address. Written by the agent.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Network {
    /// The device that leads there: the tunnel; 0: the uplink.
    pub oif: u32,
    /// Bits of [`network_flags`].
    pub flags: u32,
}

/// Bits of [`Network::flags`].
pub mod network_flags {
    /// Addresses of Services (a `ServiceCIDR`): one that no Service has is answered by nobody, and packets to it are dropped.
    pub const SERVICE: u32 = 1;
    /// Sees the addresses of pods: the pod networks and other networks without masquerading.
    pub const KEEP_SOURCE: u32 = 2;
    /// This node's own pods: the host's routes decide about an address that no pod has.
    pub const OWN: u32 = 4;
}
