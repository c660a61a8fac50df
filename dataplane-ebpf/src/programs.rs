//! The packet programs, without their entry points, which the benchmark has of its own.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use dataplane_common::addr::{V4, V6};
use dataplane_common::event::DropReason;
use dataplane_common::forward::Verdict;
use dataplane_common::hooks;
use dataplane_common::packet::Packet;
use dataplane_common::parse::{ETHER_IPV4, ETHER_IPV6};

use crate::kernel::skb::Skb;
use crate::kernel::tables::{Maps, Table};

/// A packet program: a function of its own for each address family and step, so that each has the stack for itself.
macro_rules! packet_program {
    ($name:ident ingress: $ingress:literal, from uplink: $uplink:literal, other: $other:expr, $v4:ident $v6:ident = $hook:ident($($arg:ident),*)
     $(, reports: $report4:ident $report6:ident, iif: |$skb:ident| $iif:expr)?) => {
        #[inline(always)]
        pub fn $name(ctx: TcContext) -> i32 {
            let mut skb = Skb::<$uplink>::new(ctx);
            if skb.was_done($ingress) {
                return skb.end(stringify!($name), Verdict::PASS);
            }
            let verdict = match skb.ether_type() {
                Some(ETHER_IPV4) => $v4(skb.raw()),
                Some(ETHER_IPV6) => $v6(skb.raw()),
                _ => $other,
            };
            $(let verdict = if verdict.is_of_report() {
                // all ways to come here become one, or the verifier would follow each through the report
                let verdict = Verdict::from_halves(verdict.halves().map(|half| skb.forget(half)));
                match skb.ether_type() {
                    Some(ETHER_IPV4) => $report4(skb.raw(), verdict),
                    _ => $report6(skb.raw(), verdict),
                }
            } else {
                verdict
            };)?
            skb.end(stringify!($name), verdict)
        }
        packet_program!(@family $v4 V4 $uplink $hook($($arg),*));
        packet_program!(@family $v6 V6 $uplink $hook($($arg),*));
        $(packet_program!(@report $report4 V4 $uplink $skb $iif);
        packet_program!(@report $report6 V6 $uplink $skb $iif);)?
    };
    (@family $function:ident $family:ident $uplink:literal $hook:ident($($arg:ident),*)) => {
        #[inline(never)]
        fn $function(skb: *mut __sk_buff) -> Verdict {
            let mut skb = Skb::<$uplink>::from_raw(skb);
            $(let $arg = skb.$arg();)*
            hooks::$hook::<$family, _, _, _>(&mut skb, &mut Table, &Maps $(, $arg)*)
        }
    };
    (@report $function:ident $family:ident $uplink:literal $skb:ident $iif:expr) => {
        #[inline(never)]
        fn $function(skb: *mut __sk_buff, verdict: Verdict) -> Verdict {
            let mut $skb = Skb::<$uplink>::from_raw(skb);
            let iif = $iif;
            hooks::report::<$family, _, _, _>(&mut $skb, &mut Table, &Maps, iif, verdict)
        }
    };
}

packet_program!(from_pod ingress: true, from uplink: false, other: Verdict::drop(DropReason::ForbiddenControl),
    from_pod4 from_pod6 = from_pod(ifindex), reports: report_from_pod4 report_from_pod6, iif: |skb| skb.ifindex());
packet_program!(to_pod ingress: false, from uplink: false, other: Verdict::PASS, to_pod4 to_pod6 = from_host());
packet_program!(from_uplink ingress: true, from uplink: true, other: Verdict::PASS,
    from_uplink4 from_uplink6 = from_uplink(ifindex), reports: report_from_uplink4 report_from_uplink6, iif: |skb| 0);
packet_program!(to_uplink ingress: false, from uplink: false, other: Verdict::PASS, to_uplink4 to_uplink6 = from_host());
