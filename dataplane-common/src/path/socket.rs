//! The socket path: a frontend's address is replaced before a packet exists.
//!
//! `dataplane-ebpf/src/kernel/sock.rs` calls [`connect`] from connect(2) and sendmsg(2), and
//! [`original_destination`] from recvmsg(2) and getpeername(2). Where the hook cannot or should not
//! act, it keeps the address and the packet path decides by the same maps. The module writes socket
//! entries and affinity, never flows.

use crate::balance::select::{self, ClientTuple, is_client_allowed, least_loaded, pick, select};
use crate::maps::{FamilyMaps, SharedMaps};
use crate::packet::family::Family;
use crate::path::new_connection::egress;
use crate::path::sender::is_tunnel_port;
use crate::types::address::Address;
use crate::types::event::Counter;
use crate::types::pod::{address_kind, node_features};
use crate::types::service::{
    FrontendKey, SockBackend, SockPeer, SockPeerKey, backend_state, frontend_flags, proto, scheduler,
};
use crate::types::side::TrafficSide;

/// The arguments of connect(2) or sendmsg(2), and their socket.
#[derive(Clone, Copy, Debug)]
pub struct ConnectRequest<A> {
    /// Destination address that the application passed.
    pub addr: A,
    /// Destination port, CPU order.
    pub port: u16,
    /// IP protocol; TCP for multipath TCP.
    pub proto: u8,
    /// True for sendmsg(2) on a socket that is not connected.
    pub unconnected: bool,
    /// Cookie of the socket (`SO_COOKIE`).
    pub cookie: u64,
    /// Cookie of the socket's network namespace (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
}

/// The action of the hook. Separate from the address: the verifier refuses payloads of an enum that
/// are undefined on some branches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketVerdict {
    /// Keep the destination: it is no frontend, or the packet path decides.
    Keep,
    /// Replace the destination by [`SocketDecision::addr`].
    Redirect,
    /// Fail the system call with `ECONNREFUSED`.
    Reject,
}

/// The outcome of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketDecision<A> {
    /// The action of the hook.
    pub action: SocketVerdict,
    /// New destination, with [`SocketVerdict::Redirect`].
    pub addr: A,
    /// New port, CPU order, with [`SocketVerdict::Redirect`].
    pub port: u16,
    /// The backend for which the socket is counted from now on; id 0 if the count does not change.
    pub counts: SockBackend,
}

/// Decides about connect(2), and about sendmsg(2) on a socket that is not connected.
#[inline(always)]
pub fn connect<A: Family, T: FamilyMaps<A>>(tables: &T, request: &ConnectRequest<A>) -> SocketDecision<A> {
    let &ConnectRequest { addr, port, proto, cookie, .. } = request;
    let mut decision = SocketDecision { action: SocketVerdict::Keep, addr, port, counts: SockBackend::default() };
    // The host's stack believes every datagram at that port. The tunnel itself has no such socket.
    if is_tunnel_port(tables, proto, port) {
        return reject(tables, true, decision);
    }
    // A loopback address is the node's only in the node's namespace. Pods and all other namespaces
    // have a loopback of their own.
    if addr.is_loopback() && tables.config().is_none_or(|c| c.netns_cookie != request.netns_cookie) {
        return decision;
    }
    let asked = SockPeerKey { cookie, addr, port, pad: 0 };
    let pod = tables.pod_netns(request.netns_cookie).map(A::of_netns);
    let by_packets = pod.is_some() && tables.config().is_some_and(|c| c.features & node_features::NODE_SOCKETS != 0);
    let Some(frontend) = tables.frontend(&FrontendKey { addr, port, proto, pad: 0 }) else {
        if proto == proto::UDP && !request.unconnected {
            // The application connects to this address itself, to which the socket may have been
            // redirected before. It must no longer be shown the frontend.
            tables.remove_sock_peer(&asked);
        }
        return if by_packets { decision } else { no_frontend(tables, request) };
    };
    if by_packets {
        return decision;
    }
    if request.unconnected
        && let Some(&peer) = tables.sock_peer(&asked)
        && is_current(tables, &peer)
    {
        return SocketDecision { action: SocketVerdict::Redirect, addr: peer.addr, port: peer.port, ..decision };
    }
    // A pod's address as on the packet path, so that affinity entries are shared.
    let client = match pod {
        Some(addr) => addr,
        None => tables.config().map_or(A::default(), A::of_node),
    };
    if !is_client_allowed(tables, frontend, client) {
        // A pod's packet is dropped on the packet path; the node's would leave untranslated.
        return reject(tables, pod.is_none(), decision);
    }
    // A silent drop is only possible where packets pass the packet path: in pods, and on the
    // node if this address is routed to the host device.
    let may_reject = frontend.flags & frontend_flags::INTERNAL_DROP == 0
        || pod.is_none() && !(is_client(tables) && egress(tables, &addr).unallocated);
    if pod.is_some() && !request.unconnected && proto == proto::UDP {
        // No hook sees the datagrams of a connected socket, so it would keep this backend for ever.
        // On the packet path they have a flow, which leaves a backend that has ended.
        return if TrafficSide::Internal.table(frontend).len == 0 {
            reject(tables, may_reject, decision)
        } else {
            decision
        };
    }
    let counts = scheduler::counts_connections(frontend.scheduler);
    let id = select(tables, frontend, client, TrafficSide::Internal, || {
        if counts {
            return least_loaded(tables, frontend, TrafficSide::Internal);
        }
        pick(tables, frontend, &ClientTuple { addr: &client, port: 0, destination: &addr }, TrafficSide::Internal)
    });
    let found = if id == 0 { None } else { tables.backend(id).filter(|b| b.state != 0) };
    let Some(backend) = found else {
        return reject(tables, may_reject, decision);
    };
    let (generation, to_port) = (backend.generation, backend.port);
    let to_addr = A::from_octets16(&backend.addr);
    // Without this entry the application would see answers from an address that it does not know.
    // If the map refuses it, the packet path takes over.
    let back = SockPeerKey { cookie, addr: to_addr, port: to_port, pad: 0 };
    if !tables.set_sock_peer(&back, &SockPeer { addr, port, pad: 0, backend: id, generation }) {
        return decision;
    }
    if request.unconnected {
        let peer = SockPeer { addr: to_addr, port: to_port, pad: 0, backend: id, generation };
        if !tables.set_sock_peer(&asked, &peer) {
            return decision;
        }
    }
    tables.count_connection(id);
    tables.count(Counter::SocketTranslated);
    if counts {
        decision.counts = SockBackend { backend: id, generation };
    }
    decision.action = SocketVerdict::Redirect;
    decision.addr = to_addr;
    decision.port = to_port;
    decision
}

