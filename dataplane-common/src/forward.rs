//! What all packet programs share: carrying out a flow, and making a new one.

use crate::event::{Counter, DropReason};
use crate::flow::{Flow, FlowKey, flow_flags, flow_state};
use crate::packet::{Flows, Packet, Tables};
use crate::parse::{Parsed, Reject};
use crate::pod::addr_kind;
use crate::rewrite::{self, Family};
use crate::select::{Side, select};
use crate::service::Frontend;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On through the host's own stack.
    Pass,
    /// Gone, and counted.
    Drop(DropReason),
    /// Into the pod behind this host-side interface.
    ToPod(u32),
    /// Out of this device, to the next hop that the host's routes name.
    ToUplink(u32),
}

impl From<Reject> for DropReason {
    fn from(reject: Reject) -> Self {
        match reject {
            Reject::Truncated | Reject::BadHeader => Self::Malformed,
            Reject::UnknownFragment => Self::UnknownFragment,
        }
    }
}

/// How often a port for source translation is tried before the connection is given up.
const SNAT_TRIES: u32 = 16;

/// What a packet without a flow leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// It has a flow now.
    Translate,
    /// It goes on as it is.
    Untranslated(Verdict),
}

/// Sends an untranslated packet on, and counts the hop if it leaves without the host's stack.
#[inline(always)]
pub fn route<A: Family, P: Packet>(packet: &mut P, verdict: Verdict) -> Verdict {
    if !matches!(verdict, Verdict::ToPod(_) | Verdict::ToUplink(_)) {
        return verdict;
    }
    match A::count_hop(packet) {
        Some(true) => verdict,
        // the host's stack tells the sender
        Some(false) => Verdict::Pass,
        None => Verdict::Drop(DropReason::Rewrite),
    }
}

/// Translates a packet as its flow says, and sends it on.
#[inline(always)]
pub fn forward<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>, flow: &Flow<A>) -> Verdict {
    if flow.oif != 0 && A::count_hop(packet) != Some(true) {
        return Verdict::Pass;
    }
    if translate(packet, parsed, flow).is_none() {
        return Verdict::Drop(DropReason::Rewrite);
    }
    match flow.oif {
        0 => Verdict::Pass,
        oif if flow.flags & flow_flags::TO_POD != 0 => Verdict::ToPod(oif),
        oif => Verdict::ToUplink(oif),
    }
}

/// Translates a packet as its flow says.
#[inline(always)]
#[must_use]
pub fn translate<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>, flow: &Flow<A>) -> Option<()> {
    if flow.flags & flow_flags::SRC != 0 {
        rewrite::source(packet, parsed, flow.src, flow.sport)?;
    }
    if flow.flags & flow_flags::DST != 0 {
        rewrite::destination(packet, parsed, flow.dst, flow.dport)?;
    }
    Some(())
}

/// Where a connection came in.
#[derive(Clone, Copy, Debug)]
pub struct Ingress {
    /// The interface.
    pub ifindex: u32,
    /// Internal: a pod's veth. External: an uplink.
    pub side: Side,
}

/// Where a backend is, seen from this node.
#[derive(Clone, Copy, Debug)]
struct Place {
    iif: u32,
    oif: u32,
    flags: u8,
    here: bool,
}

/// A new connection through a frontend: picks a backend and makes the pair of flows.
#[inline(always)]
pub fn connect<A: Family, F: Flows<A>, T: Tables<A>>(
    flows: &mut F,
    tables: &mut T,
    key: &FlowKey<A>,
    frontend: &Frontend,
    ingress: Ingress,
) -> Next {
    let now = tables.now();
    let id = select(tables, frontend, key.src, ingress.side, now);
    let Some(backend) = tables.backend(id) else { return drop(DropReason::NoBackend) };
    if id == 0 || backend.state == 0 {
        return drop(DropReason::NoBackend);
    }
    let (addr, port, generation) = (A::from_octets16(&backend.addr), backend.port, backend.generation);
    let place = place(tables, &addr);
    let internal = matches!(ingress.side, Side::Internal);
    // the reply must come back here: a pod that reaches itself, and a client from outside with a backend elsewhere
    let masked = if internal { addr == key.src } else { !place.here };

    let mut flow = Flow {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        iif: place.iif,
        oif: ingress.ifindex,
        backend: id,
        generation,
        last_seen: now,
        state: flow_state::NEW,
        flags: flow_flags::SRC | flow_flags::REPLY | if internal { flow_flags::TO_POD } else { 0 },
        pad: 0,
    };
    let mut back = FlowKey { src: addr, dst: key.src, sport: port, dport: key.sport, proto: key.proto, pad: [0; 3] };
    if masked {
        flow.flags |= flow_flags::DST;
        if !reserve_port(flows, tables, &mut back, &flow) {
            return drop(DropReason::SnatPortsExhausted);
        }
    } else if !flows.insert(&back, &flow) {
        return drop(DropReason::FlowTableFull);
    }
    flow.src = back.dst;
    flow.sport = back.dport;
    flow.dst = addr;
    flow.dport = port;
    flow.iif = if internal { ingress.ifindex } else { 0 };
    flow.oif = place.oif;
    flow.flags = flow_flags::DST
        | place.flags
        | if masked { flow_flags::SRC } else { 0 }
        | if internal { 0 } else { flow_flags::EXTERNAL };
    if !flows.insert(key, &flow) {
        flows.remove(&back);
        return drop(DropReason::FlowTableFull);
    }
    tables.count_connection(id);
    tables.count(Counter::PacketNewFlow);
    Next::Translate
}

#[inline(always)]
pub(crate) const fn drop(reason: DropReason) -> Next {
    Next::Untranslated(Verdict::Drop(reason))
}

#[inline(always)]
fn place<A: Family, T: Tables<A>>(tables: &T, addr: &A) -> Place {
    let (kind, pod) = tables.addr(addr).map_or((0, 0), |a| (a.kind, a.ifindex));
    match kind {
        addr_kind::POD => Place { iif: pod, oif: pod, flags: flow_flags::TO_POD, here: true },
        addr_kind::NODE => Place { iif: 0, oif: 0, flags: 0, here: true },
        _ => Place { iif: 0, oif: tables.config().map_or(0, |c| c.uplink), flags: 0, here: false },
    }
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
    let mut random = tables.random();
    for _ in 0..SNAT_TRIES {
        back.dport = min.wrapping_add(((random as u64 * ports as u64) >> 32) as u16);
        if flows.insert_new(back, flow) {
            return true;
        }
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    }
    false
}
