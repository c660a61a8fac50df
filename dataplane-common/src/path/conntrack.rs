//! The flow state machine: what a packet does to the flow it belongs to, and whether it still belongs to it.

use crate::maps::SharedMaps;
use crate::packet::parse::{FIN, Layer4, Parsed, RST};
use crate::types::flow::{Flow, flow_flags, flow_state};
use crate::types::service::backend_state;

/// Whether the flow still speaks for this packet.
///
/// It does not when it has idled too long, when its backend has ended (UDP and others at once; TCP goes on, its backend knows it),
/// and when the packet opens a new connection that its backend would not be given now. With UDP nothing says so; but a client that has only asked
/// something (DNS), and now asks from the same port again, has no reason to wait for a backend that is about to end.
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
    if flow.flags & flow_flags::REPLY != 0 || (tcp && !packet.is_syn()) {
        return true;
    }
    if flow.backend == 0 {
        // to a host port: as long as it is the same pod; out of the cluster: as long as it is used
        return flow.flags & flow_flags::TO_POD == 0
            || tables.pod(flow.oif).is_some_and(|pod| pod.netns_cookie as u32 == flow.generation);
    }
    let Some(backend) = tables.backend(flow.backend) else { return false };
    let taken = if tcp {
        if flow.flags & flow_flags::EXTERNAL != 0 { backend_state::EXTERNAL } else { backend_state::INTERNAL }
    } else if is_unreplied(flow, packet, now, config.unreplied_ticks) {
        backend_state::ACCEPTING
    } else {
        backend_state::USABLE
    };
    backend.generation == flow.generation && backend.state & taken != 0
}

/// Whether a datagram asks something that has nothing to do with what was sent before it, as far as can be seen.
#[inline(always)]
fn is_unreplied<A>(flow: &Flow<A>, packet: &Parsed<A>, now: u32, pause: u16) -> bool {
    matches!(packet.layer4, Layer4::Udp)
        && flow.state == flow_state::NEW
        && now.wrapping_sub(flow.last_seen) >= pause as u32
}

/// Records the packet. Fields are written only when they change, so that the cache line stays shared.
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
        Layer4::Tcp if flow.state == flow_state::NEW => flow_state::ESTABLISHED,
        // neither so soon that both ask the same (a resolver asks for two families at once), nor so late that it is about something else
        Layer4::Udp if pause != 0 && tables.config().is_some_and(|c| pause <= c.assured_ticks as u32) => {
            flow_state::ESTABLISHED
        }
        _ => return,
    };
    if flow.state != state {
        flow.state = state;
    }
}
