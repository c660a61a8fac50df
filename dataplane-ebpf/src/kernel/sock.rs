//! The socket hooks over `struct bpf_sock_addr`.
//!
//! Reads the arguments of the system call from the context, asks `dataplane_common::path::socket`,
//! and writes the result back. Also keeps the number of sockets per backend, for schedulers that
//! compare connection counts. The functions of `main.rs` are its callers.

use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use dataplane_common::path::socket::{self, ConnectRequest, SocketDecision, SocketVerdict};
use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::service::{SockBackend, proto};
use dataplane_common::types::uapi::{ECONNREFUSED, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP};
use dataplane_common::wire::byte_order::Be16;

use crate::kernel::tables::{KernelMaps, count_socket, uncount_socket};
use crate::maps;

/// Return value that lets the system call continue.
const ALLOW: i32 = 1;
/// Return value that makes the system call fail.
const DENY: i32 = 0;
/// Third word of an IPv4-mapped IPv6 address (`::ffff:0:0/96`), in memory order.
const MAPPED: u32 = 0xffff_u32.to_be();

/// The system call at which the hook runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// connect(2), whose destination stays with the socket.
    Connect,
    /// sendmsg(2) and sendto(2) on a socket that is not connected.
    Send,
}

#[inline(always)]
fn fields(ctx: &SockAddrContext) -> *mut bpf_sock_addr {
    ctx.sock_addr
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Returns the port that the application passed, CPU order.
#[inline(always)]
fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the context is valid; the field holds a big-endian 16-bit number in its first bytes.
    Be16(unsafe { (*fields(ctx)).user_port } as u16).get()
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, port: u16) {
    // SAFETY: as above; the hooks may write it.
    unsafe { (*fields(ctx)).user_port = Be16::new(port).0 as u32 };
}

/// Returns one of the four words of an IPv6 address, in memory order.
#[inline(always)]
fn word6(ctx: &SockAddrContext, i: usize) -> u32 {
    // SAFETY: the context is valid; volatile, because the verifier accepts only whole, aligned
    // words of it (`sock_addr_is_valid_access` in net/core/filter.c), and LLVM merges reads.
    unsafe { ptr::read_volatile((&raw const (*fields(ctx)).user_ip6).cast::<u32>().add(i)) }
}

#[inline(always)]
fn set_word6(ctx: &SockAddrContext, i: usize, w: u32) {
    // SAFETY: as above; the hooks may write it. Volatile as above.
    unsafe { ptr::write_volatile((&raw mut (*fields(ctx)).user_ip6).cast::<u32>().add(i), w) };
}

#[inline(always)]
fn word4(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the context is valid.
    unsafe { (*fields(ctx)).user_ip4 }
}

#[inline(always)]
fn set_word4(ctx: &SockAddrContext, w: u32) {
    // SAFETY: as above; the hooks may write it.
    unsafe { (*fields(ctx)).user_ip4 = w };
}

/// Returns the protocol of the socket if frontends can have it; else 0.
#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> u8 {
    // SAFETY: the context is valid.
    match unsafe { (*fields(ctx)).protocol } {
        // Subflows of multipath TCP (RFC 8684) are TCP.
        IPPROTO_TCP | IPPROTO_MPTCP => proto::TCP,
        IPPROTO_UDP => proto::UDP,
        _ => 0,
    }
}

#[inline(always)]
fn decide<A>(ctx: &SockAddrContext, addr: A, proto: u8, call: Call) -> SocketDecision<A>
where
    A: dataplane_common::packet::family::Family,
    KernelMaps: dataplane_common::maps::FamilyMaps<A>,
{
    // SAFETY: the context is valid.
    let netns_cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let unconnected = matches!(call, Call::Send);
    if !unconnected {
        // A socket that connects again leaves the backend for which it was counted.
        // SAFETY: the context has its socket.
        uncount(unsafe { maps::sock_backends.get_ptr_mut(ctx) });
    }
    let request = ConnectRequest { addr, port: port(ctx), proto, unconnected, cookie: cookie(ctx), netns_cookie };
    let decision = socket::connect(&KernelMaps, &request);
    if decision.counts.backend != 0 {
        count_for_backend(ctx, decision.counts);
    }
    decision
}

/// Counts the socket for this backend, and no longer for another one.
#[inline(always)]
fn count_for_backend(ctx: &SockAddrContext, backend: SockBackend) {
    // SAFETY: the context has its socket.
    let place = unsafe { maps::sock_backends.get_or_insert_ptr_mut(ctx, Some(&mut SockBackend::default())) };
    uncount(place);
    // Without memory for the storage the socket is not counted.
    if !place.is_null() {
        // SAFETY: the socket's own storage; its system calls exclude each other.
        unsafe { *place = backend };
        count_socket(backend);
    }
}

