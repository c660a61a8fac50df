//! The packet programs, without their entry points, which the benchmark has of its own.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use dataplane_common::packet::parse::{ETHER_IPV4, ETHER_IPV6};
use dataplane_common::path::datapath;
use dataplane_common::path::port_reuse;
use dataplane_common::path::reject;
use dataplane_common::path::sctp_ports;
use dataplane_common::path::udp_failover;
use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::event::DropReason;
use dataplane_common::types::stage::{Origin, Step};
use dataplane_common::verdict::Verdict;

use crate::kernel::skb::Skb;
use crate::kernel::tables::{Maps, Table};

/// Entry points of a few lines.
macro_rules! packet_program {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[classifier]
        pub fn $name(ctx: TcContext) -> i32 {
            programs::$name(ctx)
        }
    )*};
}

/// A program at a hook: a function of its own for each address family, so that each has the stack for itself.
macro_rules! hook {
    ($name:ident: $origin:expr, ingress: $ingress:literal, from uplink: $uplink:literal, other: $other:expr, $v4:ident $v6:ident = |$skb:ident, $family:ident| $body:expr) => {
        #[inline(always)]
        pub fn $name(ctx: TcContext) -> i32 {
            let mut skb = Skb::<$uplink>::new(ctx);
            if skb.was_done($ingress) {
                return skb.end(stringify!($name), Verdict::PASS);
            }
            let (verdict, v6) = match skb.ether_type() {
                Some(ETHER_IPV4) => ($v4(skb.raw()), false),
                Some(ETHER_IPV6) => ($v6(skb.raw()), true),
                _ => ($other, false),
            };
            go_on(skb, stringify!($name), $origin, v6, verdict)
        }
        hook!(@family $v4 V4 $uplink |$skb, $family| $body);
        hook!(@family $v6 V6 $uplink |$skb, $family| $body);
    };
    (@family $function:ident $v:ident $uplink:literal |$skb:ident, $family:ident| $body:expr) => {
        #[inline(never)]
        fn $function(skb: *mut __sk_buff) -> Verdict {
            type $family = $v;
            let mut $skb = Skb::<$uplink>::from_raw(skb);
            $body
        }
    };
}

/// A [`Step`]: the program that another one hands a packet of one address family to.
macro_rules! step {
    ($name:ident $v6:literal $function:ident: |$skb:ident, $family:ident = $v:ident, $origin:ident, $verdict:ident| $body:expr) => {
        #[inline(always)]
        pub fn $name(ctx: TcContext) -> i32 {
            let mut skb = Skb::<true>::new(ctx);
            let (origin, _) = skb.arrived();
            let verdict = $function(skb.raw()).forget(&mut skb);
            go_on(skb, stringify!($name), origin, $v6, verdict)
        }
        #[inline(never)]
        fn $function(skb: *mut __sk_buff) -> Verdict {
            type $family = $v;
            let mut $skb = Skb::<true>::from_raw(skb);
            #[allow(unused_variables, reason = "not every step asks for both")]
            let ($origin, $verdict) = $skb.arrived();
            $body
        }
    };
}

/// Ends with the verdict, or in the program of the step that has the last word.
#[inline(always)]
fn go_on<const UPLINK: bool>(mut skb: Skb<UPLINK>, program: &str, origin: Origin, v6: bool, verdict: Verdict) -> i32 {
    // a constant place in the array makes the tail call a plain jump
    match (verdict.step(), v6) {
        (None, _) => return skb.end(program, verdict),
        (Some(Step::Open), false) => skb.jump(Step::Open, false, origin, verdict),
        (Some(Step::Open), true) => skb.jump(Step::Open, true, origin, verdict),
        (Some(Step::Report), false) => skb.jump(Step::Report, false, origin, verdict),
        (Some(Step::Report), true) => skb.jump(Step::Report, true, origin, verdict),
        (Some(Step::Refuse), false) => skb.jump(Step::Refuse, false, origin, verdict),
        (Some(Step::Refuse), true) => skb.jump(Step::Refuse, true, origin, verdict),
        (Some(Step::Sctp), false) => skb.jump(Step::Sctp, false, origin, verdict),
        (Some(Step::Sctp), true) => skb.jump(Step::Sctp, true, origin, verdict),
        (Some(Step::Follow), false) => skb.jump(Step::Follow, false, origin, verdict),
        (Some(Step::Follow), true) => skb.jump(Step::Follow, true, origin, verdict),
        (Some(Step::Weigh), false) => skb.jump(Step::Weigh, false, origin, verdict),
        (Some(Step::Weigh), true) => skb.jump(Step::Weigh, true, origin, verdict),
        (Some(Step::Again), false) => skb.jump(Step::Again, false, origin, verdict),
        (Some(Step::Again), true) => skb.jump(Step::Again, true, origin, verdict),
    }
    skb.end(program, Verdict::drop(DropReason::NoStep))
}

