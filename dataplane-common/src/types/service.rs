//! Map types of Services: frontends, slots, backends, affinity, host ports, socket entries.
//!
//! Ports in keys and values are in the CPU's byte order, so that `bpftool` prints 80 as 80; the
//! programs swap when they read or write a packet. Every gap is an explicit, zeroed field, because
//! the kernel hashes and compares all bytes of a key.

/// IP protocol numbers (IANA "Protocol Numbers") of the protocols that the packet path knows.
pub mod proto {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol (RFC 9293).
    pub const TCP: u8 = 6;
    /// User Datagram Protocol (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMP6: u8 = 58;
    /// Stream Control Transmission Protocol (RFC 9260).
    pub const SCTP: u8 = 132;
}

/// The address that clients connect to: key of `frontends4` and `frontends6`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FrontendKey<A> {
    /// A cluster IP, external IP, load-balancer IP or an address of the node.
    pub addr: A,
    /// Port that clients use, CPU order.
    pub port: u16,
    /// Protocol number, one of [`proto`].
    pub proto: u8,
    /// Padding, zero like every gap.
    pub pad: u8,
}

/// A slot table: the range of the array `slots` from which a frontend picks its backends.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct SlotTable {
    /// Index of the first slot.
    pub base: u32,
    /// Number of slots; 0: the frontend has no backend on this side.
    pub len: u32,
}

/// The service port behind a frontend, and its tables: value of `frontends4` and `frontends6`.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Frontend {
    /// Id of the service port: key of `services` and of affinity.
    pub service_port: u32,
    /// Timeout of client-IP session affinity, in ticks ([`super::clock`]); 0: no affinity.
    pub affinity_ticks: u32,
    /// Slots for clients that are pods or nodes of the cluster.
    pub internal: SlotTable,
    /// Slots for clients outside the cluster.
    pub external: SlotTable,
    /// Policies and kind, bits of [`frontend_flags`].
    pub flags: u16,
    /// Rule that picks a slot, one of [`scheduler`].
    pub scheduler: u8,
    /// Padding, zero like every gap.
    pub pad: u8,
}

/// Bits of [`Frontend::flags`], from the Service's specification.
pub mod frontend_flags {
    /// Internal clients are dropped silently instead of rejected if there is no backend
    /// (`internalTrafficPolicy: Local`).
    pub const INTERNAL_DROP: u16 = 1;
    /// External clients are dropped silently instead of rejected if there is no backend
    /// (`externalTrafficPolicy: Local`).
    pub const EXTERNAL_DROP: u16 = 2;
    /// External clients keep their source address (`externalTrafficPolicy: Local`).
    pub const KEEP_CLIENT: u16 = 4;
    /// The frontend is a node port.
    pub const NODE_PORT: u16 = 8;
    /// Only clients in `source_ranges4/6` are served (`loadBalancerSourceRanges`).
    pub const SOURCE_RANGES: u16 = 16;
    /// The frontend is at an external or load-balancer IP, whose other ports are not touched.
    pub const EXTERNAL: u16 = 32;
    /// Schedulers that hash the client's address hash its port as well (IPVS: `sh-port`,
    /// `mh-port`).
    pub const HASH_PORT: u16 = 64;
}

/// One entry of a slot table: element of the array `slots`.
///
/// The agent writes a table before a frontend refers to it, and never afterwards. The programs
/// write only the turn in the first slot of a table.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Slot {
    /// Backend id; 0 is never a backend.
    pub backend: u32,
    /// The slot to use next, for schedulers that take turns; only in the first slot of a table.
    pub turn: u32,
}

