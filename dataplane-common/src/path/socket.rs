//! The socket hooks: a frontend's address is replaced before a packet exists.

use crate::balance::select::{self, ClientTuple, is_client_allowed, least_loaded, pick, select};
use crate::maps::{FamilyMaps, SharedMaps};
use crate::packet::family::Family;
use crate::path::new_connection::egress;
use crate::types::address::Address;
use crate::types::event::Counter;
use crate::types::pod::{address_kind, node_features};
use crate::types::service::{
    FrontendKey, SockBackend, SockPeer, SockPeerKey, backend_state, frontend_flags, proto, scheduler,
};
use crate::types::side::TrafficSide;

/// What a socket asks for.
#[derive(Clone, Copy, Debug)]
pub struct ConnectRequest<A> {
    /// Destination.
    pub addr: A,
    /// Destination port, CPU order.
    pub port: u16,
    /// IP protocol.
    pub proto: u8,
    /// A datagram of a socket that is not connected.
    pub unconnected: bool,
    /// The socket.
    pub cookie: u64,
    /// Its network namespace.
    pub netns_cookie: u64,
}

/// What the hook does. Apart from the address, so that nothing lives in an enum's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketVerdict {
    /// Not a frontend, or the packet path decides.
    Keep,
    /// Goes to [`SocketDecision::addr`] instead.
    Redirect,
    /// `ECONNREFUSED`.
    Reject,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketDecision<A> {
    /// What to do.
    pub action: SocketVerdict,
    /// New destination, where the action says so.
    pub addr: A,
    /// New port, CPU order.
    pub port: u16,
    /// The backend for which the socket counts from now on, if it is a new one.
    pub counts: SockBackend,
}

/// connect(2), and sendmsg(2) on a socket that is not connected.
#[inline(always)]
pub fn connect<A: Family, T: FamilyMaps<A>>(tables: &T, request: &ConnectRequest<A>) -> SocketDecision<A> {
    let &ConnectRequest { addr, port, proto, cookie, .. } = request;
    let mut decision = SocketDecision { action: SocketVerdict::Keep, addr, port, counts: SockBackend::default() };
    // a loopback address is the node's only in the node's own namespace: pods, and whoever else has one, keep theirs
    if addr.is_loopback() && tables.config().is_none_or(|c| c.netns_cookie != request.netns_cookie) {
        return decision;
    }
    let asked = SockPeerKey { cookie, addr, port, pad: 0 };
    let Some(frontend) = tables.frontend(&FrontendKey { addr, port, proto, pad: 0 }) else {
        if proto == proto::UDP && !request.unconnected {
            // asked for by this socket itself, which may have been led there before
            tables.forget_sock_peer(&asked);
        }
        return no_frontend(tables, request);
    };
    if request.unconnected
        && let Some(&peer) = tables.sock_peer(&asked)
        && is_current(tables, &peer)
    {
        return SocketDecision { action: SocketVerdict::Redirect, addr: peer.addr, port: peer.port, ..decision };
    }
    let pod = tables.pod_netns(request.netns_cookie).map(A::of_netns);
    let client = match pod {
        Some(addr) => addr,
        None => tables.config().map_or(A::default(), A::of_node),
    };
    if !is_client_allowed(tables, frontend, client) {
        return reject(tables, pod.is_none(), decision);
    }
    let may_reject = frontend.flags & frontend_flags::INTERNAL_DROP == 0
        || pod.is_none() && !(is_client(tables) && egress(tables, &addr).unallocated);
    if pod.is_some() && !request.unconnected && proto == proto::UDP {
        // no hook sees what a connected socket sends, so it would stay with this backend for ever: its packets have a flow, which leaves one that ends
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
    // without the way back the application would see answers from a stranger: rather leave it to the packet path
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

/// Whether what the node sends to networks of Services comes by the packet path.
#[inline(always)]
fn is_client<T: SharedMaps>(tables: &T) -> bool {
    tables.config().is_some_and(|c| c.features & node_features::NODE_CLIENT != 0)
}

/// No way to a Service. A silent drop is for the packet path; where there is none, the packet would leave untranslated.
#[inline(always)]
fn reject<A, T: SharedMaps>(tables: &T, may_reject: bool, decision: SocketDecision<A>) -> SocketDecision<A> {
    if may_reject {
        tables.count(Counter::SocketRejected);
        return SocketDecision { action: SocketVerdict::Reject, ..decision };
    }
    decision
}

/// What no frontend has may be a host port, on an address of the node; other ports of a Service's address, and addresses that no Service has,
/// lead nowhere.
#[inline(always)]
fn no_frontend<A: Family, T: FamilyMaps<A>>(tables: &T, request: &ConnectRequest<A>) -> SocketDecision<A> {
    let &ConnectRequest { addr, port, proto, cookie, .. } = request;
    let keep = SocketDecision { action: SocketVerdict::Keep, addr, port, counts: SockBackend::default() };
    if !addr.is_loopback() {
        let kind = tables.address(&addr).map_or(0, |a| a.kind);
        if kind != address_kind::NODE {
            let unallocated = kind == 0 && egress(tables, &addr).unallocated;
            let nobody = unallocated || kind == address_kind::SERVICE;
            let by_packets = tables.pod_netns(request.netns_cookie).is_some() || unallocated && is_client(tables);
            let silent = !nobody || is_source_probe(request) || by_packets;
            return if silent { keep } else { reject(tables, true, keep) };
        }
    }
    let Some(&target) = select::host_port(tables, addr, port, proto) else { return keep };
    let back = SockPeerKey { cookie, addr: target.addr, port: target.port, pad: 0 };
    // datagrams go to the same pod each time: only the first one writes
    let known = tables.sock_peer(&back).is_some_and(|peer| peer.addr == addr && peer.port == port);
    if !known && !tables.set_sock_peer(&back, &SockPeer { addr, port, pad: 0, backend: 0, generation: 0 }) {
        return keep;
    }
    tables.count(Counter::SocketTranslated);
    SocketDecision { action: SocketVerdict::Redirect, addr: target.addr, port: target.port, ..keep }
}

/// Resolvers connect a UDP socket, to port 0 or to `discard`, only to see which source address it gets (RFC 6724, section 5).
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

/// recvmsg(2) and getpeername(2): the frontend that the application asked for, if `addr` and `port` are a backend's.
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
