//! New flows: to a backend of a frontend, to a host port, or masqueraded out of the cluster.
//!
//! The stages that open flows choose a [`FlowTarget`] with [`to_backend`], [`to_host_port`] or
//! [`masquerade`], and insert both directions with [`insert_flow_pair`]. [`egress`] finds the
//! device for an address. The module never changes the packet.

use crate::balance::select::{ClientTuple, is_client_allowed, least_loaded, pick, select};
use crate::maps::{FamilyMaps, FlowMap};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::types::address::Address;
use crate::types::event::{Counter, DropReason};
use crate::types::flow::{Flow, FlowKey, flow_flags, flow_state};
use crate::types::pod::{address_flags, address_kind, network_flags, node_features};
use crate::types::service::{Frontend, HostPort, backend_state, frontend_flags, proto};
use crate::types::stage::Origin;
use crate::verdict::Verdict;

/// Number of ports that source translation tries before the connection is dropped.
const SNAT_TRIES: u32 = 16;

/// The destination of a new flow, and the devices that its packets use.
#[derive(Clone, Copy)]
pub struct FlowTarget<A> {
    addr: A,
    port: u16,
    /// Bits of [`flow_flags`] for the forward direction.
    flags: u8,
    /// Translate the source to the node's address, because the reply would not return to this node
    /// otherwise.
    masquerade: bool,
    /// Backend id and generation; for a host port 0 and the low half of the pod's namespace cookie.
    backend: u32,
    generation: u32,
    iif: u32,
    oif: u32,
}

impl<A: Address> FlowTarget<A> {
    /// A target without destination, to be filled in.
    pub const EMPTY: Self =
        Self { addr: A::UNSPECIFIED, port: 0, flags: 0, masquerade: false, backend: 0, generation: 0, iif: 0, oif: 0 };

    /// Sets the backend to the least loaded one of the frontend.
    #[inline(always)]
    pub fn find_least_loaded<T: FamilyMaps<A>>(&mut self, tables: &T, frontend: &Frontend, origin: Origin) {
        self.backend = least_loaded(tables, frontend, origin.side());
    }

    /// Looks up the egress device of a masqueraded IPv4 flow that would be left to the host's
    /// routes.
    ///
    /// The host's stack drops a packet that arrives with the node's own address as its source (a
    /// martian, RFC 1812, section 5.3.7; `fib_validate_source` in `net/ipv4/fib_frontend.c`), so
    /// such a packet has to be redirected.
    #[inline(always)]
    pub fn resolve_route<P: Packet>(&mut self, packet: &P) {
        if !A::V6 && self.masquerade && self.oif == 0 {
            self.oif = packet.route_ifindex(&self.addr);
        }
    }

    /// Looks up the egress device of a flow that is opened at egress; returns false if there is no
    /// route.
    ///
    /// The packet has passed the host's stack already, so it cannot be left to the stack. The flag
    /// `SHAPED` selects `bpf_redirect_neigh` for pods: `skb_do_redirect` in net/core/filter.c drops
    /// a packet that `bpf_redirect_peer` redirects at egress.
    #[inline(always)]
    #[must_use]
    pub fn resolve_egress_route<P: Packet>(&mut self, packet: &P) -> bool {
        if self.oif == 0 {
            self.oif = packet.route_ifindex(&self.addr);
        }
        self.flags |= flow_flags::SHAPED;
        self.oif != 0
    }

    /// Hides all values but the address from the verifier, so that the branches that chose the
    /// target are explored further as one.
    #[inline(always)]
    pub fn scrub_verifier_state<P: Packet>(&mut self, packet: &mut P) {
        // Two fields in one word: each call is one volatile write and read.
        let bits = packet.scrub_verifier_state((self.flags as u32) << 1 | u32::from(self.masquerade));
        (self.flags, self.masquerade) = ((bits >> 1) as u8, bits & 1 != 0);
        self.backend = packet.scrub_verifier_state(self.backend);
        self.generation = packet.scrub_verifier_state(self.generation);
        self.iif = packet.scrub_verifier_state(self.iif);
        self.oif = packet.scrub_verifier_state(self.oif);
        self.port = packet.scrub_verifier_state(self.port as u32) as u16;
    }
}

/// The egress of packets to an address beyond this node.
#[derive(Clone, Copy)]
pub struct Egress {
    /// Interface index of the uplink or the tunnel; 0: the host's stack routes.
    pub oif: u32,
    /// Packets of pods are masqueraded there.
    pub masquerade: bool,
    /// The address is in a range of cluster IPs, and no Service has it.
    pub unallocated: bool,
    /// The address is in a pod range of this node, and no pod has it.
    pub own: bool,
}

