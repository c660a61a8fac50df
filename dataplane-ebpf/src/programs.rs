//! The packet programs without their entry points.
//!
//! `main.rs` and `stages.rs` call them from `#[classifier]` functions, the benchmark from its own. Each program calls
//! a function per address family that is never inlined, so that each family has a stack of its own. Decisions are in
//! `dataplane-common`.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use dataplane_common::for_each_stage;
use dataplane_common::maps::{FamilyMaps, FlowMap};
use dataplane_common::packet::family::Family;
use dataplane_common::packet::parse::{ETHER_IPV4, ETHER_IPV6};
use dataplane_common::path::{datapath, port_reuse, reject, sctp_ports, udp_failover};
use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::event::DropReason;
use dataplane_common::types::stage::{Origin, Stage};
use dataplane_common::verdict::Verdict;

use crate::kernel::skb::Skb;
use crate::kernel::tables::{KernelFlows, KernelMaps};

/// Ingress of a pod's host-side veth. Frames that are not IP are dropped.
#[inline(always)]
pub fn from_pod(ctx: TcContext) -> i32 {
    let other = Verdict::drop(DropReason::ForbiddenControl);
    run_hook::<false, true>(ctx, "from_pod", Origin::Pod, other, pod_ingress::<V4>, pod_ingress::<V6>)
}

/// Ingress of an uplink.
#[inline(always)]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let other = Verdict::PASS;
    run_hook::<true, true>(ctx, "from_uplink", Origin::Uplink, other, uplink_ingress::<V4>, uplink_ingress::<V6>)
}

/// Egress of a pod's host-side veth.
#[inline(always)]
pub fn to_pod(ctx: TcContext) -> i32 {
    let other = Verdict::PASS;
    run_hook::<false, false>(ctx, "to_pod", Origin::Host, other, pod_egress::<V4>, pod_egress::<V6>)
}

/// Egress of an uplink.
#[inline(always)]
pub fn to_uplink(ctx: TcContext) -> i32 {
    let other = Verdict::PASS;
    run_hook::<false, false>(ctx, "to_uplink", Origin::Host, other, uplink_egress::<V4>, uplink_egress::<V6>)
}

/// Runs the function of the packet's address family at a hook; `other` is the verdict on frames that are not IP.
#[inline(always)]
fn run_hook<const UPLINK: bool, const INGRESS: bool>(
    ctx: TcContext,
    program: &str,
    origin: Origin,
    other: Verdict,
    v4: fn(*mut __sk_buff) -> Verdict,
    v6: fn(*mut __sk_buff) -> Verdict,
) -> i32 {
    let mut skb = Skb::<UPLINK>::new(ctx);
    if skb.was_handled(INGRESS) {
        return skb.finish(program, Verdict::PASS);
    }
    let (verdict, is_v6) = match skb.ether_type() {
        Some(ETHER_IPV4) => (v4(skb.raw()), false),
        Some(ETHER_IPV6) => (v6(skb.raw()), true),
        _ => (other, false),
    };
    finish(skb, program, origin, is_v6, verdict)
}

#[inline(never)]
fn pod_ingress<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<false>::from_raw(skb);
    let ifindex = skb.ifindex();
    datapath::ingress(&mut skb, &mut KernelFlows, &KernelMaps, Origin::Pod, ifindex)
}

#[inline(never)]
fn uplink_ingress<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    let ifindex = skb.ifindex();
    datapath::ingress(&mut skb, &mut KernelFlows, &KernelMaps, Origin::Uplink, ifindex)
}

#[inline(never)]
fn pod_egress<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<false>::from_raw(skb);
    datapath::from_host::<A, _, _, _, false>(&mut skb, &mut KernelFlows, &KernelMaps)
}

#[inline(never)]
fn uplink_egress<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<false>::from_raw(skb);
    datapath::from_host::<A, _, _, _, true>(&mut skb, &mut KernelFlows, &KernelMaps)
}

/// Runs the function of a stage for one address family.
#[inline(always)]
pub fn run_stage(ctx: TcContext, program: &str, v6: bool, stage: fn(*mut __sk_buff) -> Verdict) -> i32 {
    let mut skb = Skb::<true>::new(ctx);
    let (origin, _) = skb.received();
    let verdict = stage(skb.raw()).scrub_verifier_state(&mut skb);
    finish(skb, program, origin, v6, verdict)
}

/// [`Stage::NewConnection`]; with `COUNTS`, [`Stage::LeastConnections`].
#[inline(never)]
pub fn new_connection<A: Family, const COUNTS: bool>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    let ((origin, _), ifindex) = (skb.received(), skb.ifindex());
    datapath::new_connection::<A, _, _, _, COUNTS>(&mut skb, &mut KernelFlows, &KernelMaps, origin, ifindex)
}

/// [`Stage::PortReuse`].
#[inline(never)]
pub fn reuse_port<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    let ((origin, _), ifindex) = (skb.received(), skb.ifindex());
    port_reuse::port_reuse(&mut skb, &mut KernelFlows, &KernelMaps, origin, ifindex)
}

/// [`Stage::IcmpError`].
#[inline(never)]
pub fn icmp_error<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    let ((origin, verdict), ifindex) = (skb.received(), skb.ifindex());
    datapath::icmp_error(&mut skb, &mut KernelFlows, &KernelMaps, origin, ifindex, verdict)
}

/// [`Stage::Reject`].
#[inline(never)]
pub fn reject<A: Family + reject::Reply>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    let (_, verdict) = skb.received();
    reject::reject(&mut skb, &KernelMaps, verdict)
}

/// [`Stage::SctpPorts`].
#[inline(never)]
pub fn sctp_ports<A: Family>(skb: *mut __sk_buff) -> Verdict {
    let mut skb = Skb::<true>::from_raw(skb);
    let (_, verdict) = skb.received();
    sctp_ports::set_ports::<A, _>(&mut skb, verdict)
}

/// [`Stage::UdpFailover`].
#[inline(never)]
pub fn udp_failover<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    udp_failover::fail_over(&mut skb, &mut KernelFlows, &KernelMaps)
}

macro_rules! declare_finish {
    ($($(#[$doc:meta])* $stage:ident = $number:literal, $v4:literal, $v6:literal;)*) => {
        /// Carries out the verdict, or makes the tail call to the stage that decides instead.
        #[inline(always)]
        fn finish<const UPLINK: bool>(
            mut skb: Skb<UPLINK>,
            program: &str,
            origin: Origin,
            v6: bool,
            verdict: Verdict,
        ) -> i32 {
            // a constant index makes the kernel patch the tail call into a direct jump (bpf_jit_direct_poke)
            match (verdict.stage(), v6) {
                (None, _) => return skb.finish(program, verdict),
                $(
                    (Some(Stage::$stage), false) => skb.tail_call(Stage::$stage, false, origin, verdict),
                    (Some(Stage::$stage), true) => skb.tail_call(Stage::$stage, true, origin, verdict),
                )*
            }
            skb.finish(program, Verdict::drop(DropReason::NoStage))
        }
    };
}

for_each_stage!(declare_finish);
