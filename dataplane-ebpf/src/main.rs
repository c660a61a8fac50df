//! The kernel programs of Ropeway: the entry points at tc, cgroup and socket hooks.
//!
//! Each is a few lines that pass the context on. Decisions are in `dataplane-common`, access to the
//! kernel in `kernel/`, the stages in `stages.rs`. The agent loads and attaches the programs by the
//! names of these functions.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod kernel;
mod maps;
mod programs;
mod stages;

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, SockContext, TcContext};
use kernel::sock::{self, Call};

/// Ingress of a pod's host-side veth. Pods share no layer 2 with other pods, so frames that are not
/// IP are dropped.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    programs::from_pod(ctx)
}

/// Egress of a pod's host-side veth, for packets of the host's stack.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    programs::to_pod(ctx)
}

/// Ingress of an uplink.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    programs::from_uplink(ctx)
}

/// Egress of an uplink. Packets that a program of this node has redirected here pass.
#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    programs::to_uplink(ctx)
}

/// Runs at connect(2) of an IPv4 socket: replaces a frontend by a backend.
#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    sock::redirect4(&ctx, Call::Connect)
}

/// Runs at connect(2) of an IPv6 socket, which may use an IPv4-mapped address.
#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    sock::redirect6(&ctx, Call::Connect)
}

/// Runs at sendto(2) and sendmsg(2) with an IPv4 address: replaces a frontend by a backend.
#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::redirect4(&ctx, Call::Send)
}

/// Runs at sendto(2) and sendmsg(2) with an IPv6 address: replaces a frontend by a backend.
#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::redirect6(&ctx, Call::Send)
}

/// Runs at recvfrom(2) and recvmsg(2): shows the frontend as the source of an IPv4 datagram.
#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::show_frontend4(&ctx)
}

/// Runs at recvfrom(2) and recvmsg(2): shows the frontend as the source of an IPv6 datagram.
#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::show_frontend6(&ctx)
}

/// Runs at getpeername(2) of an IPv4 socket: shows the frontend.
#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeer4(ctx: SockAddrContext) -> i32 {
    sock::show_frontend4(&ctx)
}

/// Runs at getpeername(2) of an IPv6 socket: shows the frontend.
#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeer6(ctx: SockAddrContext) -> i32 {
    sock::show_frontend6(&ctx)
}

/// Runs when the last descriptor of a socket is closed: ends the count of its connection.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    sock::release(&ctx)
}

/// Returns the low bits of jiffies. The agent runs it by `BPF_PROG_TEST_RUN` to measure how many
/// jiffies make a second, because the kernel's HZ is not part of the user API.
#[classifier]
pub fn clock(_ctx: TcContext) -> i32 {
    kernel::tables::jiffies() as i32
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
