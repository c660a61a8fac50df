//! The latest counts of the flow tables, shared between the task that sweeps them and the metrics.
//!
//! Written by [`super::watch`] after each sweep, read by `observe::metrics`. It touches no map.

use std::sync::{Mutex, PoisonError};

use super::FlowCounts;

/// The counts of the last sweep, with the removals of all sweeps since the agent started.
#[derive(Debug, Default)]
pub struct FlowStatus(Mutex<[FlowCounts; 2]>);

impl FlowStatus {
    /// Replaces the counts, IPv4 first. `removed` is added to the sum so far.
    pub fn set(&self, now: [FlowCounts; 2]) {
        let mut flows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (before, now) in flows.iter_mut().zip(now) {
            *before = FlowCounts { removed: before.removed + now.removed, ..now };
        }
    }

    /// Returns the counts, IPv4 first.
    #[must_use]
    pub fn get(&self) -> [FlowCounts; 2] {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
