//! Bodies of the packet programs.
//!
//! `main.rs` and `stages.rs` call them from `#[classifier]` functions, the benchmark from its own.
//! Decisions are in `dataplane-common`.
//!
//! Each program calls a function per address family that is never inlined: the locals of both
//! families would share one stack frame, and 512 bytes do not hold them together. Such a function
//! takes the raw context and returns a `u64`, because a BPF-to-BPF call passes registers only.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use dataplane_common::for_each_stage;
use dataplane_common::maps::{FamilyMaps, FlowMap};
use dataplane_common::packet::family::Family;
use dataplane_common::packet::parse::{ETHER_IPV4, ETHER_IPV6};
use dataplane_common::path::{
    datapath, deliver, judge, port_reuse, recheck, reject, sctp_ports, tunnel_source, udp_failover,
};
use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::event::DropReason;
use dataplane_common::types::stage::{Origin, Stage};
use dataplane_common::verdict::Verdict;

use crate::kernel::skb::Skb;
use crate::kernel::tables::{KernelFlows, KernelMaps};

// EtherTypes of VLAN tags (IEEE 802.1Q, 802.1ad).
const ETHER_VLAN: u16 = 0x8100;
const ETHER_PROVIDER_VLAN: u16 = 0x88a8;

/// Runs at ingress of a pod's host-side veth. Frames that are not IP are dropped.
#[inline(always)]
pub fn from_pod(ctx: TcContext) -> i32 {
    let other = Verdict::drop(DropReason::ForbiddenControl);
    run_hook::<false, true>(ctx, "from_pod", Origin::Pod, other, pod_ingress::<V4>, pod_ingress::<V6>)
}

/// Runs at ingress of an uplink. Frames that are not IP pass.
#[inline(always)]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let other = Verdict::PASS;
    run_hook::<true, true>(ctx, "from_uplink", Origin::Uplink, other, uplink_ingress::<V4>, uplink_ingress::<V6>)
}

/// Runs at egress of a pod's host-side veth. Frames that are not IP pass.
#[inline(always)]
pub fn to_pod(ctx: TcContext) -> i32 {
    let other = Verdict::PASS;
    run_hook::<false, false>(ctx, "to_pod", Origin::Host, other, pod_egress::<V4>, pod_egress::<V6>)
}

/// Runs at egress of an uplink. Frames that are not IP pass.
#[inline(always)]
pub fn to_uplink(ctx: TcContext) -> i32 {
    let other = Verdict::PASS;
    run_hook::<false, false>(ctx, "to_uplink", Origin::Host, other, uplink_egress::<V4>, uplink_egress::<V6>)
}

/// Runs the function of the packet's address family; `other` is the verdict on frames that are not
/// IP. `UPLINK`: see [`Skb`]. `INGRESS`: the hook is at ingress.
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
    // `v4` and `v6` are function items, and this function is inlined, so that LLVM emits direct
    // calls. The verifier accepts no indirect ones (`unknown opcode 8d`).
    let (verdict, is_v6) = match skb.ether_type() {
        Some(ETHER_IPV4) => (v4(skb.raw()), false),
        Some(ETHER_IPV6) => (v6(skb.raw()), true),
        // Behind a priority tag. The host's stack would remove both tags and take the packet.
        Some(ETHER_VLAN | ETHER_PROVIDER_VLAN) if UPLINK => (Verdict::drop(DropReason::ForbiddenControl), false),
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
    let ifindex = skb.ifindex();
    datapath::from_host::<A, _, _, _, false>(&mut skb, &mut KernelFlows, &KernelMaps, ifindex)
}

#[inline(never)]
fn uplink_egress<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    // No uplink in the sense of [`Skb`]: a packet of the host's stack has no device's sum, since
    // forwarding discards it (`skb_forward_csum` in include/linux/skbuff.h).
    let mut skb = Skb::<false>::from_raw(skb);
    let ifindex = skb.ifindex();
    datapath::from_host::<A, _, _, _, true>(&mut skb, &mut KernelFlows, &KernelMaps, ifindex)
}