/// Returns true if the node's packets to Service networks reach the packet path (host device).
#[inline(always)]
fn is_client<T: SharedMaps>(tables: &T) -> bool {
    tables.config().is_some_and(|c| c.features & node_features::NODE_CLIENT != 0)
}

/// Rejects the request, or keeps the destination if the packet path can drop the packets silently.
#[inline(always)]
fn reject<A, T: SharedMaps>(tables: &T, may_reject: bool, decision: SocketDecision<A>) -> SocketDecision<A> {
    if may_reject {
        tables.count(Counter::SocketRejected);
        return SocketDecision { action: SocketVerdict::Reject, ..decision };
    }
    decision
}

/// Handles a destination without a frontend: it may be a host port on an address of the node. Other
/// ports of a cluster IP, and cluster IPs without a Service, are rejected.
#[inline(always)]
fn no_frontend<A: Family, T: FamilyMaps<A>>(tables: &T, request: &ConnectRequest<A>) -> SocketDecision<A> {
    let &ConnectRequest { addr, port, proto, cookie, .. } = request;
    let keep = SocketDecision { action: SocketVerdict::Keep, addr, port, counts: SockBackend::default() };
    if !addr.is_loopback() {
        let kind = tables.address(&addr).map_or(0, |a| a.kind);
        if kind != address_kind::NODE {
            let unallocated = kind == 0 && egress(tables, &addr).unallocated;
            let unserved = unallocated || kind == address_kind::SERVICE;
            let by_packets = tables.pod_netns(request.netns_cookie).is_some() || unallocated && is_client(tables);
            let silent = !unserved || is_source_probe(request) || by_packets;
            return if silent { keep } else { reject(tables, true, keep) };
        }
    }
    let Some(&target) = select::host_port(tables, addr, port, proto) else { return keep };
    let back = SockPeerKey { cookie, addr: target.addr, port: target.port, pad: 0 };
    // Datagrams go to the same pod each time: only the first one writes.
    let known = tables.sock_peer(&back).is_some_and(|peer| peer.addr == addr && peer.port == port);
    if !known && !tables.set_sock_peer(&back, &SockPeer { addr, port, pad: 0, backend: 0, generation: 0 }) {
        return keep;
    }
    tables.count(Counter::SocketTranslated);
    SocketDecision { action: SocketVerdict::Redirect, addr: target.addr, port: target.port, ..keep }
}

/// Returns true for a probe of the source address: resolvers connect a UDP socket to port 0 or to
/// `discard` and send nothing (RFC 6724, section 5).
#[inline(always)]
const fn is_source_probe<A>(request: &ConnectRequest<A>) -> bool {
    request.proto == proto::UDP && !request.unconnected && matches!(request.port, 0 | 9)
}

#[inline(always)]
fn is_current<A, T: SharedMaps>(tables: &T, peer: &SockPeer<A>) -> bool {
    tables
        .backend(peer.backend)
        .is_some_and(|b| b.generation == peer.generation && b.state & backend_state::INTERNAL != 0)
}

/// Returns the frontend that the application addressed, for recvmsg(2) and getpeername(2), if
/// `addr` and `port` (CPU order) are a backend to which this socket was redirected.
#[inline(always)]
pub fn original_destination<A: Address, T: FamilyMaps<A>>(
    tables: &T,
    cookie: u64,
    addr: A,
    port: u16,
) -> Option<&SockPeer<A>> {
    tables.sock_peer(&SockPeerKey { cookie, addr, port, pad: 0 })
}

#[cfg(test)]
mod tests;