/// Removes the socket from its backend's count, if it is counted.
#[inline(always)]
fn uncount(place: *mut SockBackend) {
    if place.is_null() {
        return;
    }
    // SAFETY: the socket's own storage, as above.
    let before = unsafe { ptr::replace(place, SockBackend::default()) };
    if before.backend != 0 {
        uncount_socket(before);
    }
}

/// Runs at sock_release: ends the socket's count.
#[inline(always)]
pub fn release(ctx: &SockContext) -> i32 {
    let map = (&raw const maps::sock_backends).cast_mut().cast();
    // The helper itself: aya's map type takes no context of this kind.
    // SAFETY: the context is the socket, and the map is of this kind; the result is null or its
    // value.
    uncount(unsafe { bpf_sk_storage_get(map, ctx.as_ptr(), ptr::null_mut(), 0) }.cast());
    ALLOW
}

#[inline(always)]
fn reject() -> i32 {
    // Without this the system call would fail with EPERM, the default of a denied hook.
    // SAFETY: no pointers; the call then fails with this error.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    DENY
}

/// Runs at connect4 and sendmsg4: replaces a frontend.
#[inline(always)]
pub fn redirect4(ctx: &SockAddrContext, call: Call) -> i32 {
    let proto = protocol(ctx);
    if proto == 0 {
        return ALLOW;
    }
    let decision = decide(ctx, V4::from_word(word4(ctx)), proto, call);
    match decision.action {
        SocketVerdict::Keep => {}
        SocketVerdict::Reject => return reject(),
        SocketVerdict::Redirect => {
            set_word4(ctx, decision.addr.word());
            set_port(ctx, decision.port);
        }
    }
    ALLOW
}

/// Runs at connect6 and sendmsg6: replaces a frontend. An IPv4-mapped address belongs to IPv4.
#[inline(always)]
pub fn redirect6(ctx: &SockAddrContext, call: Call) -> i32 {
    let proto = protocol(ctx);
    if proto == 0 {
        return ALLOW;
    }
    let words = [word6(ctx, 0), word6(ctx, 1), word6(ctx, 2), word6(ctx, 3)];
    if words[0] == 0 && words[1] == 0 && words[2] == MAPPED {
        let decision = decide(ctx, V4::from_word(words[3]), proto, call);
        match decision.action {
            SocketVerdict::Keep => {}
            SocketVerdict::Reject => return reject(),
            SocketVerdict::Redirect => {
                set_word6(ctx, 3, decision.addr.word());
                set_port(ctx, decision.port);
            }
        }
        return ALLOW;
    }
    let decision = decide(ctx, V6::from_words(words), proto, call);
    match decision.action {
        SocketVerdict::Keep => {}
        SocketVerdict::Reject => return reject(),
        SocketVerdict::Redirect => {
            let words = decision.addr.words();
            set_word6(ctx, 0, words[0]);
            set_word6(ctx, 1, words[1]);
            set_word6(ctx, 2, words[2]);
            set_word6(ctx, 3, words[3]);
            set_port(ctx, decision.port);
        }
    }
    ALLOW
}

/// Runs at recvmsg4 and getpeername4: shows the frontend.
#[inline(always)]
pub fn show_frontend4(ctx: &SockAddrContext) -> i32 {
    if let Some(peer) = socket::original_destination(&KernelMaps, cookie(ctx), V4::from_word(word4(ctx)), port(ctx)) {
        set_word4(ctx, peer.addr.word());
        set_port(ctx, peer.port);
    }
    ALLOW
}

/// Runs at recvmsg6 and getpeername6: shows the frontend. An IPv4-mapped address belongs to IPv4.
#[inline(always)]
pub fn show_frontend6(ctx: &SockAddrContext) -> i32 {
    let words = [word6(ctx, 0), word6(ctx, 1), word6(ctx, 2), word6(ctx, 3)];
    if words[0] == 0 && words[1] == 0 && words[2] == MAPPED {
        if let Some(peer) = socket::original_destination(&KernelMaps, cookie(ctx), V4::from_word(words[3]), port(ctx)) {
            set_word6(ctx, 3, peer.addr.word());
            set_port(ctx, peer.port);
        }
        return ALLOW;
    }
    if let Some(peer) = socket::original_destination(&KernelMaps, cookie(ctx), V6::from_words(words), port(ctx)) {
        let words = peer.addr.words();
        set_word6(ctx, 0, words[0]);
        set_word6(ctx, 1, words[1]);
        set_word6(ctx, 2, words[2]);
        set_word6(ctx, 3, words[3]);
        set_port(ctx, peer.port);
    }
    ALLOW
}
