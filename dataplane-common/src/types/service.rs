//! The types of the service tables: frontends, slots, backends, affinity.
//!
//! All ports in keys and values are in the CPU's byte order, so that `bpftool` shows 80 as 80; programs swap
//! at the edge of the packet. Every gap is an explicit, zeroed field.

/// IP protocol numbers (IANA "Protocol Numbers") that a Service port can have, and the ICMPs.
pub mod proto {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMP6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// What clients address: map `frontends4` or `frontends6`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FrontendKey<A> {
    /// A cluster IP, external IP, load-balancer IP or an address of the node.
    pub addr: A,
    /// Port, CPU order.
    pub port: u16,
    /// One of [`proto`].
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// A stretch of `slots`: the backends from which a frontend picks.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct SlotTable {
    /// First index into `slots`.
    pub base: u32,
    /// How many; 0: no backend.
    pub len: u32,
}

/// What a frontend leads to.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Frontend {
    /// Identifies the Service port; key of `services`, and of affinity.
    pub service_port: u32,
    /// Client-IP session affinity in clock ticks ([`super::clock`]); 0: none.
    pub affinity_ticks: u32,
    /// For clients that are pods and nodes of the cluster.
    pub internal: SlotTable,
    /// For clients from outside.
    pub external: SlotTable,
    /// Bits of [`frontend_flags`].
    pub flags: u16,
    /// One of [`scheduler`].
    pub scheduler: u8,
    /// Zero.
    pub pad: u8,
}

/// Bits of [`Frontend::flags`].
pub mod frontend_flags {
    /// Internal clients without a backend are dropped silently, not refused (`internalTrafficPolicy: Local`).
    pub const INTERNAL_DROP: u16 = 1;
    /// External clients without a backend are dropped silently, not refused (`externalTrafficPolicy: Local`).
    pub const EXTERNAL_DROP: u16 = 2;
    /// Keeps the address of external clients (`externalTrafficPolicy: Local`).
    pub const KEEP_CLIENT: u16 = 4;
    /// A node port.
    pub const NODE_PORT: u16 = 8;
    /// Only clients that `source_ranges` allows (`loadBalancerSourceRanges`).
    pub const SOURCE_RANGES: u16 = 16;
    /// At an external or load-balancer IP, whose other ports are none of our business.
    pub const EXTERNAL: u16 = 32;
    /// Schedulers that hash the client's address hash its port, too (IPVS: `sh-port`, `mh-port`).
    pub const HASH_PORT: u16 = 64;
}

/// One backend id of a slot table: array `slots`.
///
/// The agent writes a table before it is published and never after; the programs write only the turn in the first slot of a table.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Slot {
    /// Backend id.
    pub backend: u32,
    /// In the first slot of a table: which slot comes next, where slots take turns.
    pub turn: u32,
}

/// The rule that picks a slot: [`Frontend::scheduler`]. The names and their meaning are those of IPVS (`ipvsadm(8)`), which has no `random`.
pub mod scheduler {
    /// Each connection anew, in proportion to the weights.
    pub const RANDOM: u8 = 0;
    /// In turn.
    pub const RR: u8 = 1;
    /// In turn, in proportion to the weights.
    pub const WRR: u8 = 2;
    /// By the client's address.
    pub const SH: u8 = 3;
    /// By the address that was asked for.
    pub const DH: u8 = 4;
    /// By the client's address, in a Maglev table: few clients move when the set changes.
    pub const MH: u8 = 5;

    /// Fewest connections.
    pub const LC: u8 = 6;
    /// Fewest connections for its weight.
    pub const WLC: u8 = 7;
    /// Fewest for its weight with the new one: the shortest expected delay.
    pub const SED: u8 = 8;
    /// One without a connection, else the shortest expected delay.
    pub const NQ: u8 = 9;

    /// Their names, by number.
    pub const NAMES: [&str; 10] = ["random", "rr", "wrr", "sh", "dh", "mh", "lc", "wlc", "sed", "nq"];

    /// Whether it needs to know how many connections a backend has.
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
    /// IPv4 addresses as `::ffff:a.b.c.d`.
    pub addr: [u8; 16],
    /// Port, CPU order.
    pub port: u16,
    /// Bits of [`backend_state`]; 0: the id is free.
    pub state: u8,
    /// Zero.
    pub pad: u8,
    /// Goes up each time the id is given to another endpoint or its endpoint has ended: flows and affinity entries of before no longer count.
    pub generation: u32,
    /// The service port that owns it.
    pub service_port: u32,
    /// 0 to 65535; what its share of the new connections is measured by. 0: it gets none.
    pub weight: u32,
}

