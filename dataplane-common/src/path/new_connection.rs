//! New flows: to a backend of a frontend, to a host port, or masqueraded out of the cluster.
//!
//! The stages that open flows choose a [`FlowTarget`] with [`to_backend`], [`to_host_port`] or
//! [`masquerade`], and insert both directions with [`super::flow_pair::insert_flow_pair`].
//! [`egress`] finds the device for an address. The module never changes the packet.

use crate::balance::select::{ClientTuple, is_client_allowed, least_loaded, pick, select};
use crate::maps::{FamilyMaps, SharedMaps};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::path::conntrack::device;
use crate::path::flow_pair::attempt;
use crate::policy;
use crate::types::address::Address;
use crate::types::event::{Counter, DropReason};
use crate::types::flow::{Flow, FlowKey, flow_flags};
use crate::types::pod::{AddressInfo, address_flags, address_kind, network_flags, node_features};
use crate::types::service::{Frontend, HostPort, backend_state, frontend_flags};
use crate::types::stage::Origin;
use crate::verdict::{Action, Verdict};

/// The destination of a new flow, and the devices that its packets use.
#[derive(Clone, Copy)]
pub struct FlowTarget<A> {
    pub(super) addr: A,
    pub(super) port: u16,
    /// Bits of [`flow_flags`] for the forward direction.
    pub(super) flags: u8,
    /// Bits of [`Source`].
    pub(super) source: u8,
    /// Backend id and generation; 0 for a host port.
    pub(super) backend: u32,
    pub(super) generation: u32,
    /// As in [`crate::types::flow::Flow`].
    pub(super) oif: u32,
    pub(super) iif: u32,
}

/// What is translated of a packet's source.
pub(super) struct Source;

impl Source {
    /// Nothing.
    pub(super) const KEEP: u8 = 0;
    /// The port, to one of the node's pool.
    pub(super) const PORT: u8 = 1;
    /// Also the address, to the node's, because the reply would not return to this node otherwise.
    pub(super) const NODE: u8 = 2;

    #[inline(always)]
    const fn node_if(masquerade: bool) -> u8 {
        if masquerade { Self::NODE } else { Self::KEEP }
    }
}

impl<A: Address> FlowTarget<A> {
    /// A target without destination, to be filled in.
    pub const EMPTY: Self = Self {
        addr: A::UNSPECIFIED,
        port: 0,
        flags: 0,
        source: Source::KEEP,
        backend: 0,
        generation: 0,
        iif: 0,
        oif: 0,
    };

    /// Returns the port to which the flow leads; 0 before one is chosen.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Has the source port of a connection to a pod translated if the client is a pod of another
    /// node, or such a node.
    ///
    /// The link can forge that client, which may have connections to the same pod without flows,
    /// because a socket hook of its node has translated them. No flow may translate their answers,
    /// and no port of the pool is theirs.
    #[inline(always)]
    pub fn protect_untracked<T: FamilyMaps<A>>(&mut self, tables: &T, client: &A) {
        let is_new = self.source == Source::KEEP && self.flags & flow_flags::TO_POD != 0;
        let networks = tables.config().is_some_and(|config| config.features & node_features::NETWORKS != 0);
        let members = network_flags::REMOTE | network_flags::NODE;
        if is_new && networks && tables.network(client).is_some_and(|net| net.flags & members != 0) {
            self.source = Source::PORT;
        }
    }

    /// Returns the interface index of the pod of this node to which the flow leads; 0: to none.
    /// Before [`Self::complete`].
    #[inline(always)]
    pub const fn pod(&self) -> u32 {
        if self.flags & flow_flags::TO_POD != 0 { self.oif } else { 0 }
    }

    /// Returns true if the flow leads to the node itself.
    #[inline(always)]
    pub const fn is_host(&self) -> bool {
        self.iif == Origin::Host.iif(0)
    }

    /// Returns [`attempt::FROM_NODE`] if the source address is translated, else 0.
    #[inline(always)]
    pub const fn searched(&self) -> u32 {
        (self.source & Source::NODE) as u32 * (attempt::FROM_NODE / Source::NODE as u32)
    }

