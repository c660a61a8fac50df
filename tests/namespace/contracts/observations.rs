//! Several looks at every cell of a rule, while what it is about changes.

use std::collections::BTreeMap;

use anyhow::Result;
use ropeway_tests::contracts::{Path, Rule};
use ropeway_tests::pod::Family;

use super::world::World;

/// For each cell the first thing that was wrong.
pub(super) struct Looks(BTreeMap<(Path, Family), Result<()>>);

impl Looks {
    pub(super) fn new(rule: &str) -> Self {
        Self(Rule::of(rule).unwrap().cells().into_iter().map(|cell| (cell, Ok(()))).collect())
    }

    /// Looks at every cell that was well so far, one after the other.
    pub(super) fn look(&mut self, check: impl Fn(Path, Family) -> Result<()>) {
        for ((path, family), outcome) in &mut self.0 {
            if outcome.is_ok() {
                *outcome = check(*path, *family);
            }
        }
    }

    /// Writes down what was seen.
    pub(super) fn record(self, world: &World, rule: &str) {
        for ((path, family), outcome) in self.0 {
            world.record(rule, path, family, &outcome);
        }
    }
}
