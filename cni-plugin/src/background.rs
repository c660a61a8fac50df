//! Work beside the answer: in a process of its own, so that the runtime need not wait for the kernel.

use std::io;

use crate::error::CniError;
use crate::log::log;
use crate::sys::{self, ForkSide};

/// Works in a child, or in this process where that can't be had; then the error is the work's.
pub(crate) fn run(what: &str, work: impl FnOnce() -> Result<(), CniError>) -> Result<(), CniError> {
    match detach_standard_streams().and_then(|()| sys::fork()) {
        Ok(ForkSide::Parent) => Ok(()),
        Ok(ForkSide::Child) => {
            let left = leave_session().map_err(|e| CniError::io("leave the session", e));
            std::process::exit(i32::from(left.and_then(|()| work()).is_err()));
        }
        Err(e) => {
            log(&format!("no process of its own for the {what}: {e}"));
            work()
        }
    }
}

/// The runtime waits until nobody has its pipes open any more, so the child must never have them.
fn detach_standard_streams() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

/// Signals to the runtime's process group are not for us, and its directory is not held by us.
fn leave_session() -> io::Result<()> {
    rustix::process::setsid()?;
    std::env::set_current_dir("/")
}
