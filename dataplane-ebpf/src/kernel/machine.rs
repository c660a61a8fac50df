//! Operations that need inline assembly: atomic addition, and an optimization barrier.
//!
//! Rust's `core` has no atomics for this target, and LLVM crashes on them. The module contains
//! single instructions and no logic. The traits of `dataplane-common` reach it through `tables.rs`.

use core::arch::asm;

/// Adds to a counter that several CPUs share, with wrap-around (RFC 9669, section 5.3).
///
/// # Safety
/// `counter` points to 8 aligned bytes of a map value that the program may write.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, n: u64) {
    // SAFETY: one instruction that reads and writes those bytes alone.
    unsafe { asm!("lock *(u64 *)({p} + 0) += {n}", p = in(reg) counter, n = in(reg) n, options(nostack)) };
}

/// Adds to a number that several CPUs share, with wrap-around, and returns the one from before
/// (RFC 9669, section 5.3).
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_add(number: *mut u64, n: u64) -> u64 {
    let mut n = n;
    // SAFETY: one instruction that reads and writes those bytes alone.
    unsafe {
        asm!("{n} = atomic_fetch_add((u64 *)({p} + 0), {n})", p = in(reg) number, n = inout(reg) n, options(nostack))
    };
    n
}

/// Returns `n` unchanged, but hides its value from the optimizer.
///
/// `core::hint::black_box` would do so by way of memory, and cost stack.
#[inline(always)]
pub fn optimization_barrier(n: u32) -> u32 {
    let mut n = n as u64;
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {n} */", n = inout(reg) n, options(nomem, nostack, preserves_flags)) };
    n as u32
}
