//! The packet programs: what happens at each hook.
//!
//! A packet of a known flow is done with at once, and so is one that only passes through. Whatever is rarer is a [`Step`]: it begins with
//! the packet anew, because a tail call takes nothing along.

use crate::balance::select::host_port;
use crate::maps::{Flows, Node, Tables};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{Layer4, Parsed, parse};
use crate::packet::rewrite::translate;
use crate::path::conntrack::{is_current, touch};
use crate::path::forward::{forward, route, translated};
use crate::path::icmp_error;
use crate::path::new_connection::{End, egress, masquerade, pair, to_backend, to_host_port};
use crate::path::udp_failover::left;
use crate::types::event::{DropReason, Reject};
use crate::types::flow::{Flow, flow_flags};
use crate::types::pod::{addr_kind, node_features, pod_flags};
use crate::types::service::{Frontend, FrontendKey, scheduler};
use crate::types::stage::{Origin, Step};
use crate::verdict::{Action, Verdict};
use crate::wire::byte_order::{Be16, Be32};

/// Ingress of a pod's host-side veth, which is everything that a pod sends, or of an uplink: node ports, external addresses, replies, and
/// packets for local pods.
#[inline(always)]
pub fn enter<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T, origin: Origin, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    if matches!(origin, Origin::Pod) {
        let verdict = station(packet, tables, ifindex);
        if verdict != Verdict::PASS {
            return verdict;
        }
    }
    let parsed: Parsed<A> = match parse(packet, tables) {
        Ok(parsed) => parsed,
        // the host's stack reassembles what is for the host
        Err(Reject::UnknownFragment) if matches!(origin, Origin::Uplink) => return Verdict::PASS,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    let now = tables.now();
    // a flow knows by which interface its packets come in: that is the anti-spoof check of a hit
    if let Some(flow) = flows.get(&parsed.key) {
        if flow.iif == origin.iif(ifindex) && is_current(flow, &parsed, now, tables) {
            touch(flow, &parsed, now, tables);
            return forward::<true, _, _, _>(packet, tables, &parsed, flow);
        }
        if parsed.is_syn() {
            return Verdict::PASS.then(Step::Again);
        }
    }
    // what opens a connection often asks for a frontend; anything else first shows what its address is
    if parsed.is_syn() {
        return Verdict::PASS.then(Step::Open);
    }
    let verdict = miss(flows, tables, &parsed, origin, ifindex);
    match verdict.step() {
        None if parsed.layer4 == Layer4::IcmpError && verdict != SPOOFED => verdict.then(Step::Report),
        None => route(packet, tables, &parsed, verdict),
        Some(_) => verdict,
    }
}

const SPOOFED: Verdict = Verdict::drop(DropReason::Spoofed);

/// [`Verdict::PASS`] if a frame comes from the pod's own MAC. Asked of hits too: a flow says nothing of MACs, and a pod that is being
/// removed sends nothing any more.
#[inline(always)]
fn station<P: Packet, T: Node>(packet: &P, tables: &T, ifindex: u32) -> Verdict {
    let Some(pod) = tables.pod(ifindex) else { return Verdict::drop(DropReason::UnknownPod) };
    if pod.flags & pod_flags::PRESENT == 0 {
        return Verdict::drop(DropReason::UnknownPod);
    }
    let mac = &pod.mac;
    let is_own = packet.words(6) == Some([Be32(u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]))])
        && packet.half(10) == Some(Be16(u16::from_ne_bytes([mac[4], mac[5]])));
    if is_own { Verdict::PASS } else { SPOOFED }
}

