//! The packet programs: what happens at each hook.

use crate::event::DropReason;
use crate::flow::{Flow, flow_flags};
use crate::forward::{Action, Ingress, Verdict, connect, forward, route};
use crate::icmp;
use crate::packet::{Flows, Packet, Tables};
use crate::parse::{Layer4, Parsed, Reject, parse};
use crate::pod::{addr_kind, pod_flags};
use crate::rewrite::{Family, translate};
use crate::select::Side;
use crate::service::{Frontend, FrontendKey};
use crate::track::{is_current, touch};

/// Ingress of a pod's host-side veth: everything that a pod sends.
#[inline(always)]
pub fn from_pod<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let parsed: Parsed<A> = match parse(packet, tables) {
        Ok(parsed) => parsed,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    let now = tables.now();
    // a flow knows by which interface its packets come in: that is the anti-spoof check of a hit
    let mut opened = Flow::EMPTY;
    let flow = match flows.get(&parsed.key) {
        Some(flow) if flow.iif == ifindex && is_current(flow, &parsed, now, tables) => {
            touch(flow, &parsed, now);
            &*flow
        }
        _ => {
            let verdict = open_from_pod(flows, tables, &parsed, ifindex, &mut opened);
            if verdict.action() != Action::Translate {
                return untranslated(packet, &parsed, verdict);
            }
            &opened
        }
    };
    forward(packet, &parsed, flow)
}

/// A function of its own, with a stack of its own, of which a kernel program has 512 bytes for all that it calls.
#[inline(never)]
fn open_from_pod<A, F, T>(flows: &mut F, tables: &T, parsed: &Parsed<A>, ifindex: u32, flow: &mut Flow<A>) -> Verdict
where
    A: Family,
    F: Flows<A>,
    T: Tables<A>,
{
    let Some(pod) = tables.pod(ifindex) else { return Verdict::drop(DropReason::UnknownPod) };
    if pod.flags & pod_flags::PRESENT == 0 {
        return Verdict::drop(DropReason::UnknownPod);
    }
    if A::of_pod(pod) != parsed.key.src || parsed.key.src.is_unspecified() {
        let discovery = A::V6 && parsed.key.src.is_link_local();
        return Verdict::drop(if discovery { DropReason::ForbiddenControl } else { DropReason::Spoofed });
    }
    match ask(tables, parsed) {
        Ask::Open(frontend) => {
            connect(flows, tables, &parsed.key, frontend, Ingress { ifindex, side: Side::Internal }, flow)
        }
        Ask::Other(kind, pod) => {
            if parsed.is_syn() {
                // a new direct connection with the ports of an old one through a Service: its replies are not translated
                flows.remove(&parsed.key.reversed());
            }
            if kind == addr_kind::POD {
                return Verdict::to_pod(pod);
            }
            let uplink = tables.config().map_or(0, |c| c.uplink);
            let host = kind == addr_kind::NODE || uplink == 0 || parsed.key.dst.is_host_only();
            if host { Verdict::PASS } else { Verdict::to_uplink(uplink) }
        }
        Ask::Refused(reason) => Verdict::drop(reason),
    }
}

/// A packet without a flow goes on as it is, unless it is an error about a packet of a flow: see [`report`].
#[inline(always)]
fn untranslated<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>, verdict: Verdict) -> Verdict {
    if parsed.layer4 == Layer4::IcmpError && verdict != SPOOFED {
        return verdict.of_report();
    }
    route(packet, parsed, verdict)
}

/// An ICMP error, after another hook has found `verdict` for it as for any packet: if it is about a packet of a flow that comes in by `iif` (a
/// pod's veth; 0: any other way), it is translated and follows that flow.
///
/// A step of its own because it is rare, and the stack of a kernel program does not hold it as well.
#[inline(always)]
pub fn report<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T, iif: u32, verdict: Verdict) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let Ok(parsed) = parse::<A, P, T>(packet, tables) else { return Verdict::drop(DropReason::Malformed) };
    let translated = icmp::error(packet, flows, &parsed, iif);
    if translated.action() == Action::Translate { route(packet, &parsed, verdict) } else { translated }
}

