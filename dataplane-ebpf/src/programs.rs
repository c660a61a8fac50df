//! The packet programs, without their entry points, which the benchmark has of its own.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use dataplane_common::addr::{V4, V6};
use dataplane_common::event::DropReason;
use dataplane_common::forward::Verdict;
use dataplane_common::hooks;
use dataplane_common::parse::{ETHER_IPV4, ETHER_IPV6};

use crate::kernel::skb::Skb;
use crate::kernel::tables::{Maps, Table};

/// A packet program: a function of its own for each address family, so that each has the stack for itself.
macro_rules! packet_program {
    ($name:ident { $v4:ident, $v6:ident } from uplink: $uplink:literal = $hook:ident($($arg:ident),*), other: $other:expr) => {
        #[inline(always)]
        pub fn $name(ctx: TcContext) -> i32 {
            let skb = Skb::<$uplink>::new(ctx);
            if skb.is_done() {
                return skb.end(stringify!($name), Verdict::PASS);
            }
            let verdict = match skb.ether_type() {
                Some(ETHER_IPV4) => $v4(skb.raw()),
                Some(ETHER_IPV6) => $v6(skb.raw()),
                _ => $other,
            };
            skb.end(stringify!($name), verdict)
        }
        packet_program!(@family $v4 V4 $uplink $hook($($arg),*));
        packet_program!(@family $v6 V6 $uplink $hook($($arg),*));
    };
    (@family $function:ident $family:ident $uplink:literal $hook:ident($($arg:ident),*)) => {
        #[inline(never)]
        fn $function(skb: *mut __sk_buff) -> Verdict {
            let mut skb = Skb::<$uplink>::from_raw(skb);
            $(let $arg = skb.$arg();)*
            hooks::$hook::<$family, _, _, _>(&mut skb, &mut Table, &Maps $(, $arg)*)
        }
    };
}

packet_program!(from_pod { from_pod4, from_pod6 } from uplink: false = from_pod(ifindex), other: Verdict::drop(DropReason::ForbiddenControl));
packet_program!(to_pod { to_pod4, to_pod6 } from uplink: false = from_host(), other: Verdict::PASS);
packet_program!(from_uplink { from_uplink4, from_uplink6 } from uplink: true = from_uplink(ifindex), other: Verdict::PASS);
packet_program!(to_uplink { to_uplink4, to_uplink6 } from uplink: false = from_host(), other: Verdict::PASS);
