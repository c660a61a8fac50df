//! Failover of connected UDP sockets of the node's own processes whose backend has ended.
//!
//! A socket hook has replaced the frontend by a backend at connect(2), and no socket hook sees the
//! datagrams that follow. The program at the egress of a device does: of an uplink, or of the host
//! device, to which the node's own pod blocks are routed. It opens a flow that sends the datagrams
//! to another backend. The flow translates the answers to the address of the ended backend, because
//! a connected socket accepts no other; the hook of recvmsg(2) shows the frontend as before. The
//! socket is recognized by its cookie, so packets of other sockets to the same address are not
//! touched.
//!
//! SCTP takes the same stage from its first packet, because the socket hooks do not handle it: the
//! destination of its packets is the frontend.

use crate::maps::{FamilyMaps, FlowMap, SharedMaps};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{Layer4, Parsed, parse};
use crate::path::conntrack::{is_current, touch};
use crate::path::flow_pair::{end_pair, insert_flow_pair};
use crate::path::forward::forward;
use crate::path::new_connection::{FlowTarget, to_backend};
use crate::types::event::DropReason;
use crate::types::flow::FlowKey;
use crate::types::service::{FrontendKey, SockPeer, SockPeerKey, backend_state};
use crate::types::stage::Origin;
use crate::verdict::{Action, Verdict};

/// Returns the frontend to which the socket of a datagram was connected, if its backend has ended.
#[inline(always)]
pub fn peer_of_ended_backend<'a, A, P, T>(packet: &P, tables: &'a T, parsed: &Parsed<A>) -> Option<&'a SockPeer<A>>
where
    A: Family,
    P: Packet,
    T: FamilyMaps<A>,
{
    let cookie = packet.socket_cookie();
    if cookie == 0 {
        return None;
    }
    let key = SockPeerKey { cookie, addr: parsed.key.dst, port: parsed.key.dport, pad: 0 };
    let peer = tables.sock_peer(&key)?;
    // A host port has no other backend: its pod is gone.
    if peer.backend == 0 || is_serving(tables, peer) { None } else { Some(peer) }
}

#[inline(always)]
fn is_serving<A, T: SharedMaps>(tables: &T, peer: &SockPeer<A>) -> bool {
    tables
        .backend(peer.backend)
        .is_some_and(|b| b.generation == peer.generation && b.state & backend_state::USABLE != 0)
}

/// Runs [`crate::types::stage::Stage::UdpFailover`] for a packet at egress of a device.
#[inline(always)]
pub fn fail_over<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let Ok(mut parsed) = parse::<A, P, T>(packet, tables, (Origin::Host, 0), |_| true) else { return Verdict::PASS };
    if parsed.scrub_verifier_state(packet).is_err() {
        return Verdict::PASS;
    }
    let now = tables.now();
    if let Some(flow) = flows.get(&parsed.key)
        && flow.iif == Origin::Host.iif(0)
        && is_current(flow, &parsed, now, tables)
    {
        touch(flow, &parsed, now, tables);
        return forward::<false, _, _, _>(packet, tables, &parsed, flow);
    }
    end_pair(flows, &parsed.key);
    let mut target = FlowTarget::EMPTY;
    let verdict = if parsed.layer4 == Layer4::Sctp {
        to_new_backend(tables, &parsed.key, &mut target)
    } else {
        let Some(&SockPeer { addr, port, .. }) = peer_of_ended_backend(packet, tables, &parsed) else {
            return Verdict::PASS;
        };
        to_new_backend(tables, &FlowKey { dst: addr, dport: port, ..parsed.key }, &mut target)
    };
    if verdict.action() != Action::Translate {
        return verdict;
    }
    target.complete(packet, tables);
    if !target.resolve_egress_route(packet) {
        return Verdict::drop(DropReason::NoBackend);
    }
    let mut flow = target.flow_wanted(tables, 0, &parsed.key);
    // Answers go to the host's stack, which interface 0 stands for.
    let verdict = insert_flow_pair(flows, tables, &parsed.key, &target, Origin::Host, 0, &mut flow);
    if verdict.action() == Action::Translate {
        forward::<false, _, _, _>(packet, tables, &parsed, &flow)
    } else {
        // The other stages serve packets at ingress.
        verdict.without_stage()
    }
}

/// Picks a backend of the frontend that is the destination of `asked`. With [`Verdict::TRANSLATE`]
/// it is in `target`.
///
/// Not inlined, as [`insert_flow_pair`], so that its stack frame is free again before the
/// insertion.
#[inline(never)]
fn to_new_backend<A: Family, T: FamilyMaps<A>>(tables: &T, asked: &FlowKey<A>, target: &mut FlowTarget<A>) -> Verdict {
    let key = FrontendKey { addr: asked.dst, port: asked.dport, proto: asked.proto, pad: 0 };
    let Some(frontend) = tables.frontend(&key) else { return Verdict::drop(DropReason::NoFrontend) };
    // The node is a client inside the cluster, as a pod is. It cannot be answered here, so a
    // rejection becomes a drop.
    // A search for the fewest connections does not fit into this program: any backend will do.
    to_backend::<A, T, false>(tables, asked, frontend, Origin::Pod, target).without_stage()
}