const SPOOFED: Verdict = Verdict::drop(DropReason::Spoofed);

/// Ingress of an uplink: node ports, external addresses, replies, and packets for local pods.
#[inline(always)]
pub fn from_uplink<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let parsed: Parsed<A> = match parse(packet, tables) {
        Ok(parsed) => parsed,
        // the host's stack reassembles what is for the host
        Err(Reject::UnknownFragment) => return Verdict::PASS,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    let now = tables.now();
    let mut opened = Flow::EMPTY;
    let flow = match flows.get(&parsed.key) {
        Some(flow) if flow.iif == 0 && is_current(flow, &parsed, now, tables) => {
            touch(flow, &parsed, now);
            &*flow
        }
        _ => {
            let verdict = open_from_uplink(flows, tables, &parsed, ifindex, &mut opened);
            if verdict.action() != Action::Translate {
                return untranslated(packet, &parsed, verdict);
            }
            &opened
        }
    };
    forward(packet, &parsed, flow)
}

/// As [`open_from_pod`].
#[inline(never)]
fn open_from_uplink<A, F, T>(flows: &mut F, tables: &T, parsed: &Parsed<A>, ifindex: u32, flow: &mut Flow<A>) -> Verdict
where
    A: Family,
    F: Flows<A>,
    T: Tables<A>,
{
    match ask(tables, parsed) {
        Ask::Open(frontend) => {
            connect(flows, tables, &parsed.key, frontend, Ingress { ifindex, side: Side::External }, flow)
        }
        Ask::Other(addr_kind::POD, pod) => Verdict::to_pod(pod),
        Ask::Other(..) => Verdict::PASS,
        Ask::Refused(reason) => Verdict::drop(reason),
    }
}

/// Egress of an uplink or of a pod's host-side veth, for packets of the host's stack: replies of a backend that has the
/// node's own address get their frontend's address back.
#[inline(always)]
pub fn from_host<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let Ok(parsed) = parse::<A, P, T>(packet, tables) else { return Verdict::PASS };
    let now = tables.now();
    if let Some(flow) = flows.get(&parsed.key)
        && flow.iif == 0
        && flow.flags & flow_flags::REPLY != 0
        && is_current(flow, &parsed, now, tables)
    {
        touch(flow, &parsed, now);
        if translate(packet, &parsed, flow, false).is_none() {
            return Verdict::drop(DropReason::Rewrite);
        }
    }
    Verdict::PASS
}

/// What a packet without a flow asks for.
enum Ask<'a> {
    /// A connection through a frontend.
    Open(&'a Frontend),
    /// An address that is none of a Service: its kind, and its interface if it is a pod's.
    Other(u8, u32),
    /// What no Service offers.
    Refused(DropReason),
}

#[inline(always)]
fn ask<'a, A: Family, T: Tables<A>>(tables: &'a T, parsed: &Parsed<A>) -> Ask<'a> {
    let key = &parsed.key;
    let frontend = FrontendKey { addr: key.dst, port: key.dport, proto: key.proto, pad: 0 };
    // what opens a connection often asks for a frontend; anything else first shows what its address is
    if parsed.is_syn()
        && let Some(frontend) = tables.frontend(&frontend)
    {
        return Ask::Open(frontend);
    }
    let (kind, pod) = tables.addr(&key.dst).map_or((0, 0), |a| (a.kind, a.ifindex));
    if kind != addr_kind::SERVICE && kind != addr_kind::NODE {
        return Ask::Other(kind, pod);
    }
    if matches!(parsed.layer4, Layer4::Tcp | Layer4::Udp)
        && !parsed.is_syn()
        && let Some(frontend) = tables.frontend(&frontend)
    {
        return if parsed.is_tcp_midflow() { Ask::Refused(DropReason::NoFlow) } else { Ask::Open(frontend) };
    }
    // what is the node's own is the host's business; nobody listens on the other ports of a Service's address
    if kind == addr_kind::NODE { Ask::Other(kind, 0) } else { Ask::Refused(DropReason::NoFrontend) }
}
