//! Connection tracking: validity of a flow for a packet, and the flow's state.
//!
//! Every hook and stage that finds a flow asks [`is_current`] before it uses the flow, and calls
//! [`touch`] afterwards. The functions read backends and the node's timeouts. They never insert or
//! remove flows.

use crate::maps::SharedMaps;
use crate::packet::parse::{ACK, FIN, Layer4, Parsed, RST, SYN};
use crate::types::flow::{Flow, flow_flags, flow_state};
use crate::types::pod::{NodeConfig, node_features};
use crate::types::service::{backend_state, proto};
use crate::types::stage::Origin;

/// Returns true if the flow may still translate this packet.
///
/// It may not if it has timed out, if its backend has ended (except TCP, which stays with it), or
/// if the packet opens a new connection that its backend would not get now. UDP does not mark new
/// connections. But a client that repeats a single datagram (DNS) from the same port has no state
/// at the backend, so an unreplied flow leaves a backend that takes no new connections.
#[inline(always)]
pub fn is_current<A: Copy, T: SharedMaps>(flow: &Flow<A>, packet: &Parsed<A>, now: u32, tables: &T) -> bool {
    let Some(config) = tables.config() else { return false };
    let tcp = matches!(packet.layer4, Layer4::Tcp);
    let limit = match (tcp, flow.state >= flow_state::CLOSING) {
        (true, false) => config.tcp_ticks,
        (true, true) => config.closing_ticks,
        (false, _) => config.udp_ticks,
    };
    if idle_ticks(now, flow.last_seen) > limit {
        return false;
    }
    if !is_pod_present(flow, tables) {
        return false;
    }
    // The direction of the reply does not check the backend: answers that are under way must
    // reach the client. TCP segments stay with their backend in either direction.
    if flow.flags & flow_flags::REPLY != 0 || (tcp && !packet.is_syn()) {
        return true;
    }
    if flow.backend == 0 {
        // A host port, or masqueraded: valid as long as it is used.
        return true;
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

/// Returns true if network policy has to decide about a flow's connection again: a rule has changed
/// since, or the packet opens a connection in the direction of the replies.
#[inline(always)]
#[must_use]
pub fn needs_recheck<A, T: SharedMaps>(flow: &Flow<A>, packet: &Parsed<A>, tables: &T) -> bool {
    let Some(config) = tables.config() else { return false };
    // One number, because the verifier would follow each comparison.
    let is_reply = (flow.flags & flow_flags::REPLY) as u32 / flow_flags::REPLY as u32;
    let opens = (packet.is_syn() as u32) & is_reply & (config.features / node_features::POLICY);
    (flow.epoch ^ config.policy_epoch) | opens != 0
}

/// Returns false if a flow leads to a pod that is gone. The interface index may be another pod's
/// now.
#[inline(always)]
#[must_use]
pub fn is_pod_present<A: Copy, T: SharedMaps>(flow: &Flow<A>, tables: &T) -> bool {
    let ifindex = flow.egress_ifindex();
    flow.flags & flow_flags::TO_POD == 0 || device(tables, ifindex) == flow.oif
}

/// Returns [`Pod::device`] of an interface index; the index itself if no pod has it.
///
/// [`Pod::device`]: crate::types::pod::Pod::device
#[inline(always)]
#[must_use]
pub fn device<T: SharedMaps>(tables: &T, ifindex: u32) -> u32 {
    tables.pod(ifindex).map_or(ifindex, |pod| pod.device(ifindex))
}

/// Returns [`Flow::iif`] for a packet that arrives here.
#[inline(always)]
#[must_use]
pub fn arrival<T: SharedMaps>(tables: &T, origin: Origin, ifindex: u32) -> u32 {
    if matches!(origin, Origin::Pod) { device(tables, ifindex) } else { origin.iif(ifindex) }
}

/// Returns the time since a flow was used, in ticks. Another CPU may have used it in a later tick
/// than `now`, which counts as 0.
#[inline(always)]
#[must_use]
pub const fn idle_ticks(now: u32, last_seen: u32) -> u32 {
    let idle = now.wrapping_sub(last_seen);
    if idle > u32::MAX / 2 { 0 } else { idle }
}

/// Returns the number of ticks for which a pair with these states is kept without a packet in
/// either direction. One closing direction closes the pair.
#[inline(always)]
#[must_use]
pub const fn pair_timeout(protocol: u8, there: u8, back: u8, config: &NodeConfig) -> u32 {
    if protocol != proto::TCP {
        config.udp_ticks
    } else if there == flow_state::NEW || there >= flow_state::CLOSING || back >= flow_state::CLOSING {
        config.closing_ticks
    } else {
        config.tcp_ticks
    }
}

/// Returns the number of ticks after which a pair without a packet gives its port to another
/// connection, if no port is free. The agent removes pairs by the same rule: those that have closed
/// after a twelfth of the closing timeout, half-open ones and single datagrams after half of it.
#[inline(always)]
#[must_use]
pub const fn port_timeout(protocol: u8, there: u8, back: u8, config: &NodeConfig) -> u32 {
    let (tcp, closing) = (protocol == proto::TCP, config.closing_ticks);
    let has_closed = there >= flow_state::CLOSING && back >= flow_state::CLOSING;
    if tcp && (has_closed || there == flow_state::RESET || back == flow_state::RESET) {
        return closing.div_ceil(12);
    }
    let limit = pair_timeout(protocol, there, back, config);
    let half = closing.div_ceil(2);
    // No state is recorded of SCTP, whose associations are idle between heartbeats.
    let is_half_open = there == flow_state::NEW && protocol != proto::SCTP && (tcp || back == flow_state::NEW);
    if is_half_open && half < limit { half } else { limit }
}

/// Returns true if a flow leads to a backend that still serves its connections.
#[inline(always)]
pub fn is_served<A, T: SharedMaps>(flow: &Flow<A>, tables: &T) -> bool {
    let backend = tables.backend(flow.backend);
    backend.is_some_and(|b| b.generation == flow.generation && b.state & backend_state::USABLE != 0)
}

/// Returns true for a datagram after a pause in a flow that has seen single datagrams only.
#[inline(always)]
fn is_unreplied<A>(flow: &Flow<A>, packet: &Parsed<A>, now: u32, pause: u16) -> bool {
    matches!(packet.layer4, Layer4::Udp)
        && flow.state == flow_state::NEW
        && now.wrapping_sub(flow.last_seen) >= pause as u32
}

/// Distance from a direction's newest sequence number, in units of 65,536, within which a RST or
/// FIN is its sender's: 512 KiB, the longest segment of `BIG TCP` (`GSO_MAX_SIZE`).
const NEAR: u16 = 8;

/// Updates state and time of a flow. Fields are written only if they change, so that CPUs can share
/// the cache line.
#[inline(always)]
pub fn touch<A, T: SharedMaps>(flow: &mut Flow<A>, packet: &Parsed<A>, now: u32, tables: &T) {
    let pause = now.wrapping_sub(flow.last_seen);
    if pause != 0 {
        flow.last_seen = now;
    }
    let (state, seq) = match packet.layer4 {
        Layer4::Tcp => (tcp_state(flow, packet), packet.seq),
        // Within one tick, a resolver asks for both address families: no sign of an exchange. After
        // a longer pause the datagram belongs to something else.
        Layer4::Udp if pause != 0 && tables.config().is_some_and(|c| pause <= c.assured_ticks as u32) => {
            (flow_state::ESTABLISHED, 0)
        }
        _ => return,
    };
    if state == IGNORED {
        return;
    }
    if flow.seq != seq {
        flow.seq = seq;
    }
    if flow.state != state {
        flow.state = state;
    }
}

/// The result of [`tcp_state`] for a segment that changes nothing.
const IGNORED: u8 = u8::MAX;

/// Returns the state of a direction after a TCP segment. The first one after the SYN sets the
/// sequence number to which others are compared.
///
/// Source addresses can be forged, so one segment must not end a connection that lives. A RST or
/// FIN counts only near the newest sequence number. A SYN does not bring an established connection
/// back to its beginning. If the newest number was forged itself, the sender's next segment is far
/// from it, and takes the state back.
#[inline(always)]
fn tcp_state<A>(flow: &Flow<A>, packet: &Parsed<A>) -> u8 {
    let is_near = packet.seq.wrapping_sub(flow.seq).wrapping_add(NEAR) <= 2 * NEAR;
    let flags = packet.tcp_flags;
    if flags & (RST | FIN) != 0 {
        return match (is_near, flags & RST != 0) {
            (false, _) => IGNORED,
            (true, true) => flow_state::RESET,
            (true, false) => flow_state::CLOSING,
        };
    }
    if flags & SYN != 0 {
        // Ports that are used again after a connection has closed: neither direction must keep the
        // short timeout of the old one.
        return match (flow.state == flow_state::ESTABLISHED, flags & ACK != 0) {
            (true, _) => IGNORED,
            (false, true) => flow_state::ESTABLISHED,
            (false, false) => flow_state::NEW,
        };
    }
    match flow.state {
        flow_state::NEW => flow_state::ESTABLISHED,
        state if is_near => state,
        flow_state::ESTABLISHED => IGNORED,
        _ => flow_state::ESTABLISHED,
    }
}
