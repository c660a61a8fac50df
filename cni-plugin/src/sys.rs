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
    /// The new process.
    Child,
}

/// Splits the process. Refuses when it has more than one thread: a child must not inherit locks of
/// threads it doesn't have.
pub(crate) fn fork() -> io::Result<ForkSide> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("the process has {threads} threads")));
    }
    // SAFETY: there is only this thread, so that no lock of the allocator or of std is held by
    // another one.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(ForkSide::Child),
        _ => Ok(ForkSide::Parent),
    }
}