/// A packet that has no flow and opens no TCP connection. A function of its own, with a stack of its own.
#[inline(never)]
fn miss<A, F, T>(flows: &mut F, tables: &T, parsed: &Parsed<A>, origin: Origin, ifindex: u32) -> Verdict
where
    A: Family,
    F: Flows<A>,
    T: Tables<A>,
{
    let verdict = sender(tables, parsed, origin, ifindex);
    if verdict != Verdict::PASS {
        return verdict;
    }
    let (kind, into) = kind(tables, &parsed.key.dst);
    let datagram = matches!(parsed.layer4, Layer4::Udp | Layer4::Sctp);
    match kind {
        addr_kind::SERVICE | addr_kind::NODE | addr_kind::EXTERNAL if datagram => Verdict::PASS.then(Step::Open),
        addr_kind::SERVICE | addr_kind::EXTERNAL
            if parsed.is_tcp_midflow() && tables.frontend(&frontend_key(parsed)).is_some() =>
        {
            Verdict::drop(DropReason::NoFlow)
        }
        // nobody listens on the other ports of a Service's address
        addr_kind::SERVICE if parsed.is_tcp_midflow() || parsed.layer4 == Layer4::Icmp => {
            Verdict::refuse(DropReason::NoFrontend)
        }
        addr_kind::SERVICE => Verdict::drop(DropReason::NoFrontend),
        // what is the node's own is the host's business: also connections to node ports that were there before us
        addr_kind::NODE => Verdict::PASS,
        _ => direct(flows, tables, parsed, origin, ifindex, kind, into),
    }
}

/// What an address is; if it is a pod's, with the way into that.
#[inline(always)]
fn kind<A: Family, T: Tables<A>>(tables: &T, addr: &A) -> (u8, Verdict) {
    tables.addr(addr).map_or((0, Verdict::PASS), |addr| (addr.kind, Verdict::to_pod_of(&addr)))
}

/// [`Verdict::PASS`] if the packet is the pod's own, or comes from no pod.
#[inline(always)]
fn sender<A: Family, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, origin: Origin, ifindex: u32) -> Verdict {
    if !matches!(origin, Origin::Pod) {
        return Verdict::PASS;
    }
    let Some(pod) = tables.pod(ifindex) else { return Verdict::drop(DropReason::UnknownPod) };
    if pod.flags & pod_flags::PRESENT == 0 {
        return Verdict::drop(DropReason::UnknownPod);
    }
    if A::of_pod(pod) == parsed.key.src && !parsed.key.src.is_unspecified() {
        return Verdict::PASS;
    }
    if A::V6 && parsed.key.src.is_link_local() {
        return Verdict::drop(DropReason::ForbiddenControl);
    }
    // the node forwards what asks for a pod that is gone
    if pod.flags & pod_flags::NODE != 0 { Verdict::drop(DropReason::UnallocatedAddress) } else { SPOOFED }
}

/// To an address that is none of a Service and not the node's. With [`Step::Open`]: out of this device, as the node.
#[inline(always)]
fn direct<A, F, T>(
    flows: &mut F,
    tables: &T,
    parsed: &Parsed<A>,
    origin: Origin,
    ifindex: u32,
    kind: u8,
    into: Verdict,
) -> Verdict
where
    A: Family,
    F: Flows<A>,
    T: Tables<A>,
{
    let opens = parsed.is_syn() || matches!(parsed.layer4, Layer4::Udp | Layer4::Sctp);
    if opens {
        // with the ports of an old connection through a Service: its replies must not be translated
        let back = parsed.key.reversed();
        if flows.get(&back).is_some_and(|flow| flow.flags & flow_flags::REPLY != 0) {
            flows.remove(&back);
        }
    }
    if kind == addr_kind::POD {
        let by_host = tables.config().is_some_and(|c| c.features & node_features::HOST_ROUTING != 0);
        return if by_host { Verdict::PASS } else { into };
    }
    if parsed.key.dst.is_host_only() {
        return Verdict::PASS;
    }
    let way = egress(tables, &parsed.key.dst);
    if way.nowhere {
        return Verdict::drop(DropReason::UnallocatedAddress);
    }
    if matches!(origin, Origin::Uplink) {
        return Verdict::PASS;
    }
    if way.own {
        // the node's routes have led its packet here
        let from_node = tables.pod(ifindex).is_some_and(|pod| pod.flags & pod_flags::NODE != 0);
        return if from_node { Verdict::refuse(DropReason::UnallocatedAddress) } else { Verdict::PASS };
    }
    if way.masked && parsed.layer4 != Layer4::IcmpError {
        return Verdict::to_uplink(way.oif).then(Step::Open);
    }
    if way.oif == 0 { Verdict::PASS } else { Verdict::to_uplink(way.oif) }
}

