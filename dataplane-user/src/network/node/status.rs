//! What the node's task tells the rest of the agent: counts and flags that are read at any time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Shared with the HTTP servers.
#[derive(Debug, Default)]
pub struct NodeStatus {
    in_order: AtomicBool,
    operations: AtomicU64,
    repairs: AtomicU64,
    failures: AtomicU64,
    leaked: AtomicU64,
    lost_routes: AtomicU64,
    monitor_restarts: AtomicU64,
    problems: Mutex<Vec<String>>,
    pool_problems: Mutex<Vec<String>>,
    pools_failed: Mutex<Option<String>>,
}

impl NodeStatus {
    /// Notes that everything was known and done.
    pub fn set_in_order(&self) {
        self.in_order.store(true, Ordering::Relaxed);
    }

    /// Whether everything was known and done once: Services in the maps, programs, routes, the plugin's settings.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.in_order.load(Ordering::Relaxed)
    }

    /// Counts changes of kernel objects; `repair` when somebody else had changed them.
    pub fn operations(&self, count: usize, repair: bool) {
        self.operations.fetch_add(count as u64, Ordering::Relaxed);
        if repair {
            self.repairs.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Counts a failed attempt.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts addresses whose pods were gone without a DEL.
    pub fn leaked(&self, addresses: usize) {
        self.leaked.fetch_add(addresses as u64, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn leaks(&self) -> u64 {
        self.leaked.load(Ordering::Relaxed)
    }

    /// Counts routes of ours that somebody else had removed or changed.
    pub fn lost_routes(&self, count: usize) {
        self.lost_routes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Routes of ours that somebody else had removed or changed so far.
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

    /// Sets what has no route; says whether that is news.
    pub fn problems(&self, problems: &[String]) -> bool {
        replace(&self.problems, problems)
    }

    /// Sets what is wrong with pools and blocks; says whether that is news.
    pub fn pool_problems(&self, problems: &[String]) -> bool {
        replace(&self.pool_problems, problems)
    }

    /// Sets why pools could not be looked after at the last attempt; `None`: they could.
    pub fn pools_failed(&self, error: Option<String>) {
        *self.pools_failed.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// How many things are wrong with pools and blocks.
    #[must_use]
    pub fn pool_trouble(&self) -> usize {
        let failed = self.pools_failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        self.pool_problems.lock().unwrap_or_else(PoisonError::into_inner).len() + usize::from(failed)
    }

    /// Changes of kernel objects so far, repairs among them, and failed attempts.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.operations), get(&self.repairs), get(&self.failures))
    }

    /// How many ranges have no route.
    #[must_use]
    pub fn unrouted(&self) -> usize {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn replace(present: &Mutex<Vec<String>>, problems: &[String]) -> bool {
    let mut present = present.lock().unwrap_or_else(PoisonError::into_inner);
    let news = *present != problems;
    if news {
        problems.clone_into(&mut present);
    }
    news
}
