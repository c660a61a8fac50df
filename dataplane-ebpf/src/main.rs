//! The kernel programs of Ropeway: entry points of a few lines; the decisions are in `dataplane-common`.
#![no_std]
#![no_main]

mod kernel;
mod maps;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::{cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use dataplane_common::addr::{V4, V6};
use dataplane_common::event::DropReason;
use dataplane_common::forward::Verdict;
use dataplane_common::hooks;
use dataplane_common::parse::{ETHER_IPV4, ETHER_IPV6};
use kernel::skb::Skb;
use kernel::sock::{self, Call};
use kernel::tables::{Maps, Table};

/// A packet program: one entry point, and a function for each address family, so that each has the stack for itself.
macro_rules! packet_program {
    ($(#[$doc:meta])* $name:ident { $v4:ident, $v6:ident } = $hook:ident($($arg:ident),*), other: $other:expr) => {
        $(#[$doc])*
        #[classifier]
        pub fn $name(ctx: TcContext) -> i32 {
            let skb = Skb::new(ctx);
            if skb.is_done() {
                return skb.end(stringify!($name), Verdict::Pass);
            }
            let verdict = match skb.ether_type() {
                Some(ETHER_IPV4) => $v4(skb.raw()),
                Some(ETHER_IPV6) => $v6(skb.raw()),
                _ => $other,
            };
            skb.end(stringify!($name), verdict)
        }
        packet_program!(@family $v4 V4 $hook($($arg),*));
        packet_program!(@family $v6 V6 $hook($($arg),*));
    };
    (@family $function:ident $family:ident $hook:ident($($arg:ident),*)) => {
        #[inline(never)]
        fn $function(skb: *mut __sk_buff) -> Verdict {
            let mut skb = Skb::from_raw(skb);
            $(let $arg = skb.$arg();)*
            hooks::$hook::<$family, _, _, _>(&mut skb, &mut Table, &mut Maps $(, $arg)*)
        }
    };
}

packet_program! {
    /// Ingress of a pod's host-side veth. A pod shares no layer 2 with anybody: what is not IP ends here.
    from_pod { from_pod4, from_pod6 } = from_pod(ifindex), other: Verdict::Drop(DropReason::ForbiddenControl)
}
packet_program! {
    /// Egress of a pod's host-side veth: packets of the host's stack.
    to_pod { to_pod4, to_pod6 } = from_host(), other: Verdict::Pass
}
packet_program! {
    /// Ingress of an uplink.
    from_uplink { from_uplink4, from_uplink6 } = from_uplink(ifindex), other: Verdict::Pass
}
packet_program! {
    /// Egress of an uplink. What the other programs have sent is done already.
    to_uplink { to_uplink4, to_uplink6 } = from_host(), other: Verdict::Pass
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
