//! Waits for conditions, never for a fixed time: a deadline only decides when to give up.
//!
//! Used by all tests and by the harness. The error names the awaited condition and the last reason
//! why it did not hold.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Interval between two checks of a condition.
const STEP: Duration = Duration::from_millis(5);

/// Polls until there is a value. After `deadline`, the error names the awaited condition and the
/// reason why it does not hold, if known.
///
/// # Errors
/// When there is no answer in time.
pub fn until<T>(what: &str, deadline: Duration, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let last = match poll() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= end {
            match last {
                Some(error) => bail!("timeout: {what}: not within {deadline:?}: {error:#}"),
                None => bail!("timeout: {what}: not within {deadline:?}"),
            }
        }
        std::thread::park_timeout(STEP);
    }
}

/// Polls like [`until`], for a condition without a value.
///
/// # Errors
/// When it does not hold in time.
pub fn until_true(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    until(what, deadline, || Ok(holds().then_some(())))
}
