//! The memory of the process itself.

/// Gives back to the kernel what the process has freed. The allocator keeps that by itself: after programs were loaded, more than ten megabytes that a node
/// never needs again.
pub fn trim() {
    // SAFETY: no preconditions; glibc takes the allocator's locks by itself.
    unsafe { libc::malloc_trim(0) };
}
