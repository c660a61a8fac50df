//! What all packet programs share: carrying out a flow, and making a new one.

use crate::event::{Counter, DropReason};
use crate::flow::{Flow, FlowKey, flow_flags, flow_state};
use crate::packet::{Flows, Packet, Tables};
use crate::parse::{Parsed, Reject};
use crate::pod::addr_kind;
use crate::rewrite::{Family, translate};
use crate::select::{Side, select};
use crate::service::{Frontend, backend_state};

/// What is done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Action {
    /// On through the host's own stack.
    Pass,
    /// Gone, and counted.
    Drop,
    /// Into a pod.
    ToPod,
    /// Out of a device, to the next hop that the host's routes name.
    ToUplink,
    /// It has a flow now, which says where it goes: only between functions, never the end.
    Translate,
}

/// What becomes of a packet: an [`Action`] and its detail, in one number, because that is what a function of a kernel program can return.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Verdict(u64);

const REPORT: u64 = 1 << 63;

impl Verdict {
    /// On through the host's own stack.
    pub const PASS: Self = Self::new(Action::Pass, 0);
    /// See [`Action::Translate`].
    pub const TRANSLATE: Self = Self::new(Action::Translate, 0);

    const fn new(action: Action, detail: u32) -> Self {
        Self((action as u64) << 32 | detail as u64)
    }

    /// Gone, and counted.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: DropReason) -> Self {
        Self::new(Action::Drop, reason as u32)
    }

    /// Into the pod behind this host-side interface.
    #[inline(always)]
    #[must_use]
    pub const fn to_pod(ifindex: u32) -> Self {
        Self::new(Action::ToPod, ifindex)
    }

    /// Out of this device.
    #[inline(always)]
    #[must_use]
    pub const fn to_uplink(ifindex: u32) -> Self {
        Self::new(Action::ToUplink, ifindex)
    }

    /// The same, of a packet that is an ICMP error: [`crate::hooks::report`] has the last word.
    #[inline(always)]
    #[must_use]
    pub const fn of_report(self) -> Self {
        Self(self.0 | REPORT)
    }

    /// Whether [`crate::hooks::report`] has the last word.
    #[inline(always)]
    #[must_use]
    pub const fn is_of_report(self) -> bool {
        self.0 & REPORT != 0
    }

    /// Its high and its low half.
    #[inline(always)]
    #[must_use]
    pub const fn halves(self) -> [u32; 2] {
        [(self.0 >> 32) as u32, self.0 as u32]
    }

    /// From [`Self::halves`].
    #[inline(always)]
    #[must_use]
    pub const fn from_halves([high, low]: [u32; 2]) -> Self {
        Self((high as u64) << 32 | low as u64)
    }

    /// What is done.
    #[inline(always)]
    #[must_use]
    pub const fn action(self) -> Action {
        const DROP: u32 = Action::Drop as u32;
        const TO_POD: u32 = Action::ToPod as u32;
        const TO_UPLINK: u32 = Action::ToUplink as u32;
        const TRANSLATE: u32 = Action::Translate as u32;
        match ((self.0 & !REPORT) >> 32) as u32 {
            DROP => Action::Drop,
            TO_POD => Action::ToPod,
            TO_UPLINK => Action::ToUplink,
            TRANSLATE => Action::Translate,
            _ => Action::Pass,
        }
    }

    /// `ToPod`, `ToUplink`: the interface (of a pod, its host-side veth). `Drop`: the [`DropReason`]'s number. Others: 0.
    #[inline(always)]
    #[must_use]
    pub const fn detail(self) -> u32 {
        self.0 as u32
    }
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

/// Sends an untranslated packet on, and counts the hop if it leaves without the host's stack.
#[inline(always)]
pub fn route<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>, verdict: Verdict) -> Verdict {
    if !matches!(verdict.action(), Action::ToPod | Action::ToUplink) {
        return verdict;
    }
    if A::hops(parsed.hop) < 2 {
        // the host's stack tells the sender
        return Verdict::PASS;
    }
    if A::store_hop(packet, parsed).is_some() { verdict } else { Verdict::drop(DropReason::Rewrite) }
}

/// Translates a packet as its flow says, and sends it on.
#[inline(always)]
pub fn forward<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>, flow: &Flow<A>) -> Verdict {
    let count_hop = flow.oif != 0;
    if count_hop && A::hops(parsed.hop) < 2 {
        return Verdict::PASS;
    }
    if translate(packet, parsed, flow, count_hop).is_none() {
        return Verdict::drop(DropReason::Rewrite);
    }
    end(flow)
}

/// Where the packets of a flow go.
#[inline(always)]
#[must_use]
pub const fn end<A>(flow: &Flow<A>) -> Verdict {
    match flow.oif {
        0 => Verdict::PASS,
        oif if flow.flags & flow_flags::TO_POD != 0 => Verdict::to_pod(oif),
        oif => Verdict::to_uplink(oif),
    }
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

/// A new connection through a frontend: picks a backend and makes the pair of flows, of which `flow` becomes the packet's own.
#[inline(always)]
pub fn connect<A: Family, F: Flows<A>, T: Tables<A>>(
    flows: &mut F,
    tables: &T,
    key: &FlowKey<A>,
    frontend: &Frontend,
    ingress: Ingress,
    flow: &mut Flow<A>,
) -> Verdict {
    let now = tables.now();
    let id = select(tables, frontend, key.src, ingress.side, now);
    let Some(backend) = tables.backend(id) else { return Verdict::drop(DropReason::NoBackend) };
    if id == 0 || backend.state == 0 {
        return Verdict::drop(DropReason::NoBackend);
    }
    let (addr, port, generation) = (A::from_octets16(&backend.addr), backend.port, backend.generation);
    let place = place(tables, &addr, backend.state & backend_state::REMOTE != 0);
    let internal = matches!(ingress.side, Side::Internal);
    // the reply must come back here: a pod that reaches itself, and a client from outside with a backend elsewhere
    let masked = if internal { addr == key.src } else { !place.here };

    *flow = Flow {
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
        if !reserve_port(flows, tables, &mut back, flow) {
            return Verdict::drop(DropReason::SnatPortsExhausted);
        }
    } else if !flows.insert(&back, flow) {
        return Verdict::drop(DropReason::FlowTableFull);
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
    if !flows.insert(key, flow) {
        flows.remove(&back);
        return Verdict::drop(DropReason::FlowTableFull);
    }
    tables.count_connection(id);
    tables.count(Counter::PacketNewFlow);
    Verdict::TRANSLATE
}

#[inline(always)]
fn place<A: Family, T: Tables<A>>(tables: &T, addr: &A, remote: bool) -> Place {
    let (kind, pod) = if remote { (0, 0) } else { tables.addr(addr).map_or((0, 0), |a| (a.kind, a.ifindex)) };
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
