//! Observations of every cell of a rule at several points in time.
//!
//! A test changes objects step by step and calls [`Observations::observe`] after each step. A cell
//! that has failed once is not checked again. The test records all outcomes at its end, with the
//! number of assertions.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use ropeway_tests::contracts::{Checked, Path, Rule};
use ropeway_tests::pod::IpFamily;

use super::fixture::ContractFixture;

/// The outcome of each cell so far.
pub(super) struct Observations {
    cells: BTreeMap<(Path, IpFamily), Checked>,
}

impl Observations {
    pub(super) fn new(rule: &str) -> Self {
        let cells = Rule::of(rule).unwrap().selected_cells();
        Self { cells: cells.into_iter().map(|cell| (cell, Checked::default())).collect() }
    }

    /// Checks every cell that has not failed yet, one after the other.
    pub(super) fn observe(&mut self, mut check: impl FnMut(Path, IpFamily) -> Result<()>) {
        for ((path, family), checked) in &mut self.cells {
            *checked = std::mem::take(checked).and_then(|| check(*path, *family));
        }
    }

    /// Checks every cell that has not failed yet, all at the same time, for checks that wait.
    pub(super) fn observe_in_parallel(&mut self, check: impl Fn(Path, IpFamily) -> Result<()> + Sync) {
        let check = &check;
        std::thread::scope(|scope| {
            let start = |(cell, checked): (&(Path, IpFamily), &mut Checked)| {
                let (path, family) = *cell;
                let before = std::mem::take(checked);
                (*cell, scope.spawn(move || before.and_then(|| check(path, family))))
            };
            let started: Vec<_> = self.cells.iter_mut().map(start).collect();
            for (cell, thread) in started {
                let panicked = |_| Checked { assertions: 0, outcome: Err(anyhow!("the test panicked")) };
                self.cells.insert(cell, thread.join().unwrap_or_else(panicked));
            }
        });
    }

    /// Records the outcomes as those of `rule`.
    pub(super) fn record(self, fixture: &ContractFixture, rule: &str) {
        for ((path, family), checked) in self.cells {
            fixture.record(rule, path, family, &checked);
        }
    }
}
