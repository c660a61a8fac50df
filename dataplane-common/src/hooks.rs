//! The packet programs: what happens at each hook.

use crate::event::DropReason;
use crate::flow::flow_flags;
use crate::forward::{Ingress, Next, Verdict, connect, drop, forward, route, translate};
use crate::packet::{Flows, Packet, Tables};
use crate::parse::{Layer4, Parsed, Reject, parse};
use crate::pod::{addr_kind, pod_flags};
use crate::rewrite::Family;
use crate::select::Side;
use crate::service::FrontendKey;
use crate::track::{is_current, touch};

/// Ingress of a pod's host-side veth: everything that a pod sends.
#[inline(always)]
pub fn from_pod<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &mut T, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let parsed: Parsed<A> = match parse(packet, tables) {
        Ok(parsed) => parsed,
        Err(reject) => return Verdict::Drop(reject.into()),
    };
    let now = tables.now();
    let mut flow = flows.get(&parsed.key);
    // a flow knows by which interface its packets come in: that is the anti-spoof check of a hit
    if !flow.as_ref().is_some_and(|flow| flow.iif == ifindex && is_current(flow, &parsed, now, tables)) {
        match open_from_pod(flows, tables, &parsed, ifindex) {
            Next::Untranslated(verdict) => return route::<A, P>(packet, verdict),
            Next::Translate => flow = flows.get(&parsed.key),
        }
    }
    let Some(flow) = flow else { return Verdict::Drop(DropReason::FlowTableFull) };
    touch(flow, &parsed, now);
    forward(packet, &parsed, flow)
}

/// A function of its own, with a stack of its own, of which a kernel program has 512 bytes for all that it calls.
#[inline(never)]
fn open_from_pod<A, F, T>(flows: &mut F, tables: &mut T, parsed: &Parsed<A>, ifindex: u32) -> Next
where
    A: Family,
    F: Flows<A>,
    T: Tables<A>,
{
    let Some(pod) = tables.pod(ifindex) else { return drop(DropReason::UnknownPod) };
    if pod.flags & pod_flags::PRESENT == 0 {
        return drop(DropReason::UnknownPod);
    }
    if A::of_pod(pod) != parsed.key.src || parsed.key.src.is_unspecified() {
        let discovery = A::V6 && parsed.key.src.is_link_local();
        return drop(if discovery { DropReason::ForbiddenControl } else { DropReason::Spoofed });
    }
    let (kind, pod) = tables.addr(&parsed.key.dst).map_or((0, 0), |a| (a.kind, a.ifindex));
    if kind == addr_kind::SERVICE || kind == addr_kind::NODE {
        return service(flows, tables, parsed, kind, Ingress { ifindex, side: Side::Internal });
    }
    if parsed.is_syn() {
        // a new direct connection with the ports of an old one through a Service: its replies are not translated
        flows.remove(&parsed.key.reversed());
    }
    if kind == addr_kind::POD {
        return Next::Untranslated(Verdict::ToPod(pod));
    }
    let uplink = tables.config().map_or(0, |c| c.uplink);
    let host = uplink == 0 || parsed.key.dst.is_host_only();
    Next::Untranslated(if host { Verdict::Pass } else { Verdict::ToUplink(uplink) })
}

/// Ingress of an uplink: node ports, external addresses, replies, and packets for local pods.
#[inline(always)]
pub fn from_uplink<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &mut T, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let parsed: Parsed<A> = match parse(packet, tables) {
        Ok(parsed) => parsed,
        // the host's stack reassembles what is for the host
        Err(Reject::UnknownFragment) => return Verdict::Pass,
        Err(reject) => return Verdict::Drop(reject.into()),
    };
    let now = tables.now();
    let mut flow = flows.get(&parsed.key);
    if !flow.as_ref().is_some_and(|flow| flow.iif == 0 && is_current(flow, &parsed, now, tables)) {
        match open_from_uplink(flows, tables, &parsed, ifindex) {
            Next::Untranslated(verdict) => return route::<A, P>(packet, verdict),
            Next::Translate => flow = flows.get(&parsed.key),
        }
    }
    let Some(flow) = flow else { return Verdict::Drop(DropReason::FlowTableFull) };
    touch(flow, &parsed, now);
    forward(packet, &parsed, flow)
}

/// As [`open_from_pod`].
#[inline(never)]
fn open_from_uplink<A, F, T>(flows: &mut F, tables: &mut T, parsed: &Parsed<A>, ifindex: u32) -> Next
where
    A: Family,
    F: Flows<A>,
    T: Tables<A>,
{
    let (kind, pod) = tables.addr(&parsed.key.dst).map_or((0, 0), |a| (a.kind, a.ifindex));
    match kind {
        addr_kind::POD => Next::Untranslated(Verdict::ToPod(pod)),
        addr_kind::SERVICE | addr_kind::NODE => {
            service(flows, tables, parsed, kind, Ingress { ifindex, side: Side::External })
        }
        _ => Next::Untranslated(Verdict::Pass),
    }
}

/// Egress of an uplink or of a pod's host-side veth, for packets of the host's stack: replies of a backend that has the
/// node's own address get their frontend's address back.
#[inline(always)]
pub fn from_host<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &mut T) -> Verdict
where
    A: Family,
    P: Packet,
    F: Flows<A>,
    T: Tables<A>,
{
    let Ok(parsed) = parse::<A, P, T>(packet, tables) else { return Verdict::Pass };
    let now = tables.now();
    if let Some(flow) = flows.get(&parsed.key)
        && flow.iif == 0
        && flow.flags & flow_flags::REPLY != 0
        && is_current(flow, &parsed, now, tables)
    {
        touch(flow, &parsed, now);
        if translate(packet, &parsed, flow).is_none() {
            return Verdict::Drop(DropReason::Rewrite);
        }
    }
    Verdict::Pass
}

/// A packet to an address that can have frontends.
#[inline(always)]
fn service<A, F, T>(flows: &mut F, tables: &mut T, parsed: &Parsed<A>, kind: u8, ingress: Ingress) -> Next
where
    A: Family,
    F: Flows<A>,
    T: Tables<A>,
{
    let key = &parsed.key;
    let frontend = FrontendKey { addr: key.dst, port: key.dport, proto: key.proto, pad: 0 };
    if matches!(parsed.layer4, Layer4::Tcp | Layer4::Udp)
        && let Some(&frontend) = tables.frontend(&frontend)
    {
        if parsed.is_tcp_midflow() {
            return drop(DropReason::NoFlow);
        }
        return connect(flows, tables, key, &frontend, ingress);
    }
    // what is the node's own is the host's business; nobody listens on the other ports of a Service's address
    if kind == addr_kind::NODE { Next::Untranslated(Verdict::Pass) } else { drop(DropReason::NoFrontend) }
}
