//! A list of checks, each described by a sentence. All of them run; at the end an error names those
//! that failed.

use std::time::Instant;

use anyhow::{Result, ensure};

/// The checks so far and their outcome.
#[derive(Default)]
pub(super) struct Checks {
    made: usize,
    failures: Vec<String>,
}

impl Checks {
    /// Runs a check and prints its outcome. Returns whether it passed.
    pub(super) fn check(&mut self, what: &str, check: impl FnOnce() -> Result<()>) -> bool {
        let begin = Instant::now();
        let outcome = check();
        self.made += 1;
        match &outcome {
            Ok(()) => println!("  ok    {what} ({:.1} s)", begin.elapsed().as_secs_f64()),
            Err(error) => {
                println!("  FAIL  {what}: {error:#}");
                self.failures.push(format!("{what}: {error:#}"));
            }
        }
        outcome.is_ok()
    }

    /// Returns an error that names all failed checks.
    pub(super) fn end(self) -> Result<()> {
        ensure!(self.made > 0, "nothing was checked");
        ensure!(self.failures.is_empty(), "{} failed:\n  {}", self.failures.len(), self.failures.join("\n  "));
        println!("all {} checks passed", self.made);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_checks_run_and_one_failure_fails_the_run() {
        let mut checks = Checks::default();
        assert!(checks.check("one", || Ok(())));
        assert!(!checks.check("two", || Err(anyhow::anyhow!("no"))));
        assert!(checks.check("three", || Ok(())));
        assert_eq!(checks.end().unwrap_err().to_string(), "1 failed:\n  two: no");
        assert_eq!(Checks::default().end().unwrap_err().to_string(), "nothing was checked");
    }
}
