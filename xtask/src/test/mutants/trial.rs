//! Runs the host tests of a room in the copy of the checkout, without a mutation and with each.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::mutant::Mutant;
use super::room::Room;
use crate::paths::Paths;
use crate::shell;

/// Histories of each property test: few of them notice most mutants, and all take minutes.
const PROPERTY_TEST_CASES: &str = "64";

/// Limit of one build, in seconds. A mutant that exceeds it is one that the compiler evaluates.
const BUILD_SECONDS: u64 = 600;

/// Shortest limit of the tests, in seconds: the machine may do other work as well.
const LEAST_TEST_SECONDS: u64 = 30;

/// The exit status of timeout(1) at its limit, and that of a command that it had to kill.
const TIMED_OUT: [i32; 2] = [124, 137];

/// The result of one mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A test failed.
    Caught,
    /// All tests passed.
    Missed,
    /// The tests did not end.
    Timeout,
    /// It does not compile.
    Unviable,
}

/// The tests of a room, which pass without a mutation.
pub(super) struct Trial<'a> {
    copy: &'a Paths,
    room: &'static Room,
    limit: u64,
}

impl<'a> Trial<'a> {
    /// Builds and runs the tests without a mutation. The time that they take limits that of a
    /// mutant.
    pub(super) fn start(copy: &'a Paths, room: &'static Room) -> Result<Self> {
        let mut trial = Self { copy, room, limit: BUILD_SECONDS };
        shell::run_long(trial.build().arg("--quiet"))?;
        let start = Instant::now();
        shell::with_signs_of_life(|| shell::output(&mut trial.test())).context("the tests fail without a mutation")?;
        trial.limit = limit(start.elapsed());
        Ok(trial)
    }

    /// Returns the limit of the tests.
    pub(super) const fn limit(&self) -> Duration {
        Duration::from_secs(self.limit)
    }

    /// Builds and tests one mutant, and takes it back.
    pub(super) fn run(&self, mutant: &Mutant) -> Result<Outcome> {
        let path = self.copy.root.join(mutant.file());
        let original = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::write(&path, mutant.apply(&original)).with_context(|| format!("cannot write {}", path.display()))?;
        let outcome = self.outcome();
        fs::write(&path, original).with_context(|| format!("cannot restore {}", path.display()))?;
        outcome
    }

    fn outcome(&self) -> Result<Outcome> {
        let status = |command: &mut Command| -> Result<i32> {
            let output = command.output().context("cannot start timeout(1)")?;
            Ok(output.status.code().unwrap_or(TIMED_OUT[1]))
        };
        Ok(match status(&mut self.build())? {
            0 => match status(&mut self.test())? {
                0 => Outcome::Missed,
                code if TIMED_OUT.contains(&code) => Outcome::Timeout,
                _ => Outcome::Caught,
            },
            code if TIMED_OUT.contains(&code) => Outcome::Timeout,
            _ => Outcome::Unviable,
        })
    }

    fn build(&self) -> Command {
        let mut command = self.cargo(BUILD_SECONDS);
        command.arg("--no-run");
        command
    }

    fn test(&self) -> Command {
        let mut command = self.cargo(self.limit);
        command.args((!self.room.filter.is_empty()).then_some(self.room.filter));
        command
    }

    /// Returns a call of `cargo test` that ends with all its processes after `seconds`.
    fn cargo(&self, seconds: u64) -> Command {
        let cargo = shell::cargo(&self.copy.root);
        let mut command = Command::new("timeout");
        command.current_dir(&self.copy.root).args(["--kill-after=5", &seconds.to_string()]);
        shell::clean(&mut command);
        command.arg(cargo.get_program()).args(["test", "--locked"]);
        for package in self.room.test_packages {
            command.args(["--package", package]);
        }
        command.args(self.room.targets);
        command.env("CARGO_TARGET_DIR", &self.copy.target).env("CARGO_INCREMENTAL", "1");
        command.env("PROPTEST_CASES", PROPERTY_TEST_CASES).env("RUST_BACKTRACE", "0");
        command
    }
}

/// Returns the limit in seconds of tests that took `time`.
fn limit(time: Duration) -> u64 {
    (3 * time.as_secs()).max(LEAST_TEST_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_leaves_room_for_a_busy_machine() {
        assert_eq!(limit(Duration::from_secs(2)), 30);
        assert_eq!(limit(Duration::from_secs(20)), 60);
    }
}
