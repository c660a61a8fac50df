//! Counts the assertions behind the outcome of a cell.
//!
//! [`crate::expect!`] counts each assertion of a thread, and [`Checked::run`] reads the count. A
//! cell that passes without an assertion fails in the matrix: its test compared nothing.

use std::cell::Cell;

use anyhow::Result;

thread_local! {
    static ASSERTIONS: Cell<u32> = const { Cell::new(0) };
}

/// Counts an assertion of this thread. Called by [`crate::expect!`].
pub fn count_assertion() {
    ASSERTIONS.set(ASSERTIONS.get() + 1);
}

/// Returns the number of assertions that this thread has made.
#[must_use]
pub fn assertions() -> u32 {
    ASSERTIONS.get()
}

/// Returns with an error if the condition is false, as [`anyhow::ensure!`], and counts the
/// assertion for [`Checked`].
#[macro_export]
macro_rules! expect {
    ($($arguments:tt)+) => {{
        $crate::contracts::count_assertion();
        ::anyhow::ensure!($($arguments)+);
    }};
}

/// The outcome of the checks of a cell.
#[derive(Debug)]
pub struct Checked {
    /// Number of assertions up to the first that failed.
    pub assertions: u32,
    /// The first failure.
    pub outcome: Result<()>,
}

impl Checked {
    /// Runs a check on this thread.
    pub fn run(check: impl FnOnce() -> Result<()>) -> Self {
        let before = assertions();
        let outcome = check();
        Self { assertions: assertions() - before, outcome }
    }

    /// Runs another check, unless one has failed.
    #[must_use]
    pub fn and_then(self, check: impl FnOnce() -> Result<()>) -> Self {
        if self.outcome.is_err() {
            return self;
        }
        let next = Self::run(check);
        Self { assertions: self.assertions + next.assertions, outcome: next.outcome }
    }
}

impl Default for Checked {
    /// Returns the outcome before the first check.
    fn default() -> Self {
        Self { assertions: 0, outcome: Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions_are_counted_up_to_the_first_failure() {
        let checked = Checked::run(|| {
            expect!(1 < 2);
            expect!(1 < 2, "{} is not less", 1);
            Ok(())
        });
        assert!(checked.outcome.is_ok());
        let checked = checked.and_then(|| {
            expect!(2 < 1, "two");
            expect!(1 < 2);
            Ok(())
        });
        assert_eq!((checked.assertions, checked.outcome.unwrap_err().to_string()), (3, "two".to_owned()));
        let failed = Checked::run(|| anyhow::bail!("broken")).and_then(|| {
            expect!(true);
            Ok(())
        });
        assert_eq!(failed.assertions, 0, "a check after a failure ran");
    }
}
