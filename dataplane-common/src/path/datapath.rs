//! The packet path at the tc hooks, and the stages that open flows.
//!
//! The entry programs handle established flows and packets that pass through. Everything else runs
//! in a tail call ([`Stage`]), which has to parse the packet again because a tail call keeps no
//! state. `dataplane-ebpf/src/programs.rs` and the tests call these functions. They return a
//! [`Verdict`] and leave its execution to the caller.

use crate::balance::select::host_port;
use crate::maps::{FamilyMaps, FlowMap, SharedMaps};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{Layer4, Parsed, parse, parse_again};
use crate::packet::rewrite::translate;
use crate::path::conntrack::{is_current, needs_recheck, touch};
use crate::path::flow_pair::{NO_PORT, attempt, insert_flow_pair};
use crate::path::flow_share::{is_surplus, replace_oldest, ring_of};
use crate::path::forward::{forward, route, via_sctp_stage};
use crate::path::icmp_error;
use crate::path::new_connection::{FlowTarget, egress, masquerade, to_backend, to_host_port, translate_port};
use crate::path::sender::{MARTIAN, SPOOFED, TUNNEL_SENDER, check_addresses, check_source_mac, is_tunnel_port};
use crate::path::udp_failover::peer_of_ended_backend;
use crate::policy::{is_ingress_isolated, is_policed};
use crate::types::event::{DropReason, ParseError};
use crate::types::flow::{Flow, flow_flags};
use crate::types::pod::{address_kind, node_features, pod_flags};
use crate::types::service::{Frontend, FrontendKey, scheduler};
use crate::types::stage::{Origin, Stage};
use crate::verdict::{Action, Verdict};

/// Handles ingress of a pod's host-side veth (everything that a pod sends) or of an uplink (node
/// ports, external addresses, replies, packets to local pods).
#[inline(always)]
pub fn ingress<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T, origin: Origin, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let mut iif = origin.iif(ifindex);
    if matches!(origin, Origin::Pod) {
        match check_source_mac(packet, tables, ifindex) {
            Ok(pod) => iif = pod.device(ifindex),
            Err(verdict) => return verdict,
        }
    } else if !packet.is_for_this_host() {
        // A broadcast, or another machine's frame on a promiscuous device. Only the host's stack
        // knows what it may do with it; it does not forward it.
        return Verdict::PASS;
    }
    let is_believed = |parsed: &Parsed<A>| check_addresses(tables, parsed, origin, ifindex) == Verdict::PASS;
    let parsed: Parsed<A> = match parse(packet, tables, (origin, ifindex), is_believed) {
        Ok(parsed) => parsed,
        // The host's stack reassembles datagrams for the host.
        Err(ParseError::UnknownFragment) if matches!(origin, Origin::Uplink) => return Verdict::PASS,
        Err(ParseError::ForgedFragment) if matches!(origin, Origin::Uplink) => return MARTIAN,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    let now = tables.now();
    // A flow records the interface by which its packets arrive: with the source MAC, that is the
    // anti-spoofing check of an established flow, without a second lookup.
    if let Some(flow) = flows.get(&parsed.key) {
        if flow.iif == iif && is_current(flow, &parsed, now, tables) {
            if needs_recheck(flow, &parsed, tables) {
                return Verdict::PASS.then(Stage::Recheck);
            }
            touch(flow, &parsed, now, tables);
            return forward::<true, _, _, _>(packet, tables, &parsed, flow);
        }
        if parsed.is_syn() || matches!(parsed.layer4, Layer4::Udp | Layer4::Sctp | Layer4::Icmp) {
            packet.set_scratch(attempt::FIRST);
            return Verdict::PASS.then(Stage::PortReuse);
        }
    }
    packet.set_scratch(attempt::FIRST);
    // A SYN usually goes to a frontend, so the stage is the likely result and its two lookups are
    // saved here. Other packets are classified by their destination first.
    if parsed.is_syn() {
        return Verdict::PASS.then(Stage::NewConnection);
    }
    // From here on no valid flow translates the packet.
    let verdict = check_addresses(tables, &parsed, origin, ifindex);
    let verdict = if verdict == Verdict::PASS { miss(flows, tables, &parsed, origin, ifindex) } else { verdict };
    match verdict.stage() {
        // The stage applies this verdict if the error quotes no packet of a flow. A spoofed error
        // is never translated.
        None if parsed.layer4 == Layer4::IcmpError && verdict != SPOOFED && verdict != MARTIAN => {
            verdict.then(Stage::IcmpError)
        }
        None if may_be_judged(tables, origin, ifindex, verdict) => verdict.then(Stage::Judge),
        None => route(packet, tables, &parsed, verdict),
        Some(_) => verdict,
    }
}