#[inline(always)]
fn frontend_key<A: Family>(parsed: &Parsed<A>) -> FrontendKey<A> {
    FrontendKey { addr: parsed.key.dst, port: parsed.key.dport, proto: parsed.key.proto, pad: 0 }
}

/// [`Step::Open`]: a packet without a flow that opens a connection, or may. [`Step::Weigh`], with `COUNTS`: the same where the scheduler of the frontend
/// counts connections, because both do not fit into one program.
#[inline(always)]
pub fn open<A, P, F, T, const COUNTS: bool>(
    packet: &mut P,
    flows: &mut F,
    tables: &T,
    origin: Origin,
    ifindex: u32,
) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let mut parsed: Parsed<A> = match parse(packet, tables) {
        Ok(parsed) => parsed,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    if let Err(reject) = parsed.forget(packet) {
        return Verdict::drop(reject.into());
    }
    let mut end = End::EMPTY;
    let verdict = match requested(tables, &parsed) {
        // the other of the two steps; for this one, the agent has changed it just now
        Some(frontend) if COUNTS != scheduler::counts(frontend.scheduler) => {
            return Verdict::PASS.then(if COUNTS { Step::Open } else { Step::Weigh });
        }
        Some(frontend) => {
            if COUNTS {
                end.weigh(tables, frontend, origin);
            }
            backend::<A, T, COUNTS>(tables, &parsed, frontend, origin, ifindex, &mut end)
        }
        None if COUNTS => return Verdict::PASS.then(Step::Open),
        None => far_end(flows, tables, &parsed, origin, ifindex, &mut end),
    };
    let verdict = verdict.forget(packet);
    if verdict.step().is_some() {
        return verdict;
    }
    if verdict.action() != Action::Translate {
        // what asks for a frontend is translated or ends here
        if COUNTS {
            return verdict;
        }
        return route(packet, tables, &parsed, verdict);
    }
    end.forget(packet);
    end.find_way(packet);
    let origin = Origin::from_number(packet.forget(origin as u32));
    let mut flow = Flow::EMPTY;
    let verdict = pair(flows, tables, &parsed.key, &end, origin, ifindex, &mut flow);
    if verdict.action() == Action::Translate {
        forward::<false, _, _, _>(packet, tables, &parsed, &flow)
    } else {
        verdict
    }
}

/// The frontend that a packet asks for. A function of its own, as [`pair`], and so are the next two.
#[inline(never)]
fn requested<'a, A: Family, T: Tables<A>>(tables: &'a T, parsed: &Parsed<A>) -> Option<&'a Frontend> {
    let ported = matches!(parsed.layer4, Layer4::Tcp | Layer4::Udp | Layer4::Sctp);
    if ported { tables.frontend(&frontend_key(parsed)) } else { None }
}

/// [`Verdict::TRANSLATE`]: to a backend of the frontend, in `end`.
#[inline(never)]
fn backend<A: Family, T: Tables<A>, const COUNTS: bool>(
    tables: &T,
    parsed: &Parsed<A>,
    frontend: &Frontend,
    origin: Origin,
    ifindex: u32,
    end: &mut End<A>,
) -> Verdict {
    let verdict = sender(tables, parsed, origin, ifindex);
    if verdict != Verdict::PASS {
        return verdict;
    }
    to_backend::<A, T, COUNTS>(tables, &parsed.key, frontend, origin, end)
}

