//! One verb each.

pub(crate) mod add;
pub(crate) mod del;
pub(crate) mod version;

use std::time::Duration;

/// How long a verb waits for the store or for an earlier verb of the same attachment.
pub(crate) const LOCK_DEADLINE: Duration = Duration::from_secs(10);
