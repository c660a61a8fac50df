//! The entry points of the stages.
//!
//! The product's object and the benchmark's contain them, because the benchmark measures the tail
//! call too. [`dataplane_common::for_each_stage`] is the list of stages; agent and tests look the
//! programs up by these names. The functions are written out instead of generated, so that a search
//! for a program's name finds its function.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use dataplane_common::types::address::{V4, V6};

use crate::programs::{
    check_inner_source, deliver, icmp_error, judge, new_connection, recheck, reject, reuse_port, run_stage, sctp_ports,
    udp_failover,
};

/// Handles a packet that may open a flow. Called by `from_pod` and `from_uplink`.
#[classifier]
pub fn stage_new4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_new4", false, new_connection::<V4, false>)
}

/// Handles a packet that may open a flow. Called by `from_pod` and `from_uplink`.
#[classifier]
pub fn stage_new6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_new6", true, new_connection::<V6, false>)
}

/// Handles a packet that opens a flow to the backend with the fewest connections. Called by
/// `stage_new4`.
#[classifier]
pub fn stage_least4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_least4", false, new_connection::<V4, true>)
}

/// Handles a packet that opens a flow to the backend with the fewest connections. Called by
/// `stage_new6`.
#[classifier]
pub fn stage_least6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_least6", true, new_connection::<V6, true>)
}

/// Handles a packet that opens a connection for which a flow exists. Called by `from_pod`,
/// `from_uplink` and `stage_new*`.
#[classifier]
pub fn stage_reuse4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_reuse4", false, reuse_port::<V4>)
}

/// Handles a packet that opens a connection for which a flow exists. Called by `from_pod`,
/// `from_uplink` and `stage_new*`.
#[classifier]
pub fn stage_reuse6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_reuse6", true, reuse_port::<V6>)
}

/// Translates an ICMP error about a packet of a flow. Called by the programs at every hook.
#[classifier]
pub fn stage_icmp4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_icmp4", false, icmp_error::<V4>)
}

/// Translates an ICMP error about a packet of a flow. Called by the programs at every hook.
#[classifier]
pub fn stage_icmp6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_icmp6", true, icmp_error::<V6>)
}

/// Turns a rejected packet into a TCP reset or an ICMP error. Called by any packet program.
#[classifier]
pub fn stage_reject4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_reject4", false, reject::<V4>)
}

/// Turns a rejected packet into a TCP reset or an ICMP error. Called by any packet program.
#[classifier]
pub fn stage_reject6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_reject6", true, reject::<V6>)
}

/// Writes the ports of a translated SCTP packet. Called last, by any packet program.
#[classifier]
pub fn stage_sctp4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_sctp4", false, sctp_ports::<V4>)
}

/// Writes the ports of a translated SCTP packet. Called last, by any packet program.
#[classifier]
pub fn stage_sctp6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_sctp6", true, sctp_ports::<V6>)
}

/// Sends a datagram of a connected socket, whose backend has ended, to another backend. Called by
/// `to_uplink` and `to_pod`.
#[classifier]
pub fn stage_failover4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_failover4", false, udp_failover::<V4>)
}

/// Sends a datagram of a connected socket, whose backend has ended, to another backend. Called by
/// `to_uplink` and `to_pod`.
#[classifier]
pub fn stage_failover6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_failover6", true, udp_failover::<V6>)
}

/// Checks the source of the packet in a node's datagram to the tunnel. Called by `from_uplink`.
#[classifier]
pub fn stage_tunnel4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_tunnel4", false, check_inner_source::<V4>)
}

/// Checks the source of the packet in a node's datagram to the tunnel. Called by `from_uplink`.
#[classifier]
pub fn stage_tunnel6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_tunnel6", true, check_inner_source::<V6>)
}

/// Judges the first packet of a connection by network policy. Called by `from_pod`, `from_uplink`,
/// `stage_new*`, `stage_least*` and `stage_icmp*`.
#[classifier]
pub fn stage_judge4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_judge4", false, judge::<V4>)
}

/// Judges the first packet of a connection by network policy. Called by `from_pod`, `from_uplink`,
/// `stage_new*`, `stage_least*` and `stage_icmp*`.
#[classifier]
pub fn stage_judge6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_judge6", true, judge::<V6>)
}

/// Judges a packet of the host's stack by network policy. Called by `to_pod` and `stage_icmp*`.
#[classifier]
pub fn stage_deliver4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_deliver4", false, deliver::<V4>)
}

/// Judges a packet of the host's stack by network policy. Called by `to_pod` and `stage_icmp*`.
#[classifier]
pub fn stage_deliver6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_deliver6", true, deliver::<V6>)
}

/// Judges a known connection again. Called by `from_pod`, `from_uplink`, `to_pod` and
/// `stage_reuse*`.
#[classifier]
pub fn stage_recheck4(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_recheck4", false, recheck::<V4>)
}

/// Judges a known connection again. Called by `from_pod`, `from_uplink`, `to_pod` and
/// `stage_reuse*`.
#[classifier]
pub fn stage_recheck6(ctx: TcContext) -> i32 {
    run_stage(ctx, "stage_recheck6", true, recheck::<V6>)
}
