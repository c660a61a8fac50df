//! fork(2), the only system call that the libraries do not offer safely.
//!
//! The only module of the plugin with unsafe code.
#![allow(unsafe_code, reason = "the only module with unsafe code; see its header")]

use std::io;

/// The process in which fork returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForkSide {
    /// The process that forked.
    Parent,
    /// The process that fork created.
    Child,
}

/// Forks. Fails if the process has more than one thread: the child must not inherit locks of
/// threads that it does not have.
pub(crate) fn fork() -> io::Result<ForkSide> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("the process has {threads} threads")));
    }
    // SAFETY: the process has one thread, so no other thread holds a lock of the allocator or of
    // std.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(ForkSide::Child),
        _ => Ok(ForkSide::Parent),
    }
}