/// Returns the egress for an address that is neither a local pod's nor the node's.
#[inline(always)]
pub fn egress<A: Family, T: FamilyMaps<A>>(tables: &T, addr: &A) -> Egress {
    let Some(config) = tables.config() else {
        return Egress { oif: 0, masquerade: false, unallocated: false, own: false };
    };
    let (mut oif, mut flags) = (config.uplink, 0);
    if config.features & node_features::NETWORKS != 0
        && let Some(net) = tables.network(addr)
    {
        flags = net.flags;
        if net.oif != 0 {
            oif = net.oif;
        }
    }
    let own = flags & network_flags::OWN != 0;
    if own || config.features & node_features::HOST_ROUTING != 0 {
        oif = 0;
    }
    let masquerade = config.features & node_features::MASQUERADE != 0 && flags & network_flags::KEEP_SOURCE == 0;
    Egress { oif, masquerade, unallocated: flags & network_flags::SERVICE != 0, own }
}

/// Picks a backend for a new connection through a frontend. With [`Verdict::TRANSLATE`] it is in
/// `target`.
///
/// `COUNTS`: the scheduler compares connection counts, and `target` holds the id that
/// [`FlowTarget::find_least_loaded`] has found.
#[inline(always)]
pub fn to_backend<A: Family, T: FamilyMaps<A>, const COUNTS: bool>(
    tables: &T,
    key: &FlowKey<A>,
    frontend: &Frontend,
    origin: Origin,
    target: &mut FlowTarget<A>,
) -> Verdict {
    if !is_client_allowed(tables, frontend, key.src) {
        return Verdict::drop(DropReason::SourceRange);
    }
    let internal = matches!(origin, Origin::Pod);
    let side = origin.side();
    let silent = if internal { frontend_flags::INTERNAL_DROP } else { frontend_flags::EXTERNAL_DROP };
    let none = if frontend.flags & silent == 0 {
        Verdict::reject(DropReason::NoBackend)
    } else {
        Verdict::drop(DropReason::NoBackend)
    };
    let weighed = target.backend;
    let id = select(tables, frontend, key.src, side, || {
        if COUNTS {
            return weighed;
        }
        pick(tables, frontend, &ClientTuple { addr: &key.src, port: key.sport, destination: &key.dst }, side)
    });
    let Some(backend) = tables.backend(id) else { return none };
    if id == 0 || backend.state == 0 {
        return none;
    }
    *target = FlowTarget {
        addr: A::from_octets16(&backend.addr),
        port: backend.port,
        backend: id,
        generation: backend.generation,
        ..FlowTarget::EMPTY
    };
    let remote = backend.state & backend_state::REMOTE != 0;
    let local = if remote { None } else { tables.address(&target.addr) };
    let (kind, flags, pod) = local.map_or((0, 0, 0), |a| (a.kind, a.flags, a.ifindex));
    match kind {
        address_kind::POD => {
            (target.iif, target.oif, target.flags) = (pod, pod, pod_flow_flags(flags));
            // A pod that reaches itself: its stack drops packets with its own address as source.
            target.masquerade = internal && target.addr == key.src;
        }
        // The node itself: delivered by the host's stack, which also sends the replies.
        address_kind::NODE => {}
        // A local pod that another CNI plugin attached: the host's routes lead to it, and its
        // replies come back by the host's stack.
        _ if backend.state & backend_state::LOCAL != 0 => {}
        _ => {
            let route = egress(tables, &target.addr);
            (target.oif, target.masquerade) = (route.oif, !internal || route.masquerade);
        }
    }
    tables.count_connection(id);
    if COUNTS {
        tables.count_flow(id, target.generation);
    }
    tables.count(Counter::PacketNewFlow);
    Verdict::TRANSLATE
}

/// Sets the target of a new connection to a host port.
#[inline(always)]
pub fn to_host_port<A: Family, T: FamilyMaps<A>>(
    tables: &T,
    key: &FlowKey<A>,
    host_port: &HostPort<A>,
    target: &mut FlowTarget<A>,
) -> Verdict {
    let HostPort { addr, port, ifindex: pod, .. } = *host_port;
    let Some(entry) = tables.pod(pod) else { return Verdict::drop(DropReason::UnknownPod) };
    let (flags, masquerade) = (pod_flow_flags(entry.flags as u8), addr == key.src);
    *target = FlowTarget {
        addr,
        port,
        flags,
        masquerade,
        backend: 0,
        generation: entry.netns_cookie as u32,
        iif: pod,
        oif: pod,
    };
    tables.count(Counter::HostPort);
    Verdict::TRANSLATE
}