/// Schedulers, the rules that pick a slot: [`Frontend::scheduler`].
///
/// Names and meaning are those of IPVS (`ipvsadm(8)`), except `random`, which IPVS lacks.
pub mod scheduler {
    /// Random, in proportion to the weights.
    pub const RANDOM: u8 = 0;
    /// Round robin, weights ignored.
    pub const RR: u8 = 1;
    /// Round robin, in proportion to the weights.
    pub const WRR: u8 = 2;
    /// Hash of the client's address.
    pub const SH: u8 = 3;
    /// Hash of the frontend's address.
    pub const DH: u8 = 4;
    /// Hash of the client's address into a Maglev table: few clients change their backend when
    /// the set of backends changes.
    pub const MH: u8 = 5;

    /// Least connections, weights ignored.
    pub const LC: u8 = 6;
    /// Least connections in proportion to the weight.
    pub const WLC: u8 = 7;
    /// Shortest expected delay: least connections in proportion to the weight, counting the new
    /// one.
    pub const SED: u8 = 8;
    /// Never queue: a backend without a connection if there is one, else shortest expected delay.
    pub const NQ: u8 = 9;

    /// Names of the schedulers, indexed by number.
    pub const NAMES: [&str; 10] = ["random", "rr", "wrr", "sh", "dh", "mh", "lc", "wlc", "sed", "nq"];

    /// Returns true if the scheduler compares the connection counts of backends.
    #[inline(always)]
    #[must_use]
    pub const fn counts_connections(scheduler: u8) -> bool {
        scheduler >= LC
    }
}

/// One endpoint of one service port: array `backends`, by backend id. Id 0 is never used.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
pub struct Backend {
    /// Address; IPv4 as `::ffff:a.b.c.d`.
    pub addr: [u8; 16],
    /// Port of the endpoint, CPU order.
    pub port: u16,
    /// Bits of [`backend_state`]; 0 if the id is free.
    pub state: u8,
    /// Padding, zero like every gap.
    pub pad: u8,
    /// Incremented when the id is given to another endpoint and when its endpoint has ended.
    /// Flows, affinity and socket entries of an older generation are invalid.
    pub generation: u32,
    /// Id of the service port that the backend belongs to.
    pub service_port: u32,
    /// Weight, 0 to 65535, which sets its share of new connections; 0: it gets none.
    pub weight: u32,
}

/// Bits of [`Backend::state`], from the `EndpointSlice` and the policies.
pub mod backend_state {
    /// Listed in the internal slot table: takes new connections from the cluster.
    pub const INTERNAL: u8 = 1;
    /// Listed in the external slot table: takes new connections from outside.
    pub const EXTERNAL: u8 = 2;
    /// Serves its existing connections.
    pub const SERVING: u8 = 4;
    /// The endpoint is terminating.
    pub const TERMINATING: u8 = 8;
    /// The endpoint is on this node.
    pub const LOCAL: u8 = 16;
    /// The endpoint has its node's address: a host-network pod, or a server outside the pod
    /// network.
    pub const HOST: u8 = 32;
    /// Known to be on another node. The packet path saves the lookup of its address.
    pub const REMOTE: u8 = 128;
    /// Listed in an `EndpointSlice` in any condition: set as long as the id is in use.
    pub const LISTED: u8 = 64;
    /// Mask of states in which a backend takes new connections.
    pub const ACCEPTING: u8 = INTERNAL | EXTERNAL;
    /// Mask of states in which existing non-TCP flows keep their backend.
    pub const USABLE: u8 = INTERNAL | EXTERNAL | SERVING;
}

/// A client of a service port: key of `affinity4` and `affinity6`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct AffinityKey<A> {
    /// Address of the client. The packet path and the socket hooks both use a pod's own address,
    /// so they share entries.
    pub client: A,
    /// Id of the service port; its frontends share one affinity.
    pub service_port: u32,
}

/// The backend that a client was given last.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Affinity {
    /// Backend id of that choice.
    pub backend: u32,
    /// [`Backend::generation`] at that time.
    pub generation: u32,
    /// Time of the last use, in ticks ([`super::clock`]).
    pub last_used: u32,
}