/// [`Verdict::TRANSLATE`]: to the far end in `end`, which is no backend.
#[inline(never)]
fn far_end<A, F, T>(
    flows: &mut F,
    tables: &T,
    parsed: &Parsed<A>,
    origin: Origin,
    ifindex: u32,
    end: &mut End<A>,
) -> Verdict
where
    A: Family,
    F: Flows<A>,
    T: Tables<A>,
{
    let verdict = sender(tables, parsed, origin, ifindex);
    if verdict != Verdict::PASS {
        return verdict;
    }
    let key = frontend_key(parsed);
    let ported = matches!(parsed.layer4, Layer4::Tcp | Layer4::Udp | Layer4::Sctp);
    let (kind, into) = kind(tables, &parsed.key.dst);
    match kind {
        addr_kind::SERVICE => return Verdict::refuse(DropReason::NoFrontend),
        addr_kind::NODE => {
            let Some(host_port) = host_port(tables, key.addr, key.port, key.proto) else { return Verdict::PASS };
            return to_host_port(tables, &parsed.key, host_port, end);
        }
        _ => {}
    }
    let verdict = direct(flows, tables, parsed, origin, ifindex, kind, into);
    if verdict.step() != Some(Step::Open) {
        return verdict;
    }
    if !ported && parsed.layer4 != Layer4::Icmp {
        return Verdict::drop(DropReason::NotTranslatable);
    }
    masquerade(tables, &parsed.key, verdict.ifindex(), end)
}

/// [`Step::Report`]: an ICMP error, after another program has found `verdict` for it as for any packet. If it is about a packet of a flow
/// that comes in here, it is translated and follows that flow.
#[inline(always)]
pub fn report<A, P, F, T>(
    packet: &mut P,
    flows: &mut F,
    tables: &T,
    origin: Origin,
    ifindex: u32,
    verdict: Verdict,
) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let Ok(parsed) = parse::<A, P, T>(packet, tables) else { return Verdict::drop(DropReason::Malformed) };
    let translated = icmp_error::error(packet, flows, &parsed, origin, ifindex);
    match (translated.action() == Action::Translate, origin) {
        (true, Origin::Host) => Verdict::PASS,
        (true, _) => route(packet, tables, &parsed, verdict),
        (false, _) => translated,
    }
}

/// Egress of an uplink or of a pod's host-side veth, for packets of the host's stack: replies of a backend that has the
/// node's own address get their frontend's address back; datagrams of a socket whose backend has ended go to another one, and SCTP that
/// `LEAVES` the node to a backend of the frontend that it asks for.
#[inline(always)]
pub fn from_host<A, P, F, T, const LEAVES: bool>(packet: &mut P, flows: &mut F, tables: &T) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let Ok(parsed) = parse::<A, P, T>(packet, tables) else { return Verdict::PASS };
    if parsed.layer4 == Layer4::IcmpError {
        return Verdict::PASS.then(Step::Report);
    }
    let now = tables.now();
    if let Some(flow) = flows.get(&parsed.key)
        && flow.iif == 0
        && flow.flags & flow_flags::REPLY != 0
        && is_current(flow, &parsed, now, tables)
    {
        touch(flow, &parsed, now, tables);
        if translate::<false, _, _>(packet, &parsed, flow, false).is_none() {
            return Verdict::drop(DropReason::Rewrite);
        }
        return translated(&parsed, Verdict::PASS);
    }
    let follows = match parsed.layer4 {
        Layer4::Udp => left(packet, tables, &parsed).is_some(),
        // no hook sees such sockets: what they ask of external addresses leaves here, and other things go to the gate
        Layer4::Sctp if LEAVES => tables.frontend(&frontend_key(&parsed)).is_some(),
        _ => false,
    };
    if follows { Verdict::PASS.then(Step::Follow) } else { Verdict::PASS }
}
