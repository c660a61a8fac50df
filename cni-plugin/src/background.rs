//! Runs work in a child process after the answer, so that the runtime does not wait for the kernel.
//!
//! Used for the removal of devices (DEL) and for the MTU of running pods. The child has no log.

use std::io;

use crate::error::CniError;
use crate::log::log;
use crate::sys::{self, ForkSide};

/// Runs `work` in a child. If fork fails, runs it here and returns its error.
pub(crate) fn run(what: &str, work: impl FnOnce() -> Result<(), CniError>) -> Result<(), CniError> {
    match detach_standard_streams().and_then(|()| sys::fork()) {
        Ok(ForkSide::Parent) => Ok(()),
        Ok(ForkSide::Child) => {
            let left = leave_session().map_err(|e| CniError::io("leave the runtime's process group", e));
            std::process::exit(i32::from(left.and_then(|()| work()).is_err()));
        }
        Err(e) => {
            log(&format!("{what}: fork failed, continuing in the foreground: {e}"));
            work()
        }
    }
}

/// Replaces the standard streams by /dev/null. The runtime waits until all copies of its pipes are
/// closed.
fn detach_standard_streams() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

/// Leaves the runtime's process group, whose signals must not hit the child, and its working
/// directory.
fn leave_session() -> io::Result<()> {
    rustix::process::setsid()?;
    std::env::set_current_dir("/")
}