/// Returns true if network policy may apply to a packet without a flow that gets this verdict.
#[inline(always)]
fn may_be_judged<T: SharedMaps>(tables: &T, origin: Origin, ifindex: u32, verdict: Verdict) -> bool {
    let sender = if matches!(origin, Origin::Pod) { ifindex } else { 0 };
    verdict.action() != Action::Drop && is_policed(tables, [sender, verdict.pod()])
}

/// Handles a packet of a believed sender that has no flow and does not open a TCP connection.
///
/// Not inlined: its locals and those of the established path do not fit into 512 bytes of stack
/// together. A call has a frame of its own, which exists only while it runs.
#[inline(never)]
fn miss<A, F, T>(flows: &mut F, tables: &T, parsed: &Parsed<A>, origin: Origin, ifindex: u32) -> Verdict
where
    A: Family,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let (kind, into) = classify(tables, &parsed.key.dst);
    let datagram = matches!(parsed.layer4, Layer4::Udp | Layer4::Sctp);
    // To any address but a pod's: the node has more than the maps know, and unpacks at all of them.
    if matches!(origin, Origin::Uplink)
        && kind != address_kind::POD
        && is_tunnel_port(tables, parsed.key.proto, parsed.key.dport)
    {
        return Verdict::PASS.then(Stage::TunnelSource);
    }
    match kind {
        address_kind::SERVICE | address_kind::NODE | address_kind::EXTERNAL if datagram => {
            Verdict::PASS.then(Stage::NewConnection)
        }
        address_kind::SERVICE | address_kind::EXTERNAL
            if parsed.is_tcp_midflow() && tables.frontend(&frontend_key(parsed)).is_some() =>
        {
            Verdict::drop(DropReason::NoFlow)
        }
        // A Service owns all ports of its cluster IP, so no process can listen on the others.
        address_kind::SERVICE if parsed.is_tcp_midflow() || parsed.layer4 == Layer4::Icmp => {
            Verdict::reject(DropReason::NoFrontend)
        }
        address_kind::SERVICE => Verdict::drop(DropReason::NoFrontend),
        // The node's own traffic, including connections to node ports from before Ropeway was
        // installed. The host's stack knows them, or resets them.
        address_kind::NODE => Verdict::PASS,
        _ if are_answers_translated(flows, parsed) => Verdict::PASS.then(Stage::PortReuse),
        _ => forward_untranslated(tables, parsed, origin, ifindex, (kind, into)),
    }
}

/// Returns the role of an address, and the verdict that delivers to it if it is a pod's.
#[inline(always)]
fn classify<A: Family, T: FamilyMaps<A>>(tables: &T, addr: &A) -> (u8, Verdict) {
    tables.address(addr).map_or((0, Verdict::PASS), |addr| (addr.kind, Verdict::to_pod_of(&addr)))
}

/// Handles a packet to an address that is neither a Service's nor the node's.
///
/// A verdict with [`Stage::NewConnection`] means: send by this device, masqueraded as the node.
#[inline(always)]
fn forward_untranslated<A, T>(
    tables: &T,
    parsed: &Parsed<A>,
    origin: Origin,
    ifindex: u32,
    (kind, into): (u8, Verdict),
) -> Verdict
where
    A: Family,
    T: FamilyMaps<A>,
{
    if kind == address_kind::POD {
        let by_host = tables.config().is_some_and(|c| c.features & node_features::HOST_ROUTING != 0);
        return if by_host { Verdict::PASS } else { into };
    }
    if parsed.key.dst.is_host_only() {
        return Verdict::PASS;
    }
    let route = egress(tables, &parsed.key.dst);
    if route.unallocated {
        return Verdict::drop(DropReason::UnallocatedAddress);
    }
    if matches!(origin, Origin::Uplink) {
        return Verdict::PASS;
    }
    if route.own {
        // The node's own packets are routed here only if the address has no pod.
        let from_node = tables.pod(ifindex).is_some_and(|pod| pod.flags & pod_flags::NODE != 0);
        return if from_node { Verdict::reject(DropReason::UnallocatedAddress) } else { Verdict::PASS };
    }
    if route.masquerade && parsed.layer4 != Layer4::IcmpError {
        return Verdict::to_uplink(route.oif).then(Stage::NewConnection);
    }
    if route.oif == 0 { Verdict::PASS } else { Verdict::to_uplink(route.oif) }
}

