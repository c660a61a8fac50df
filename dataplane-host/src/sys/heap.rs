//! The heap of this process.
//!
//! The agent trims it once after loading its programs.

/// Gives freed memory back to the kernel (`malloc_trim(3)`). The allocator would keep it: more than
/// ten megabytes after the programs were loaded, which the agent never needs again.
pub fn trim() {
    // SAFETY: no preconditions; glibc takes the allocator's locks itself.
    unsafe { libc::malloc_trim(0) };
}