/// Size of a service port's name, bytes: namespace (63) `/` name (63) `:` port name (63), and one
/// to spare.
pub const NAME_LEN: usize = 192;

/// Name of a service port: value of the map `services`, by service port id.
///
/// The agent restores its state from it after a restart; `ropeway` prints it.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ServiceName {
    /// `namespace/name:port`, padded with zeros.
    pub name: [u8; NAME_LEN],
}

/// Counters of a backend: element of the array `backend_stats`, by backend id.
///
/// One element for all CPUs, which add atomically: the search for the least loaded backend compares
/// totals. Written only by programs; the agent maps the array.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct BackendStats {
    /// New connections on the packet path, and connects of the socket hooks.
    pub connections: u64,
    /// Sockets that are connected to it; counted only for schedulers that
    /// [compare](scheduler::counts_connections) connections.
    pub sockets: u64,
    /// Flows opened to it; counted only for the same schedulers.
    pub flows: u64,
    /// [`Backend::generation`] to which `sockets` and `flows` refer.
    pub generation: u32,
    /// Padding, zero like every gap.
    pub pad: u32,
}

/// Flows of a backend at the agent's last sweep of the flow tables: element of the array
/// `backend_loads`, by backend id.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct BackendLoad {
    /// [`Backend::generation`] to which the counts refer.
    pub generation: u32,
    /// TCP connections before FIN or RST, and flows of other protocols.
    pub active: u32,
    /// TCP connections after FIN or RST.
    pub inactive: u32,
    /// Low half of [`BackendStats::flows`] when the sweep began; 0 if that was the count of another
    /// generation.
    pub flows: u32,
}

/// The backend for which a socket is counted: socket storage `sock_backends`, freed with the
/// socket.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SockBackend {
    /// Backend id; 0 if the socket is not counted.
    pub backend: u32,
    /// [`Backend::generation`] at that time.
    pub generation: u32,
}

/// A socket and an address: key of `sock_peers4` and `sock_peers6`.
///
/// Two kinds of entries share the map. Keyed by a backend's address: the frontend that the
/// application used, which recvmsg(2) and getpeername(2) must show. Keyed by a frontend's address:
/// the backend of an unconnected socket, so that its datagrams stay with one backend, as they would
/// with connection tracking.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
pub struct SockPeerKey<A> {
    /// Cookie of the socket (`SO_COOKIE`).
    pub cookie: u64,
    /// Backend's or frontend's address.
    pub addr: A,
    /// Backend's or frontend's port, CPU order.
    pub port: u16,
    /// Padding, zero like every gap.
    pub pad: u16,
}

/// The counterpart of a [`SockPeerKey`]: the frontend of a backend, or the backend of a frontend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SockPeer<A> {
    /// Frontend's or backend's address.
    pub addr: A,
    /// Frontend's or backend's port, CPU order.
    pub port: u16,
    /// Padding, zero like every gap.
    pub pad: u16,
    /// Backend id; 0 if a host port led to a pod.
    pub backend: u32,
    /// [`Backend::generation`] at that time.
    pub generation: u32,
}

/// A client network that may use a load-balancer address: key of the tries `source_ranges4` and
/// `source_ranges6`.
///
/// A key in the trie is allowed. Its prefix length is 32, for the whole service port, plus the bits
/// of the client's network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct SourceRange<A> {
    /// Id of the service port.
    pub service_port: u32,
    /// Address of the client or its network.
    pub client: A,
}

/// The pod behind a host port: value of `host_ports4` and `host_ports6`, written by the plugin.
///
/// The key is a [`FrontendKey`] with the `hostIP`, or the all-zero address for every address of the
/// node. A frontend with the same address and port takes precedence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct HostPort<A> {
    /// Address of the pod.
    pub addr: A,
    /// The container's port, CPU order.
    pub port: u16,
    /// Padding, zero like every gap.
    pub pad: u16,
    /// Interface index of the pod's host-side veth.
    pub ifindex: u32,
}
