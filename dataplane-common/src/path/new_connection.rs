//! Making flows: for a connection through a frontend or a host port, and for one that leaves the cluster.

use crate::balance::select::{Client, may_use, pick, select, weigh};
use crate::maps::{Flows, Tables};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::types::address::Address;
use crate::types::event::{Counter, DropReason};
use crate::types::flow::{Flow, FlowKey, flow_flags, flow_state};
use crate::types::pod::{addr_flags, addr_kind, net_flags, node_features};
use crate::types::service::{Frontend, HostPort, backend_state, frontend_flags, proto};
use crate::types::stage::Origin;
use crate::verdict::Verdict;

/// How often a port for source translation is tried before the connection is given up.
const SNAT_TRIES: u32 = 16;

/// The far end of a new flow, and the way to it.
#[derive(Clone, Copy)]
pub struct End<A> {
    addr: A,
    port: u16,
    /// Bits of [`flow_flags`].
    flags: u8,
    /// The source becomes the node, because the reply would not come back here otherwise.
    masked: bool,
    /// Backend id and generation; a host port's have id 0 and part of the pod's cookie.
    backend: u32,
    generation: u32,
    iif: u32,
    oif: u32,
}

impl<A: Address> End<A> {
    /// Nothing yet.
    pub const EMPTY: Self =
        Self { addr: A::UNSPECIFIED, port: 0, flags: 0, masked: false, backend: 0, generation: 0, iif: 0, oif: 0 };

    /// Finds the backend that has the least to do, before anything else is in the frame: the search needs a large one.
    #[inline(always)]
    pub fn weigh<T: Tables<A>>(&mut self, tables: &T, frontend: &Frontend, origin: Origin) {
        self.backend = weigh(tables, frontend, origin.side());
    }

    /// Finds the way of a packet that would be left to the host's routes with the node's own address as its source: IPv4 takes that
    /// for a forgery when the packet comes in by a device (a martian source, RFC 1812, section 5.3.7).
    #[inline(always)]
    pub fn find_way<P: Packet>(&mut self, packet: &P) {
        if !A::V6 && self.masked && self.oif == 0 {
            self.oif = packet.way_to(&self.addr);
        }
    }

    /// Leads there from the egress of a device: past no queue, because only what comes in can go past one, and not on through the host's stack,
    /// which has decided already. Says whether there is such a way.
    #[inline(always)]
    #[must_use]
    pub fn find_way_out<P: Packet>(&mut self, packet: &P) -> bool {
        if self.oif == 0 {
            self.oif = packet.way_to(&self.addr);
        }
        self.flags |= flow_flags::SHAPED;
        self.oif != 0
    }

    /// The same, without what the verifier knows of how it came about.
    #[inline(always)]
    pub fn forget<P: Packet>(&mut self, packet: &mut P) {
        let bits = packet.forget((self.flags as u32) << 1 | u32::from(self.masked));
        (self.flags, self.masked) = ((bits >> 1) as u8, bits & 1 != 0);
        self.backend = packet.forget(self.backend);
        self.generation = packet.forget(self.generation);
        self.iif = packet.forget(self.iif);
        self.oif = packet.forget(self.oif);
        self.port = packet.forget(self.port as u32) as u16;
    }
}

/// The way out of the node.
#[derive(Clone, Copy)]
pub struct Egress {
    /// The uplink or the tunnel; 0: the host's routes decide.
    pub oif: u32,
    /// Pods show the node's address there.
    pub masked: bool,
    /// Nobody has such an address.
    pub nowhere: bool,
    /// Only a pod of this node can have such an address.
    pub own: bool,
}

/// The way to an address that is not on this node.
#[inline(always)]
pub fn egress<A: Family, T: Tables<A>>(tables: &T, addr: &A) -> Egress {
    let Some(config) = tables.config() else { return Egress { oif: 0, masked: false, nowhere: false, own: false } };
    let (mut oif, mut flags) = (config.uplink, 0);
    if config.features & node_features::NETS != 0
        && let Some(net) = tables.net(addr)
    {
        flags = net.flags;
        if net.oif != 0 {
            oif = net.oif;
        }
    }
    let own = flags & net_flags::OWN != 0;
    if own || config.features & node_features::HOST_ROUTING != 0 {
        oif = 0;
    }
    let masked = config.features & node_features::MASQUERADE != 0 && flags & net_flags::KEEP_SOURCE == 0;
    Egress { oif, masked, nowhere: flags & net_flags::SERVICE != 0, own }
}

