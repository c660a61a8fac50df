//! The kernel programs of Ropeway: entry points of a few lines; the decisions are in `dataplane-common`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod kernel;
mod maps;
#[macro_use]
mod programs;
mod steps;

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, SockContext, TcContext};
use kernel::sock::{self, Call};

packet_program! {
    /// Ingress of a pod's host-side veth. A pod shares no layer 2 with anybody: what is not IP ends here.
    from_pod;
    /// Egress of a pod's host-side veth: packets of the host's stack.
    to_pod;
    /// Ingress of an uplink.
    from_uplink;
    /// Egress of an uplink. What the other programs have sent is done already.
    to_uplink;
}

macro_rules! socket_program {
    ($($(#[$doc:meta])* $hook:ident $name:ident $function:ident($($arg:expr),*);)*) => {$(
        $(#[$doc])*
        #[cgroup_sock_addr($hook)]
        pub fn $name(ctx: SockAddrContext) -> i32 {
            sock::$function(&ctx $(, $arg)*)
        }
    )*};
}

socket_program! {
    /// connect(2) of an IPv4 socket.
    connect4 sock_connect4 request4(Call::Connect);
    /// connect(2) of an IPv6 socket, which may ask for a mapped IPv4 address.
    connect6 sock_connect6 request6(Call::Connect);
    /// sendto(2) and sendmsg(2) with an address.
    sendmsg4 sock_sendmsg4 request4(Call::Send);
    /// sendto(2) and sendmsg(2) with an address.
    sendmsg6 sock_sendmsg6 request6(Call::Send);
    /// recvfrom(2) and recvmsg(2): who it came from.
    recvmsg4 sock_recvmsg4 show4();
    /// recvfrom(2) and recvmsg(2): who it came from.
    recvmsg6 sock_recvmsg6 show6();
    /// getpeername(2).
    getpeername4 sock_getpeer4 show4();
    /// getpeername(2).
    getpeername6 sock_getpeer6 show6();
}

/// close(2) of a socket, by the last process that has it.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    sock::release(&ctx)
}

/// For BPF_PROG_TEST_RUN: the low bits of the kernel's jiffies, so that the agent can measure how many make a second.
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
