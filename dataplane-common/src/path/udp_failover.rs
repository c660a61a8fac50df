//! Connected UDP sockets of the node's own processes whose backend has ended.
//!
//! A socket hook has given such a socket a backend in place of its frontend, and no hook sees what it sends. Its packets still leave the node, or
//! would, by a device: there a flow leads them to another backend, and the answers come as from the one that has ended, because the socket takes
//! them from nobody else; the hook of recvmsg(2) shows the frontend, as before. The socket is known by its cookie, so nobody else's packets
//! to the same address are touched, whoever has it now.
//!
//! SCTP goes the same way from the beginning, as no hook sees its sockets at all: its frontend is the destination of its packets.

use crate::maps::{FamilyMaps, FlowMap, SharedMaps};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{Layer4, Parsed, parse};
use crate::path::conntrack::{is_current, touch};
use crate::path::forward::forward;
use crate::path::new_connection::{FlowTarget, insert_flow_pair, to_backend};
use crate::types::event::DropReason;
use crate::types::flow::{Flow, FlowKey};
use crate::types::service::{FrontendKey, SockPeer, SockPeerKey, backend_state};
use crate::types::stage::Origin;
use crate::verdict::{Action, Verdict};

/// What the socket of a datagram was connected to, if its backend has ended since.
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
    // a host port has no backend: its pod is gone, and no other one has it
    if peer.backend == 0 || is_serving(tables, peer) { None } else { Some(peer) }
}

#[inline(always)]
fn is_serving<A, T: SharedMaps>(tables: &T, peer: &SockPeer<A>) -> bool {
    tables
        .backend(peer.backend)
        .is_some_and(|b| b.generation == peer.generation && b.state & backend_state::USABLE != 0)
}

/// [`crate::types::stage::Stage::UdpFailover`]: such a datagram, on its way out of a device.
#[inline(always)]
pub fn fail_over<A, P, F, T>(packet: &mut P, flows: &mut F, tables: &T) -> Verdict
where
    A: Family,
    P: Packet,
    F: FlowMap<A>,
    T: FamilyMaps<A>,
{
    let Ok(mut parsed) = parse::<A, P, T>(packet, tables) else { return Verdict::PASS };
    if parsed.scrub_verifier_state(packet).is_err() {
        return Verdict::PASS;
    }
    let now = tables.now();
    if let Some(flow) = flows.get(&parsed.key)
        && flow.iif == 0
        && is_current(flow, &parsed, now, tables)
    {
        touch(flow, &parsed, now, tables);
        return forward::<false, _, _, _>(packet, tables, &parsed, flow);
    }
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
    target.scrub_verifier_state(packet);
    if !target.resolve_egress_route(packet) {
        return Verdict::drop(DropReason::NoBackend);
    }
    let mut flow = Flow::EMPTY;
    // answers go to the host's stack, whose interface is 0
    let verdict = insert_flow_pair(flows, tables, &parsed.key, &target, Origin::Host, 0, &mut flow);
    if verdict.action() == Action::Translate {
        forward::<false, _, _, _>(packet, tables, &parsed, &flow)
    } else {
        verdict
    }
}

/// [`Verdict::TRANSLATE`]: to a backend of the frontend that `asked` names as its destination, in `target`. A function of its own, as [`insert_flow_pair`].
#[inline(never)]
fn to_new_backend<A: Family, T: FamilyMaps<A>>(tables: &T, asked: &FlowKey<A>, target: &mut FlowTarget<A>) -> Verdict {
    let key = FrontendKey { addr: asked.dst, port: asked.dport, proto: asked.proto, pad: 0 };
    let Some(frontend) = tables.frontend(&key) else { return Verdict::drop(DropReason::NoFrontend) };
    // the node is a client from inside the cluster, as a pod is; it can't be told that there is no backend
    // for a search of the one with the fewest connections there is no room: any one will do
    to_backend::<A, T, false>(tables, asked, frontend, Origin::Pod, target).without_stage()
}
