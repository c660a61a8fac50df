//! Connection tracking: validity of a flow for a packet, and the flow's state.
//!
//! Every hook and stage that finds a flow asks [`is_current`] before it uses the flow, and calls
//! [`touch`] afterwards. The functions read backends and the node's timeouts. They never insert or
//! remove flows.

use crate::maps::SharedMaps;
use crate::packet::parse::{FIN, Layer4, Parsed, RST, SYN};
use crate::types::flow::{Flow, flow_flags, flow_state};
use crate::types::service::backend_state;

/// Returns true if the flow may still translate this packet.
///
/// It may not if it has timed out, if its backend has ended (except TCP, which stays with it), or
/// if the packet opens a new connection that its backend would not get now. UDP does not mark new
/// connections. But a client that repeats a single datagram (DNS) from the same port has no state
/// at the backend, so an unreplied flow leaves a backend that takes no new connections.
#[inline(always)]
pub fn is_current<A, T: SharedMaps>(flow: &Flow<A>, packet: &Parsed<A>, now: u32, tables: &T) -> bool {
    let Some(config) = tables.config() else { return false };
    let tcp = matches!(packet.layer4, Layer4::Tcp);
    let limit = match (tcp, flow.state >= flow_state::CLOSING) {
        (true, false) => config.tcp_ticks,
        (true, true) => config.closing_ticks,
        (false, _) => config.udp_ticks,
    };
    if now.wrapping_sub(flow.last_seen) > limit {
        return false;
    }
    // The direction of the reply does not check the backend: answers that are under way must
    // reach the client. TCP segments stay with their backend in either direction.
    if flow.flags & flow_flags::REPLY != 0 || (tcp && !packet.is_syn()) {
        return true;
    }
    if flow.backend == 0 {
        // Host port: valid as long as the same pod is there. Masqueraded: as long as it is used.
        return flow.flags & flow_flags::TO_POD == 0
            || tables.pod(flow.oif).is_some_and(|pod| pod.netns_cookie as u32 == flow.generation);
    }
    let Some(backend) = tables.backend(flow.backend) else { return false };
    // A SYN is a new connection: the backend must take those of the client's side.
    let taken = if tcp {
        if flow.flags & flow_flags::EXTERNAL != 0 { backend_state::EXTERNAL } else { backend_state::INTERNAL }
    } else if is_unreplied(flow, packet, now, config.unreplied_ticks) {
        backend_state::ACCEPTING
    } else {
        backend_state::USABLE
    };
    backend.generation == flow.generation && backend.state & taken != 0
}

/// Returns true for a datagram after a pause in a flow that has seen single datagrams only.
#[inline(always)]
fn is_unreplied<A>(flow: &Flow<A>, packet: &Parsed<A>, now: u32, pause: u16) -> bool {
    matches!(packet.layer4, Layer4::Udp)
        && flow.state == flow_state::NEW
        && now.wrapping_sub(flow.last_seen) >= pause as u32
}

/// Updates state and time of a flow. Fields are written only if they change, so that CPUs can share
/// the cache line.
#[inline(always)]
pub fn touch<A, T: SharedMaps>(flow: &mut Flow<A>, packet: &Parsed<A>, now: u32, tables: &T) {
    let pause = now.wrapping_sub(flow.last_seen);
    if pause != 0 {
        flow.last_seen = now;
    }
    let state = match packet.layer4 {
        Layer4::Tcp if packet.tcp_flags & RST != 0 => flow_state::RESET,
        Layer4::Tcp if packet.tcp_flags & FIN != 0 => flow_state::CLOSING,
        Layer4::Tcp if packet.is_syn() => flow_state::NEW,
        // A SYN-ACK answers a client that uses the ports of a closed connection again: this
        // direction must not keep the short timeout of the old one.
        Layer4::Tcp if flow.state == flow_state::NEW || packet.tcp_flags & SYN != 0 => flow_state::ESTABLISHED,
        // Within one tick, a resolver asks for both address families: no sign of an exchange. After
        // a longer pause the datagram belongs to something else.
        Layer4::Udp if pause != 0 && tables.config().is_some_and(|c| pause <= c.assured_ticks as u32) => {
            flow_state::ESTABLISHED
        }
        _ => return,
    };
    if flow.state != state {
        flow.state = state;
    }
}
