//! Status of the node: counters and problems that other threads read at any time.
//!
//! Written by the node's task, the pool task and the tasks that work at intervals; read by the
//! metrics, `/readyz` and the task that writes the file for `ropeway status`. It never blocks for
//! longer than a copy of a list.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Failed refreshes in a row after which the node is not ready. They are a second apart.
const MAX_FAILURES: u32 = 30;

/// A task that works at intervals and whose failures change nothing but its own work: the agent
/// goes on, and the next round tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeriodicTask {
    /// Removes ended flows.
    Flows,
    /// Counts connections for the least-connection schedulers.
    Loads,
    /// Finds leaked addresses.
    AddressGc,
    /// Looks for rules of kube-proxy.
    Leftovers,
}

impl PeriodicTask {
    /// All tasks, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Flows, Self::Loads, Self::AddressGc, Self::Leftovers];

    /// Returns the task's name, as in the agent's error when the task ends.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Loads => "loads",
            Self::AddressGc => "address-gc",
            Self::Leftovers => "leftovers",
        }
    }
}

/// Shared by the tasks and the HTTP servers.
#[derive(Debug, Default)]
pub struct NodeStatus {
    in_order: AtomicBool,
    failures_in_a_row: AtomicU32,
    operations: AtomicU64,
    repairs: AtomicU64,
    failures: AtomicU64,
    leaked: AtomicU64,
    lost_routes: AtomicU64,
    monitor_restarts: AtomicU64,
    notes: Mutex<Vec<String>>,
    problems: Mutex<Vec<String>>,
    pool_problems: Mutex<Vec<String>>,
    pools_failed: Mutex<Option<String>>,
    foreign_programs: Mutex<Vec<String>>,
    networks_full: Mutex<Vec<String>>,
    failed_rounds: [AtomicU64; PeriodicTask::ALL.len()],
}

impl NodeStatus {
    /// Reports that a refresh has succeeded; `knows_all`: with everything known that readiness
    /// depends on.
    pub fn succeeded(&self, knows_all: bool) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        if knows_all {
            self.in_order.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if Services, programs, routes and node.json have been in place once, and the
    /// last [`MAX_FAILURES`] refreshes have not all failed.
    ///
    /// One failure does not count, so that a rolling update need not wait for a passing fault: the
    /// node keeps its programs, maps and routes meanwhile.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.in_order.load(Ordering::Relaxed) && self.failures_in_a_row.load(Ordering::Relaxed) < MAX_FAILURES
    }

    /// Counts changes of kernel objects; `repair`: another program had changed them.
    pub fn operations(&self, count: usize, repair: bool) {
        self.operations.fetch_add(count as u64, Ordering::Relaxed);
        if repair {
            self.repairs.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Counts a failed refresh.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failed round of a periodic task.
    pub fn round_failed(&self, task: PeriodicTask) {
        self.failed_rounds[task as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of failed rounds of a periodic task.
    #[must_use]
    pub fn failed_rounds(&self, task: PeriodicTask) -> u64 {
        self.failed_rounds[task as usize].load(Ordering::Relaxed)
    }

    /// Counts addresses whose pods have disappeared without a DEL.
    pub fn leaked(&self, addresses: usize) {
        self.leaked.fetch_add(addresses as u64, Ordering::Relaxed);
    }

    /// Returns the number of leaked addresses.
    #[must_use]
    pub fn leaks(&self) -> u64 {
        self.leaked.load(Ordering::Relaxed)
    }

    /// Counts Ropeway's routes that another program had removed or changed.
    pub fn lost_routes(&self, count: usize) {
        self.lost_routes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Returns the number of routes that were removed or changed by another program.
    #[must_use]
    pub fn route_repairs(&self) -> u64 {
        self.lost_routes.load(Ordering::Relaxed)
    }

    /// Counts a netlink monitor that was opened again after a failure.
    pub fn monitor_restarted(&self) {
        self.monitor_restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of restarts of the netlink monitor.
    #[must_use]
    pub fn monitor_restarts(&self) -> u64 {
        self.monitor_restarts.load(Ordering::Relaxed)
    }

    /// Sets what an operator should know of the node's devices and settings.
    pub fn set_notes(&self, notes: &[String]) {
        replace(&self.notes, notes);
    }

    /// Returns what [`Self::set_notes`] has set.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the ranges without a route, with the reason; returns true if they have changed.
    pub fn problems(&self, problems: &[String]) -> bool {
        replace(&self.problems, problems)
    }

    /// Sets the problems of pools and blocks; returns true if they have changed.
    pub fn pool_problems(&self, problems: &[String]) -> bool {
        replace(&self.pool_problems, problems)
    }

    /// Sets the programs of others at our hooks; returns true if they have changed.
    pub fn set_foreign_programs(&self, programs: &[String]) -> bool {
        replace(&self.foreign_programs, programs)
    }

    /// Returns descriptions of the programs of others at our hooks.
    #[must_use]
    pub fn foreign_programs(&self) -> Vec<String> {
        self.foreign_programs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the error of a trie of networks that is full; returns true if it has changed.
    pub fn set_networks_full(&self, error: Option<&str>) -> bool {
        replace(&self.networks_full, &error.map(Into::into).into_iter().collect::<Vec<_>>())
    }

    /// Sets the error of the pool task's last round; `None` if it succeeded.
    pub fn pools_failed(&self, error: Option<String>) {
        *self.pools_failed.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Returns the number of problems of pools and blocks.
    #[must_use]
    pub fn pool_problem_count(&self) -> usize {
        let failed = self.pools_failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        self.pool_problems.lock().unwrap_or_else(PoisonError::into_inner).len() + usize::from(failed)
    }

    /// Returns the numbers of operations, of repairs among them, and of failed refreshes.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.operations), get(&self.repairs), get(&self.failures))
    }

    /// Returns the number of ranges without a route.
    #[must_use]
    pub fn unrouted(&self) -> usize {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn replace(present: &Mutex<Vec<String>>, problems: &[String]) -> bool {
    let mut present = present.lock().unwrap_or_else(PoisonError::into_inner);
    let changed = *present != problems;
    if changed {
        problems.clone_into(&mut present);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_falls_back_while_every_refresh_fails() {
        let status = NodeStatus::default();
        status.succeeded(false);
        assert!(!status.is_in_order(), "not everything is known");
        status.succeeded(true);
        for _ in 1..MAX_FAILURES {
            status.failed();
        }
        assert!(status.is_in_order(), "a passing fault");
        status.failed();
        assert!(!status.is_in_order());
        status.succeeded(true);
        assert!(status.is_in_order());
        status.failed();
        assert!(status.is_in_order(), "the count has begun again");
    }
}
