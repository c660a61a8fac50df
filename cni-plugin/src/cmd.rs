//! The verbs of the CNI specification, one module each.
//!
//! Every verb gets the checked environment and configuration from `main` and returns its output or
//! one error.

pub(crate) mod add;
pub(crate) mod check;
pub(crate) mod del;
pub(crate) mod gc;
pub(crate) mod status;
pub(crate) mod version;

use std::time::Duration;

use dataplane_host::store::{AttachmentId, LOCK_DEADLINE, LockedStore};

use crate::error::CniError;

/// Interval of checks for the end of another call on the same attachment.
const POLL: Duration = Duration::from_millis(2);

fn still_busy(id: &AttachmentId) -> CniError {
    let id = format!("{} of container {}", id.ifname, id.container);
    CniError::StillBusy { id, seconds: LOCK_DEADLINE.as_secs() }
}

/// Releases the lock and waits for [`POLL`]: the process that works on the attachment may need the
/// lock to finish.
fn poll_again(locked: LockedStore<'_>) {
    drop(locked);
    std::thread::sleep(POLL);
}
