//! Observations of every cell of a rule at several points in time.
//!
//! A test changes objects step by step and calls [`Observations::observe`] after each step. A cell
//! that has failed once is not checked again. The test records all outcomes at its end.

use std::collections::BTreeMap;

use anyhow::Result;
use ropeway_tests::contracts::{Path, Rule};
use ropeway_tests::pod::IpFamily;

use super::fixture::ContractFixture;

/// The outcome of each cell so far: its first failure, if there was one.
pub(super) struct Observations {
    outcomes: BTreeMap<(Path, IpFamily), Result<()>>,
}

impl Observations {
    pub(super) fn new(rule: &str) -> Self {
        Self { outcomes: Rule::of(rule).unwrap().cells().into_iter().map(|cell| (cell, Ok(()))).collect() }
    }

    /// Checks every cell that has not failed yet, one after the other.
    pub(super) fn observe(&mut self, check: impl Fn(Path, IpFamily) -> Result<()>) {
        for ((path, family), outcome) in &mut self.outcomes {
            if outcome.is_ok() {
                *outcome = check(*path, *family);
            }
        }
    }

    /// Records the outcomes as those of `rule`.
    pub(super) fn record(self, fixture: &ContractFixture, rule: &str) {
        for ((path, family), outcome) in self.outcomes {
            fixture.record(rule, path, family, &outcome);
        }
    }
}