    /// Returns a flow that tells [`super::flow_pair::insert_flow_pair`] how to translate the
    /// source, and the epoch.
    #[inline(always)]
    pub fn flow_wanted<T: SharedMaps>(&self, tables: &T, scratch: u32, key: &FlowKey<A>) -> Flow<A>
    where
        A: Family,
    {
        // IPv6: no stack is left for another address than the node's.
        let src = if A::V6 { A::UNSPECIFIED } else { masquerade_address(tables, self.oif) };
        Flow { src, dport: self.first_port(scratch, key), epoch: policy::epoch(tables), ..Flow::EMPTY }
    }

    /// Returns the port with which the search for a free source port begins: that of the scratch
    /// word ([`attempt::PORT`]), or else the client's, if its address is translated. It keeps that
    /// port if it is in the pool.
    #[inline(always)]
    const fn first_port(&self, scratch: u32, key: &FlowKey<A>) -> u16 {
        let found = (scratch >> attempt::PORT) as u16;
        // No branch: the verifier would follow both sides.
        let kept = key.sport * (self.source / Source::NODE) as u16;
        if found == 0 { kept } else { found }
    }

    /// Sets the backend to the least loaded one of the frontend.
    #[inline(always)]
    pub fn find_least_loaded<T: FamilyMaps<A>>(&mut self, tables: &T, frontend: &Frontend, origin: Origin) {
        self.backend = least_loaded(tables, frontend, origin.side());
    }

    /// Sets the devices for an address of a pod of this node, or of the node itself; returns false
    /// for any other.
    #[inline(always)]
    fn resolve_local(&mut self, local: Option<AddressInfo>) -> bool {
        let Some(local) = local else { return false };
        match local.kind {
            address_kind::POD => {
                (self.iif, self.oif, self.flags) = (local.ifindex, local.ifindex, pod_flow_flags(local.flags));
            }
            // Delivered by the host's stack, which also sends the replies.
            address_kind::NODE => self.iif = Origin::Host.iif(0),
            _ => return false,
        }
        true
    }

