//! Progress messages and waiting. Each step prints its name and its duration. Waiting is for a
//! condition with a deadline, never for a fixed time.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The interval between two checks of a condition.
const POLL: Duration = Duration::from_millis(200);

/// A sequence of steps with the time since the first.
pub(super) struct Steps {
    start: Instant,
}

impl Steps {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Runs one step and prints its name and duration.
    pub(super) fn step<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        print!("==> {what} ... ");
        std::io::stdout().flush()?;
        let begin = Instant::now();
        match work() {
            Ok(value) => {
                let (took, total) = (begin.elapsed().as_secs_f64(), self.start.elapsed().as_secs_f64());
                println!("{took:.1} s (at {total:.1} s)");
                Ok(value)
            }
            Err(error) => {
                println!("failed");
                Err(error.context(what.to_owned()))
            }
        }
    }
}

/// Waits until `look` returns a value. The error has its last reason for not doing so.
pub(super) fn wait_for<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => bail!("{what}: not within {seconds} s: {error:#}"),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
