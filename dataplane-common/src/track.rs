//! The flow state machine: what a packet does to the flow it belongs to, and whether it still belongs to it.

use crate::flow::{Flow, flow_flags, flow_state};
use crate::packet::Node;
use crate::parse::{FIN, Layer4, Parsed, RST};
use crate::service::backend_state;

/// Whether the flow still speaks for this packet.
///
/// It does not when it has idled too long, when its backend has ended (UDP and others at once; TCP goes on, its backend knows it),
/// and when the packet opens a new connection that its backend would not be given now.
#[inline(always)]
pub fn is_current<A, T: Node>(flow: &Flow<A>, packet: &Parsed<A>, now: u32, tables: &T) -> bool {
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
    let taken = if !tcp {
        backend_state::USED
    } else if flow.flags & flow_flags::EXTERNAL != 0 {
        backend_state::EXTERNAL
    } else {
        backend_state::INTERNAL
    };
    backend.generation == flow.generation && backend.state & taken != 0
}

/// Records the packet. Fields are written only when they change, so that the cache line stays shared.
#[inline(always)]
pub fn touch<A>(flow: &mut Flow<A>, packet: &Parsed<A>, now: u32) {
    if flow.last_seen != now {
        flow.last_seen = now;
    }
    let state = if packet.tcp_flags & RST != 0 {
        flow_state::RESET
    } else if packet.tcp_flags & FIN != 0 {
        flow_state::CLOSING
    } else if packet.is_syn() {
        flow_state::NEW
    } else {
        return establish(flow);
    };
    if flow.state != state {
        flow.state = state;
    }
}

#[inline(always)]
fn establish<A>(flow: &mut Flow<A>) {
    if flow.state == flow_state::NEW {
        flow.state = flow_state::ESTABLISHED;
    }
}