    /// Looks up the egress device of a masqueraded IPv4 flow that would be left to the host's
    /// routes.
    ///
    /// The device determines the source address. The packet also has to be redirected: the host's
    /// stack drops one that arrives with an address of the node as its source (a martian, RFC 1812,
    /// section 5.3.7; `fib_validate_source` in `net/ipv4/fib_frontend.c`). The stages of IPv6 have
    /// no stack left for the lookup: the host's stack routes, and the source is the node's address.
    #[inline(always)]
    pub fn resolve_route<P: Packet>(&mut self, packet: &P) {
        if !A::V6 && self.source & Source::NODE != 0 && self.oif == 0 {
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

    /// Adds the name of the pod to its interface index ([`crate::types::pod::Pod::device`]), and
    /// hides all values but the address from the verifier, so that the branches that chose the
    /// target are explored further as one.
    #[inline(always)]
    pub fn complete<P: Packet, T: SharedMaps>(&mut self, packet: &mut P, tables: &T) {
        if self.flags & flow_flags::TO_POD != 0 {
            self.oif = device(tables, self.oif);
            self.iif = self.oif;
        }
        self.scrub_verifier_state(packet);
    }

    /// Hides all values but the address from the verifier.
    #[inline(always)]
    pub fn scrub_verifier_state<P: Packet>(&mut self, packet: &mut P) {
        // Several fields in one word: each call is one volatile write and read.
        let bits = packet.scrub_verifier_state((self.flags as u32) << 8 | self.source as u32);
        (self.flags, self.source) = ((bits >> 8) as u8, bits as u8);
        self.backend = packet.scrub_verifier_state(self.backend);
        self.generation = packet.scrub_verifier_state(self.generation);
        self.oif = packet.scrub_verifier_state(self.oif);
        self.iif = packet.scrub_verifier_state(self.iif);
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
    if !to_chosen_backend(tables, key, id, internal, target) {
        return none;
    }
    tables.count_connection(id);
    if COUNTS {
        tables.count_flow(id, target.generation);
    }
    tables.count(Counter::PacketNewFlow);
    Verdict::TRANSLATE
}

/// Sets the target of a new connection to a backend; returns false if the id has none.
#[inline(always)]
pub fn to_chosen_backend<A: Family, T: FamilyMaps<A>>(
    tables: &T,
    key: &FlowKey<A>,
    id: u32,
    internal: bool,
    target: &mut FlowTarget<A>,
) -> bool {
    let Some(backend) = tables.backend(id) else { return false };
    if id == 0 || backend.state == 0 {
        return false;
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
    if !target.resolve_local(local) {
        if backend.state & backend_state::LOCAL == 0 {
            let route = egress(tables, &target.addr);
            (target.oif, target.source) = (route.oif, Source::node_if(!internal || route.masquerade));
        } else {
            // A local pod that another CNI plugin attached: the host's routes lead to it, and its
            // replies come back by the host's stack.
            target.iif = Origin::Host.iif(0);
        }
    } else if internal && target.oif != 0 && target.addr == key.src {
        // A pod that reaches itself: its stack drops packets with its own address as source.
        target.source = Source::NODE;
    }
    true
}

/// Sets the target of a connection that is recorded and not translated. `verdict` is what its
/// packets would get without a flow.
#[inline(always)]
pub fn keep<A: Family, T: FamilyMaps<A>>(tables: &T, key: &FlowKey<A>, verdict: Verdict, target: &mut FlowTarget<A>) {
    *target = FlowTarget { addr: key.dst, port: key.dport, ..FlowTarget::EMPTY };
    if !target.resolve_local(tables.address(&key.dst)) && matches!(verdict.action(), Action::ToUplink) {
        target.oif = verdict.ifindex();
    }
    target.flags |= flow_flags::UNTRANSLATED;
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
    let (flags, source) = (pod_flow_flags(entry.flags as u8), Source::node_if(addr == key.src));
    *target = FlowTarget { addr, port, flags, source, oif: pod, iif: pod, ..FlowTarget::EMPTY };
    tables.count(Counter::HostPort);
    Verdict::TRANSLATE
}

/// Returns the [`flow_flags`] of a flow into a pod with these [`address_flags`]. A mask and no
/// branch, because the bits are equal.
#[inline(always)]
pub(super) const fn pod_flow_flags(flags: u8) -> u8 {
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
    *target = FlowTarget { addr: key.dst, port: key.dport, source: Source::NODE, oif, ..FlowTarget::EMPTY };
    tables.count(Counter::Masqueraded);
    Verdict::TRANSLATE
}

/// Returns the address of masqueraded packets that leave by this device; unspecified if the node
/// has none.
#[inline(always)]
pub(super) fn masquerade_address<A: Family, T: SharedMaps>(tables: &T, oif: u32) -> A {
    let Some(config) = tables.config() else { return A::UNSPECIFIED };
    // A node with one uplink needs no lookup: its address is that of the uplink.
    if !A::V6
        && oif != config.uplink
        && let Some(source) = tables.masquerade_source(oif)
    {
        return A::of_source(source);
    }
    A::of_node(config)
}

/// Sets the target of a connection whose source port alone is translated. `verdict` is what its
/// packets would get without a flow.
#[inline(always)]
pub fn translate_port<A: Family, T: FamilyMaps<A>>(
    tables: &T,
    key: &FlowKey<A>,
    verdict: Verdict,
    target: &mut FlowTarget<A>,
) -> Verdict {
    *target = FlowTarget { addr: key.dst, port: key.dport, source: Source::PORT, ..FlowTarget::EMPTY };
    if target.resolve_local(tables.address(&key.dst)) {
        return Verdict::TRANSLATE;
    }
    match verdict.action() {
        Action::ToUplink => target.oif = verdict.ifindex(),
        // The host's stack routes the packets, and sends the replies.
        Action::Pass => target.iif = Origin::Host.iif(0),
        _ => return verdict,
    }
    Verdict::TRANSLATE
}