/// A new connection through a frontend: picks a backend. [`Verdict::TRANSLATE`]: `end` is set. `COUNTS`: its scheduler counts connections, and
/// the id in `end` is what [`End::weigh`] has found.
#[inline(always)]
pub fn to_backend<A: Family, T: Tables<A>, const COUNTS: bool>(
    tables: &T,
    key: &FlowKey<A>,
    frontend: &Frontend,
    origin: Origin,
    end: &mut End<A>,
) -> Verdict {
    if !may_use(tables, frontend, key.src) {
        return Verdict::drop(DropReason::SourceRange);
    }
    let internal = matches!(origin, Origin::Pod);
    let side = origin.side();
    let silent = if internal { frontend_flags::INTERNAL_DROP } else { frontend_flags::EXTERNAL_DROP };
    let none = if frontend.flags & silent == 0 {
        Verdict::refuse(DropReason::NoBackend)
    } else {
        Verdict::drop(DropReason::NoBackend)
    };
    let weighed = end.backend;
    let id = select(tables, frontend, key.src, side, || {
        if COUNTS {
            return weighed;
        }
        pick(tables, frontend, &Client { addr: &key.src, port: key.sport, asked: &key.dst }, side)
    });
    let Some(backend) = tables.backend(id) else { return none };
    if id == 0 || backend.state == 0 {
        return none;
    }
    *end = End {
        addr: A::from_octets16(&backend.addr),
        port: backend.port,
        backend: id,
        generation: backend.generation,
        ..End::EMPTY
    };
    let remote = backend.state & backend_state::REMOTE != 0;
    let local = if remote { None } else { tables.addr(&end.addr) };
    let (kind, flags, pod) = local.map_or((0, 0, 0), |a| (a.kind, a.flags, a.ifindex));
    match kind {
        addr_kind::POD => {
            (end.iif, end.oif, end.flags) = (pod, pod, into_pod(flags));
            end.masked = internal && end.addr == key.src;
        }
        addr_kind::NODE => {}
        // another plugin has attached this pod: the host's routes lead to it, and its replies come back by the host's stack
        _ if backend.state & backend_state::LOCAL != 0 => {}
        _ => {
            let way = egress(tables, &end.addr);
            (end.oif, end.masked) = (way.oif, !internal || way.masked);
        }
    }
    tables.count_connection(id);
    if COUNTS {
        tables.count_flow(id, end.generation);
    }
    tables.count(Counter::PacketNewFlow);
    Verdict::TRANSLATE
}

/// A new connection to a host port.
#[inline(always)]
pub fn to_host_port<A: Family, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    host_port: &HostPort<A>,
    end: &mut End<A>,
) -> Verdict {
    let HostPort { addr, port, ifindex: pod, .. } = *host_port;
    let Some(entry) = tables.pod(pod) else { return Verdict::drop(DropReason::UnknownPod) };
    let (flags, masked) = (into_pod(entry.flags as u8), addr == key.src);
    *end = End { addr, port, flags, masked, backend: 0, generation: entry.netns_cookie as u32, iif: pod, oif: pod };
    tables.count(Counter::HostPort);
    Verdict::TRANSLATE
}

/// Bits of [`flow_flags`] of a flow into a pod with these [`addr_flags`].
#[inline(always)]
const fn into_pod(flags: u8) -> u8 {
    flow_flags::TO_POD | flags & addr_flags::SHAPED
}

/// What a pod sends out of the cluster: gets the node's address and one of its ports.
#[inline(always)]
pub fn masquerade<A: Family, T: Tables<A>>(tables: &T, key: &FlowKey<A>, oif: u32, end: &mut End<A>) -> Verdict {
    *end = End { addr: key.dst, port: key.dport, masked: true, oif, ..End::EMPTY };
    tables.count(Counter::Masqueraded);
    Verdict::TRANSLATE
}

/// Makes both directions, the reply's first: nothing is sent that could not come back.
///
/// A function of its own, with a stack of its own, of which a kernel program has 512 bytes for all that it calls.
#[inline(never)]
pub fn pair<A: Family, F: Flows<A>, T: Tables<A>>(
    flows: &mut F,
    tables: &T,
    key: &FlowKey<A>,
    end: &End<A>,
    origin: Origin,
    ifindex: u32,
    flow: &mut Flow<A>,
) -> Verdict {
    let now = tables.now();
    let internal = matches!(origin, Origin::Pod);
    *flow = Flow {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        iif: end.iif,
        oif: ifindex,
        backend: end.backend,
        generation: end.generation,
        last_seen: now,
        state: flow_state::NEW,
        flags: flow_flags::REPLY
            | if internal { into_pod(tables.pod(ifindex).map_or(0, |pod| pod.flags as u8)) } else { 0 },
        pad: 0,
    };
    let (src, sport) = (end.addr, end.port);
    let mut back = FlowKey { src, dst: key.src, sport, dport: key.sport, proto: key.proto, pad: [0; 3] };
    if end.masked {
        if !reserve_port(flows, tables, &mut back, flow) {
            return Verdict::drop(DropReason::SnatPortsExhausted);
        }
    } else if !flows.insert(&back, flow) {
        return Verdict::drop(DropReason::FlowTableFull);
    }
    flow.src = back.dst;
    flow.sport = back.dport;
    flow.dst = end.addr;
    // an ICMP echo has one identifier for both directions
    flow.dport = back.sport;
    flow.iif = origin.iif(ifindex);
    flow.oif = end.oif;
    flow.flags = end.flags | if internal { 0 } else { flow_flags::EXTERNAL };
    if !flows.insert(key, flow) {
        flows.remove(&back);
        return Verdict::drop(DropReason::FlowTableFull);
    }
    Verdict::TRANSLATE
}

/// Finds a free port of the node for `back` and takes it by entering the reply flow.
#[inline(always)]
fn reserve_port<A: Family, F: Flows<A>, T: Tables<A>>(
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
        if flows.insert_new(back, flow) {
            return true;
        }
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    }
    false
}

/// Whether the ports of a flow are the identifier of an ICMP echo.
#[inline(always)]
const fn is_echo(protocol: u8) -> bool {
    matches!(protocol, proto::ICMP | proto::ICMP6)
}