/// Bits of [`Backend::state`].
pub mod backend_state {
    /// In the internal slot table: takes new connections from the cluster.
    pub const INTERNAL: u8 = 1;
    /// In the external slot table: takes new connections from outside.
    pub const EXTERNAL: u8 = 2;
    /// Serves the connections that it has.
    pub const SERVING: u8 = 4;
    /// Terminating.
    pub const TERMINATING: u8 = 8;
    /// On this node.
    pub const LOCAL: u8 = 16;
    /// Has an address of its node (a host-network pod or a server outside the pod network).
    pub const HOST: u8 = 32;
    /// Known to be on another node: the packet path need not ask whether it is here.
    pub const REMOTE: u8 = 128;
    /// Listed by an `EndpointSlice`, whatever its condition: set as long as the id is in use.
    pub const LISTED: u8 = 64;
    /// Any of these: takes new connections.
    pub const ACCEPTING: u8 = INTERNAL | EXTERNAL;
    /// Any of these: what it has goes on being sent by other protocols than TCP.
    pub const USABLE: u8 = INTERNAL | EXTERNAL | SERVING;
}

/// Who is remembered: map `affinity4` or `affinity6`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct AffinityKey<A> {
    /// The client; a pod's own address at both layers.
    pub client: A,
    /// The service port, whichever of its frontends was used.
    pub service_port: u32,
}

/// Which backend a client had.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Affinity {
    /// Backend id.
    pub backend: u32,
    /// [`Backend::generation`] at that time.
    pub generation: u32,
    /// Clock tick of the last use ([`super::clock`]).
    pub last_used: u32,
}

/// How long a service port's name can be: namespace (63) `/` name (63) `:` port name (63), and a byte more.
pub const NAME_LEN: usize = 192;

/// Who a service port is: map `services`, by service port id. For people and for an agent without memory.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ServiceName {
    /// `namespace/name:port`, ended by zeros.
    pub name: [u8; NAME_LEN],
}

/// What a backend has been given: array `backend_stats`, by backend id. One for all CPUs, which add to it atomically; only programs write it.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct BackendStats {
    /// New connections (packet path) and connects (socket hooks).
    pub connections: u64,
    /// Sockets that have it now; only where the scheduler [counts](scheduler::counts_connections).
    pub sockets: u64,
    /// Flows that were opened to it; only where the scheduler counts.
    pub flows: u64,
    /// [`Backend::generation`] for which `sockets` and `flows` are.
    pub generation: u32,
    /// Zero.
    pub pad: u32,
}

/// What the agent has found of a backend's flows at its last look: array `backend_loads`, by backend id.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct BackendLoad {
    /// [`Backend::generation`] for which it is.
    pub generation: u32,
    /// TCP connections before a FIN or RST, and datagrams.
    pub active: u32,
    /// TCP connections after one.
    pub inactive: u32,
    /// The low half of [`BackendStats::flows`] when it began to look; 0 if those were another generation's.
    pub flows: u32,
}

/// For which backend a socket counts: socket storage `sock_backends`, gone with the socket.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SockBackend {
    /// Backend id; 0: for none.
    pub backend: u32,
    /// [`Backend::generation`] at that time.
    pub generation: u32,
}

/// One socket's view of an address: key of `sock_peers4` or `sock_peers6`.
///
/// Two kinds of entries share the map. Keyed by the backend's address: which frontend the application asked for, so
/// that it is shown that one. Keyed by the frontend's address: which backend the datagrams of an unconnected socket go
/// to, so that they stay together as they would with connection tracking.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
pub struct SockPeerKey<A> {
    /// The kernel's cookie of the socket.
    pub cookie: u64,
    /// Backend or frontend address.
    pub addr: A,
    /// Backend or frontend port, CPU order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// The other side of a [`SockPeerKey`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SockPeer<A> {
    /// Frontend or backend address.
    pub addr: A,
    /// Frontend or backend port, CPU order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// Backend id; 0: a host port's pod.
    pub backend: u32,
    /// [`Backend::generation`] at that time.
    pub generation: u32,
}

/// Who may use a load-balancer address: key of the tries `source_ranges4` and `source_ranges6`; the service port is matched whole, so that the
/// length is 32 and the bits of the client's prefix. Whoever is found there is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct SourceRange<A> {
    /// The service port.
    pub service_port: u32,
    /// The client's network.
    pub client: A,
}

/// Where a host port leads: map `host_ports4` or `host_ports6`, by [`FrontendKey`] whose address is the `hostIP`, or all zero for every address of
/// the node. Written by the plugin. A frontend with the same address and port goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct HostPort<A> {
    /// The pod.
    pub addr: A,
    /// The container's port, CPU order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// The pod's host-side veth.
    pub ifindex: u32,
}