/// Runs the function of a stage for one address family, and executes its verdict.
#[inline(always)]
pub fn run_stage(ctx: TcContext, program: &str, v6: bool, stage: fn(*mut __sk_buff) -> Verdict) -> i32 {
    // One program serves packets of both kinds of devices, so it must assume an uplink's checksum.
    let mut skb = Skb::<true>::new(ctx);
    let (origin, _) = skb.received();
    // The verifier knows every verdict that the function can return, and would explore `finish`,
    // which branches on it, once for each.
    let verdict = stage(skb.raw()).scrub_verifier_state(&mut skb);
    finish(skb, program, origin, v6, verdict)
}

/// Runs [`Stage::NewConnection`], or with `COUNTS` [`Stage::LeastConnections`].
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

/// Runs [`Stage::PortReuse`] for one address family.
#[inline(never)]
pub fn reuse_port<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    let (received, ifindex) = (skb.received(), skb.ifindex());
    port_reuse::port_reuse(&mut skb, &mut KernelFlows, &KernelMaps, received, ifindex)
}

/// Runs [`Stage::IcmpError`] for one address family.
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

/// Runs [`Stage::Reject`] for one address family.
#[inline(never)]
pub fn reject<A: Family + reject::Reply>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    let (_, verdict) = skb.received();
    reject::reject(&mut skb, &KernelMaps, verdict)
}

/// Runs [`Stage::SctpPorts`] for one address family.
#[inline(never)]
pub fn sctp_ports<A: Family>(skb: *mut __sk_buff) -> Verdict {
    let mut skb = Skb::<true>::from_raw(skb);
    let (_, verdict) = skb.received();
    sctp_ports::set_ports::<A, _>(&mut skb, verdict)
}

/// Runs [`Stage::UdpFailover`] for one address family.
#[inline(never)]
pub fn udp_failover<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    udp_failover::fail_over(&mut skb, &mut KernelFlows, &KernelMaps)
}

/// Runs [`Stage::TunnelSource`] for one address family of the outer packet.
#[inline(never)]
pub fn check_inner_source<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    tunnel_source::check_inner_source::<A, _, _, _, _>(&mut skb, &KernelMaps, &KernelMaps, &KernelMaps)
}

/// Runs [`Stage::Judge`] for one address family.
#[inline(never)]
pub fn judge<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    let (received, ifindex) = (skb.received(), skb.ifindex());
    judge::judge(&mut skb, &mut KernelFlows, &KernelMaps, received, ifindex)
}

/// Runs [`Stage::Deliver`] for one address family.
#[inline(never)]
pub fn deliver<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    let ifindex = skb.ifindex();
    deliver::deliver(&mut skb, &mut KernelFlows, &KernelMaps, ifindex)
}

/// Runs [`Stage::Recheck`] for one address family.
#[inline(never)]
pub fn recheck<A: Family>(skb: *mut __sk_buff) -> Verdict
where
    KernelMaps: FamilyMaps<A>,
    KernelFlows: FlowMap<A>,
{
    let mut skb = Skb::<true>::from_raw(skb);
    let ((origin, _), ifindex) = (skb.received(), skb.ifindex());
    recheck::recheck(&mut skb, &mut KernelFlows, &KernelMaps, origin, ifindex)
}

macro_rules! declare_finish {
    ($($(#[$doc:meta])* $stage:ident = $number:literal, $v4:literal, $v6:literal;)*) => {
        /// Executes the verdict, or makes the tail call to the stage that decides instead.
        #[inline(always)]
        fn finish<const UPLINK: bool>(
            mut skb: Skb<UPLINK>,
            program: &str,
            origin: Origin,
            v6: bool,
            verdict: Verdict,
        ) -> i32 {
            // One call per stage with a constant index: the verifier registers it as a direct jump
            // (`bpf_jit_add_poke_descriptor` in kernel/bpf/core.c), which costs no retpoline.
            match (verdict.stage(), v6) {
                (None, _) => return skb.finish(program, verdict),
                $(
                    (Some(Stage::$stage), false) => skb.tail_call(Stage::$stage, false, origin, verdict),
                    (Some(Stage::$stage), true) => skb.tail_call(Stage::$stage, true, origin, verdict),
                )*
            }
            // A tail call returns only if the array has no program at the index.
            skb.finish(program, Verdict::drop(DropReason::NoStage))
        }
    };
}

for_each_stage!(declare_finish);
