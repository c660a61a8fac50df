//! What the node's task tells the rest of the agent: counts and flags that are read at any time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared with the HTTP servers.
#[derive(Debug, Default)]
pub struct NodeStatus {
    operations: AtomicU64,
    repairs: AtomicU64,
    failures: AtomicU64,
    problems: Mutex<Vec<String>>,
}

impl NodeStatus {
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

    /// Sets what has no route; says whether that is news.
    pub fn problems(&self, problems: &[String]) -> bool {
        let mut present = self.problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let news = *present != problems;
        if news {
            problems.clone_into(&mut present);
        }
        news
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
        self.problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len()
    }
}