hook!(from_pod: Origin::Pod, ingress: true, from uplink: false, other: Verdict::drop(DropReason::ForbiddenControl),
from_pod4 from_pod6 = |skb, A| {
    let ifindex = skb.ifindex();
    datapath::enter::<A, _, _, _>(&mut skb, &mut Table, &Maps, Origin::Pod, ifindex)
});
hook!(from_uplink: Origin::Uplink, ingress: true, from uplink: true, other: Verdict::PASS,
from_uplink4 from_uplink6 = |skb, A| {
    let ifindex = skb.ifindex();
    datapath::enter::<A, _, _, _>(&mut skb, &mut Table, &Maps, Origin::Uplink, ifindex)
});
hook!(to_pod: Origin::Host, ingress: false, from uplink: false, other: Verdict::PASS,
    to_pod4 to_pod6 = |skb, A| datapath::from_host::<A, _, _, _, false>(&mut skb, &mut Table, &Maps));
hook!(to_uplink: Origin::Host, ingress: false, from uplink: false, other: Verdict::PASS,
    to_uplink4 to_uplink6 = |skb, A| datapath::from_host::<A, _, _, _, true>(&mut skb, &mut Table, &Maps));

macro_rules! steps {
    ($($name4:ident $name6:ident $function4:ident $function6:ident: |$skb:ident, $family:ident, $origin:ident, $verdict:ident| $body:expr;)*) => {$(
        step!($name4 false $function4: |$skb, $family = V4, $origin, $verdict| $body);
        step!($name6 true $function6: |$skb, $family = V6, $origin, $verdict| $body);
    )*};
}

steps! {
    step_open4 step_open6 open4 open6: |skb, A, origin, verdict| {
        let ifindex = skb.ifindex();
        datapath::open::<A, _, _, _, false>(&mut skb, &mut Table, &Maps, origin, ifindex)
    };
    step_weigh4 step_weigh6 weigh4 weigh6: |skb, A, origin, verdict| {
        let ifindex = skb.ifindex();
        datapath::open::<A, _, _, _, true>(&mut skb, &mut Table, &Maps, origin, ifindex)
    };
    step_again4 step_again6 again4 again6: |skb, A, origin, verdict| {
        let ifindex = skb.ifindex();
        port_reuse::again::<A, _, _, _>(&mut skb, &mut Table, &Maps, origin, ifindex)
    };
    step_report4 step_report6 report4 report6: |skb, A, origin, verdict| {
        let ifindex = skb.ifindex();
        datapath::report::<A, _, _, _>(&mut skb, &mut Table, &Maps, origin, ifindex, verdict)
    };
    step_refuse4 step_refuse6 refuse4 refuse6: |skb, A, origin, verdict| reject::refuse::<A, _, _>(&mut skb, &Maps, verdict);
    step_sctp4 step_sctp6 sctp4 sctp6: |skb, A, origin, verdict| sctp_ports::set_ports::<A, _>(&mut skb, verdict);
    step_follow4 step_follow6 follow4 follow6: |skb, A, origin, verdict| udp_failover::follow::<A, _, _, _>(&mut skb, &mut Table, &Maps);
}