/// Returns true if a packet opens a connection, and a flow would translate the answers to it.
///
/// Not inlined: the reversed key needs a stack frame of its own.
#[inline(never)]
fn are_answers_translated<A: Family, F: FlowMap<A>>(flows: &mut F, parsed: &Parsed<A>) -> bool {
    let translated_reply = flow_flags::REPLY | flow_flags::UNTRANSLATED;
    let opens = parsed.is_syn() || matches!(parsed.layer4, Layer4::Udp | Layer4::Sctp);
    opens && flows.get(&parsed.key.reversed()).is_some_and(|flow| flow.flags & translated_reply == flow_flags::REPLY)
}

#[inline(always)]
fn frontend_key<A: Family>(parsed: &Parsed<A>) -> FrontendKey<A> {
    FrontendKey { addr: parsed.key.dst, port: parsed.key.dport, proto: parsed.key.proto, pad: 0 }
}

/// Runs [`Stage::NewConnection`]: a packet without a flow that opens a connection, or may open one.
/// With `COUNTS` runs [`Stage::LeastConnections`], for frontends whose scheduler compares
/// connection counts.
///
/// The scratch word of the packet holds bits of [`attempt`].
///
/// Two stages, because the search for the least loaded backend and the rest of the path exceed the
/// verifier's budget and the stack of one program.
#[inline(always)]
pub fn new_connection<A, P, F, T, const COUNTS: bool>(
    packet: &mut P,
    flows: &mut F,
    tables: &T,
    origin: Origin,
    ifindex: u32,
) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let mut parsed = Parsed::<A>::EMPTY;
    if let Err(reject) = parse_again(packet, tables, (origin, ifindex), &mut parsed) {
        return Verdict::drop(reject);
    }
    // The other stage gets its packets from this one. Here and not in the functions below, whose
    // stack frames leave no room for its own.
    let verdict = if COUNTS { Verdict::PASS } else { check_addresses(tables, &parsed, origin, ifindex) };
    if verdict != Verdict::PASS {
        return verdict;
    }
    let frontend = requested_frontend(tables, &parsed);
    // The frontend belongs to the other stage. In this one that can only be because the agent has
    // changed the scheduler in between.
    if COUNTS != frontend.is_some_and(|frontend| scheduler::counts_connections(frontend.scheduler)) {
        return Verdict::PASS.then(if COUNTS { Stage::NewConnection } else { Stage::LeastConnections });
    }
    let mut target = FlowTarget::EMPTY;
    let verdict = if let Some(frontend) = frontend {
        if COUNTS {
            // First, while the frame of this function holds little: the search needs a large one.
            target.find_least_loaded(tables, frontend, origin);
            // The side of the client has been decided on, and is decided on again below.
            target.scrub_verifier_state(packet);
        }
        connect_backend::<A, T, COUNTS>(tables, &parsed, frontend, origin, &mut target)
    } else if packet.scratch() & attempt::CHECKED == 0 && are_answers_translated(flows, &parsed) {
        Verdict::PASS.then(Stage::PortReuse)
    } else {
        let translates_port = packet.scratch() & attempt::TRANSLATE_PORT != 0;
        connect_other(tables, &parsed, origin, ifindex, translates_port, &mut target)
    };
    // Many branches end here. What follows is explored once for each state that differs.
    let verdict = verdict.scrub_verifier_state(packet);
    if verdict.stage().is_some() {
        return verdict;
    }
    if verdict.action() != Action::Translate {
        // A packet to a frontend is translated or ends here.
        if COUNTS {
            return verdict;
        }
        if may_be_judged(tables, origin, ifindex, verdict) {
            return verdict.then(Stage::Judge);
        }
        return route(packet, tables, &parsed, verdict);
    }
    let sender = if matches!(origin, Origin::Pod) { ifindex } else { 0 };
    if is_policed(tables, [sender, target.pod()]) {
        return Verdict::judge(target.backend);
    }
    if matches!(origin, Origin::Uplink) {
        target.protect_untracked(tables, &parsed.key.src);
    }
    target.complete(packet, tables);
    target.resolve_route(packet);
    // The branches above have fixed the origin, and each value would be explored separately.
    let origin = Origin::from_number(packet.scrub_verifier_state(origin as u32));
    // The agent raises the epoch when no program runs any more that has seen the rules before.
    let mut flow = target.flow_wanted(tables, packet.scratch(), &parsed.key);
    let verdict = open_flow_pair(packet, flows, tables, &parsed, &target, (origin, ifindex), &mut flow);
    if verdict.action() == Action::Translate {
        forward::<false, _, _, _>(packet, tables, &parsed, &flow)
    } else {
        verdict
    }
}