/// Returns the [`flow_flags`] of a flow into a pod with these [`address_flags`]. A mask and no
/// branch, because the bits are equal.
#[inline(always)]
const fn pod_flow_flags(flags: u8) -> u8 {
    flow_flags::TO_POD | flags & address_flags::SHAPED
}

/// Sets the target of a connection that leaves the cluster with the node's address and one of its
/// ports.
#[inline(always)]
pub fn masquerade<A: Family, T: FamilyMaps<A>>(
    tables: &T,
    key: &FlowKey<A>,
    oif: u32,
    target: &mut FlowTarget<A>,
) -> Verdict {
    *target = FlowTarget { addr: key.dst, port: key.dport, masquerade: true, oif, ..FlowTarget::EMPTY };
    tables.count(Counter::Masqueraded);
    Verdict::TRANSLATE
}

/// Inserts both directions of a new flow, the reply first: a packet is sent only if its reply can
/// be translated back.
///
/// Not inlined: keys and values of both directions need a stack frame of their own. The frames of
/// all nested calls together must fit into 512 bytes (`check_max_stack_depth` in
/// kernel/bpf/verifier.c).
#[inline(never)]
pub fn insert_flow_pair<A: Family, F: FlowMap<A>, T: FamilyMaps<A>>(
    flows: &mut F,
    tables: &T,
    key: &FlowKey<A>,
    target: &FlowTarget<A>,
    origin: Origin,
    ifindex: u32,
    flow: &mut Flow<A>,
) -> Verdict {
    let now = tables.now();
    let internal = matches!(origin, Origin::Pod);
    // `flow` is the caller's: one buffer serves as the value of both insertions, and afterwards as
    // the flow by which the packet is translated.
    *flow = Flow {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        iif: target.iif,
        oif: ifindex,
        backend: target.backend,
        generation: target.generation,
        last_seen: now,
        state: flow_state::NEW,
        flags: flow_flags::REPLY
            | if internal { pod_flow_flags(tables.pod(ifindex).map_or(0, |pod| pod.flags as u8)) } else { 0 },
        pad: 0,
    };
    let (src, sport) = (target.addr, target.port);
    let mut back = FlowKey { src, dst: key.src, sport, dport: key.sport, proto: key.proto, pad: [0; 3] };
    if target.masquerade {
        if !reserve_snat_port(flows, tables, &mut back, flow) {
            return Verdict::drop(DropReason::SnatPortsExhausted);
        }
    } else if !flows.insert(&back, flow) {
        return Verdict::drop(DropReason::FlowTableFull);
    }
    // The forward direction is derived from the key of the reply, which holds the masqueraded port.
    flow.src = back.dst;
    flow.sport = back.dport;
    flow.dst = target.addr;
    // An ICMP echo has one identifier for both directions.
    flow.dport = back.sport;
    flow.iif = origin.iif(ifindex);
    flow.oif = target.oif;
    flow.flags = target.flags | if internal { 0 } else { flow_flags::EXTERNAL };
    // Half a pair would translate replies of a connection that does not exist.
    if !flows.insert(key, flow) {
        flows.remove(&back);
        return Verdict::drop(DropReason::FlowTableFull);
    }
    Verdict::TRANSLATE
}

/// Finds a free port of the node for `back`, and reserves it by inserting the reply's flow.
#[inline(always)]
fn reserve_snat_port<A: Family, F: FlowMap<A>, T: FamilyMaps<A>>(
    flows: &mut F,
    tables: &T,
    back: &mut FlowKey<A>,
    flow: &Flow<A>,
) -> bool {
    let Some(config) = tables.config() else { return false };
    back.dst = A::of_node(config);
    let (min, ports) = (config.snat_port_min, config.snat_port_max.saturating_sub(config.snat_port_min) as u32 + 1);
    if min == 0 || back.dst.is_unspecified() {
        return false;
    }
    let echo = is_echo(back.proto);
    let mut random = tables.random();
    for _ in 0..SNAT_TRIES {
        back.dport = min.wrapping_add(((random as u64 * ports as u64) >> 32) as u16);
        if echo {
            back.sport = back.dport;
        }
        // `BPF_NOEXIST` makes test and reservation one atomic step between CPUs.
        if flows.insert_new(back, flow) {
            return true;
        }
        // A linear congruential step: the helper for random numbers costs about 20 ns a call.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    }
    false
}

/// Returns true if the ports of a flow are the identifier of an ICMP echo.
#[inline(always)]
const fn is_echo(protocol: u8) -> bool {
    matches!(protocol, proto::ICMP | proto::ICMP6)
}
