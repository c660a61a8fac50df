//! What only instructions of the machine can say.

use core::arch::asm;

/// Adds to a counter that several CPUs share, with wrap-around: `core::sync::atomic` has nothing for this target, the machine has (RFC 9669, section 5.3).
///
/// # Safety
/// `counter` points to 8 aligned bytes of a map's value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, n: u64) {
    // SAFETY: one instruction, which reads and writes those bytes alone.
    unsafe { asm!("lock *(u64 *)({p} + 0) += {n}", p = in(reg) counter, n = in(reg) n, options(nostack)) };
}

/// The same number, of which the compiler knows nothing any more. (`core::hint::black_box` takes a way through memory.)
#[inline(always)]
pub fn optimization_barrier(n: u32) -> u32 {
    let mut n = n as u64;
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {n} */", n = inout(reg) n, options(nomem, nostack, preserves_flags)) };
    n as u32
}