/// Inserts the pair of a new connection, and charges it to its sender. `flow`: as of
/// [`insert_flow_pair`]. Any result but [`Verdict::TRANSLATE`] is that of the stage.
#[inline(always)]
pub(super) fn open_flow_pair<A, P, F, T>(
    packet: &mut P,
    flows: &mut F,
    tables: &T,
    parsed: &Parsed<A>,
    target: &FlowTarget<A>,
    (origin, ifindex): (Origin, u32),
    flow: &mut Flow<A>,
) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let verdict = insert_flow_pair(flows, tables, &parsed.key, target, origin, ifindex, flow);
    if verdict.action() == Action::Translate {
        if is_surplus(tables, &parsed.key.src, flow) {
            replace_oldest(flows, tables, &parsed.key, ring_of(flow));
        }
        return verdict;
    }
    if verdict == NO_PORT && packet.scratch() & attempt::SEARCHES != attempt::SEARCHES {
        let earlier = packet.scratch() & (attempt::FROM_NODE - 1);
        packet.set_scratch(earlier + attempt::SEARCH + target.searched() + ((flow.dport as u32) << attempt::PORT));
        return Verdict::take_port(target.backend);
    }
    packet.set_scratch(attempt::FAILED);
    verdict
}

/// Returns the frontend that a packet is sent to.
///
/// Not inlined, like the next two functions and [`insert_flow_pair`]: each has a stack frame of its
/// own, and only one of them is live at a time.
#[inline(never)]
fn requested_frontend<'a, A: Family, T: FamilyMaps<A>>(tables: &'a T, parsed: &Parsed<A>) -> Option<&'a Frontend> {
    let ported = matches!(parsed.layer4, Layer4::Tcp | Layer4::Udp | Layer4::Sctp);
    if ported { tables.frontend(&frontend_key(parsed)) } else { None }
}

/// Picks a backend of the frontend. With [`Verdict::TRANSLATE`] it is in `target`.
#[inline(never)]
fn connect_backend<A: Family, T: FamilyMaps<A>, const COUNTS: bool>(
    tables: &T,
    parsed: &Parsed<A>,
    frontend: &Frontend,
    origin: Origin,
    target: &mut FlowTarget<A>,
) -> Verdict {
    let verdict = to_backend::<A, T, COUNTS>(tables, &parsed.key, frontend, origin, target);
    // A tenant chooses the endpoints of a Service, also a node with the tunnel's port.
    if is_tunnel_port(tables, parsed.key.proto, target.port()) { TUNNEL_SENDER } else { verdict }
}

