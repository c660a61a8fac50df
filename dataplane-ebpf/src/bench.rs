//! The programs of `cargo xtask bench packet`.
//!
//! `bench_from_pod` runs the real `from_pod` on a packet that is restored before every run;
//! `bench_base` only restores it, and is subtracted. The `bare_*` programs run the map operations
//! that the costs are compared with. This object is never shipped.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(dead_code, reason = "the benchmark uses a part of the modules it shares with the product")]

#[path = "kernel/bench.rs"]
mod input;
mod kernel;
mod maps;
mod programs;
mod stages;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use dataplane_common::maps::FlowMap;
use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::flow::{Flow, FlowKey};
use kernel::tables::KernelFlows;

/// Number of operations in one run of a bare map program.
const OPERATIONS: u32 = 8;

/// Restores the packet: the baseline that is subtracted.
#[classifier]
pub fn bench_base(ctx: TcContext) -> i32 {
    i32::from(input::reset(&ctx))
}

/// Restores the packet and runs `from_pod`.
#[classifier]
pub fn bench_from_pod(ctx: TcContext) -> i32 {
    if !input::reset(&ctx) {
        return 0;
    }
    programs::from_pod(ctx)
}

/// Declares programs that repeat one map operation for consecutive numbers.
macro_rules! bare {
    ($($(#[$doc:meta])* $name:ident($n:ident) $e:expr;)*) => {$(
        $(#[$doc])*
        #[classifier]
        pub fn $name(_ctx: TcContext) -> i32 {
            let Some((first, mask)) = input::take(OPERATIONS) else { return 0 };
            let mut done = 0;
            for i in 0..OPERATIONS {
                let $n = first.wrapping_add(i) & mask;
                done += i32::from($e);
            }
            done
        }
    )*};
}

#[inline(always)]
fn key4(n: u32) -> FlowKey<V4> {
    let (src, dst) = (V4 { octets: [10, 1, 0, 2] }, V4 { octets: [10, 200, 0, (n >> 16) as u8] });
    FlowKey { src, dst, sport: n as u16, dport: 80, proto: 6, pad: [0; 3] }
}

#[inline(always)]
fn key6(n: u32) -> FlowKey<V6> {
    let (src, dst) = (V6::from_words([0xfd, 0, 0, 2]), V6::from_words([0xfd, 0, 0, n >> 16]));
    FlowKey { src, dst, sport: n as u16, dport: 80, proto: 6, pad: [0; 3] }
}

#[inline(always)]
fn flow<A: Copy>(addr: A) -> Flow<A> {
    let (iif, oif, backend, generation, last_seen) = (1, 2, 3, 4, 5);
    let (sport, dport) = (1, 2);
    Flow {
        src: addr,
        dst: addr,
        sport,
        dport,
        iif,
        oif,
        backend,
        generation,
        last_seen,
        epoch: 0,
        state: 0,
        flags: 0,
        seq: 0,
    }
}

bare! {
    /// Loop and counter without a map operation.
    bare_none(n) n != u32::MAX;
    /// Lookup of an existing entry in `flows4`.
    bare_lookup4(n) FlowMap::<V4>::get(&mut KernelFlows, &key4(n)).is_some();
    /// Lookup of an existing entry in `flows6`.
    bare_lookup6(n) FlowMap::<V6>::get(&mut KernelFlows, &key6(n)).is_some();
    /// Insertion of a new entry into `flows4`.
    bare_insert4(n) KernelFlows.insert(&key4(n), &flow(V4 { octets: [10, 0, 0, 1] }));
    /// Insertion of a new entry into `flows6`.
    bare_insert6(n) KernelFlows.insert(&key6(n), &flow(V6::from_words([1, 2, 3, 4])));
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