/// Handles a new connection to anything but a frontend: a host port, a destination outside the
/// cluster that is masqueraded, or one whose answers a flow of another connection would translate.
/// With [`Verdict::TRANSLATE`] the destination is in `target`.
#[inline(never)]
pub(super) fn connect_other<A, T>(
    tables: &T,
    parsed: &Parsed<A>,
    origin: Origin,
    ifindex: u32,
    translates_port: bool,
    target: &mut FlowTarget<A>,
) -> Verdict
where
    A: Family,
    T: FamilyMaps<A>,
{
    let key = frontend_key(parsed);
    let ported = matches!(parsed.layer4, Layer4::Tcp | Layer4::Udp | Layer4::Sctp);
    let (kind, into) = classify(tables, &parsed.key.dst);
    let verdict = match kind {
        address_kind::SERVICE => return Verdict::reject(DropReason::NoFrontend),
        address_kind::NODE => match host_port(tables, key.addr, key.port, key.proto) {
            Some(host_port) => return to_host_port(tables, &parsed.key, host_port, target),
            None => Verdict::PASS,
        },
        _ => forward_untranslated(tables, parsed, origin, ifindex, (kind, into)),
    };
    if verdict.stage() == Some(Stage::NewConnection) {
        if !ported && parsed.layer4 != Layer4::Icmp {
            return Verdict::drop(DropReason::NotTranslatable);
        }
        return masquerade(tables, &parsed.key, verdict.ifindex(), target);
    }
    if translates_port { translate_port(tables, &parsed.key, verdict, target) } else { verdict }
}

/// Runs [`Stage::IcmpError`]. If the error is about a packet of a flow, both are translated and the
/// error follows that flow. Otherwise `verdict` applies: the calling program has computed it for
/// the untranslated packet.
#[inline(always)]
pub fn icmp_error<A, P, F, T>(
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
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let Ok(parsed) = parse::<A, P, T>(packet, tables, (origin, ifindex), |_| true) else {
        return Verdict::drop(DropReason::Malformed);
    };
    let translated = icmp_error::translate_error(packet, flows, tables, &parsed, origin, ifindex);
    match (translated.action() == Action::Translate, origin) {
        (true, Origin::Host) if is_policed(tables, [ifindex, 0]) => Verdict::PASS.then(Stage::Deliver),
        (true, Origin::Host) => Verdict::PASS,
        (true, _) if may_be_judged(tables, origin, ifindex, verdict) => verdict.then(Stage::Judge),
        (true, _) => route(packet, tables, &parsed, verdict),
        (false, _) => translated,
    }
}

/// Handles egress of an uplink or of a pod's host-side veth, for packets of the host's stack.
///
/// Replies of a backend with the node's own address get the frontend's address back. Datagrams of a
/// connected socket whose backend has ended get another backend. With `LEAVES` (an uplink), SCTP to
/// a frontend gets a backend.
#[inline(always)]
pub fn from_host<A, P, F, T, const LEAVES: bool>(packet: &mut P, flows: &mut F, tables: &T, ifindex: u32) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let parsed: Parsed<A> = match parse(packet, tables, (Origin::Host, 0), |_| true) {
        Ok(parsed) => parsed,
        // The rules cannot say anything about it, so only the node itself may send it to the pod.
        Err(reject) if !LEAVES && packet.ingress_ifindex() != 0 && is_ingress_isolated(tables, ifindex) => {
            return Verdict::drop(reject.into());
        }
        Err(_) => return Verdict::PASS,
    };
    if parsed.layer4 == Layer4::IcmpError {
        return Verdict::PASS.then(Stage::IcmpError);
    }
    let now = tables.now();
    if let Some(flow) = flows.get(&parsed.key)
        && flow.iif == Origin::Host.iif(0)
        && flow.flags & flow_flags::REPLY != 0
        && is_current(flow, &parsed, now, tables)
    {
        if !LEAVES && needs_recheck(flow, &parsed, tables) {
            return Verdict::PASS.then(Stage::Recheck);
        }
        touch(flow, &parsed, now, tables);
        if translate::<false, _, _>(packet, &parsed, flow, false).is_none() {
            return Verdict::drop(DropReason::Rewrite);
        }
        return via_sctp_stage(&parsed, Verdict::PASS);
    }
    let fails_over = match parsed.layer4 {
        Layer4::Udp => peer_of_ended_backend(packet, tables, &parsed).is_some(),
        // The socket hooks do not handle SCTP. What goes to external addresses leaves here; cluster
        // IPs are routed to the host device, whose programs run at ingress.
        Layer4::Sctp if LEAVES => tables.frontend(&frontend_key(&parsed)).is_some(),
        _ => false,
    };
    if fails_over {
        Verdict::PASS.then(Stage::UdpFailover)
    } else if !LEAVES && is_policed(tables, [ifindex, 0]) {
        Verdict::PASS.then(Stage::Deliver)
    } else {
        Verdict::PASS
    }
}
