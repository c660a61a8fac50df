//! The Services that wait for a round, and when those that failed are tried again.
//!
//! Filled by events and by the reconciler's woken Services, emptied by `Pipeline`. It knows
//! Services by id only and decides nothing about their content.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::proxy::reconcile::ids::ServiceId;

/// The wait before the first retry; it doubles with each failure in a row.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_DOUBLINGS: u8 = 8;

#[derive(Clone, Copy, Default, Debug)]
struct State {
    queued: bool,
    /// It is to be reconciled when no other is dirty.
    deferred: bool,
    /// Failures in a row.
    failures: u8,
}

#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    dirty: Vec<ServiceId>,
    /// Dirty Services that are put off because they take long.
    postponed: Vec<ServiceId>,
    /// Services to reconcile when no other is dirty.
    deferred: Vec<ServiceId>,
    retries: BinaryHeap<Reverse<(Duration, ServiceId)>>,
    /// By Service id.
    states: Vec<State>,
}

impl WorkQueue {
    fn state(&mut self, id: ServiceId) -> &mut State {
        if id.index() >= self.states.len() {
            self.states.resize(id.index() + 1, State::default());
        }
        &mut self.states[id.index()]
    }

    /// Queues a Service unless it is queued already.
    pub(super) fn mark(&mut self, id: ServiceId) {
        if !std::mem::replace(&mut self.state(id).queued, true) {
            self.dirty.push(id);
        }
    }

    /// Puts a queued Service that this round leaves out back into the queue.
    pub(super) fn put_back(&mut self, id: ServiceId) {
        self.dirty.push(id);
    }

    /// Puts a queued Service off until [`Self::resume`].
    pub(super) fn postpone(&mut self, id: ServiceId) {
        self.postponed.push(id);
    }

    /// Queues the Services that were put off.
    pub(super) fn resume(&mut self) {
        self.dirty.append(&mut self.postponed);
    }

    /// Returns true if Services were put off.
    pub(super) const fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }

    /// Queues a Service behind all others.
    pub(super) fn defer(&mut self, id: ServiceId) {
        let state = self.state(id);
        (state.queued, state.deferred) = (true, true);
        self.deferred.push(id);
    }

    /// Notes that the round of a Service begins: from now on it can be queued again. Returns true
    /// if it was deferred.
    pub(super) fn begin(&mut self, id: ServiceId) -> bool {
        let state = self.state(id);
        state.queued = false;
        std::mem::take(&mut state.deferred)
    }

    /// Removes and returns the dirty Services, or the deferred ones if no Service is dirty.
    pub(super) fn next_batch(&mut self) -> Option<Vec<ServiceId>> {
        let only_deferred = self.dirty.is_empty() && self.postponed.is_empty();
        let next = if only_deferred { &mut self.deferred } else { &mut self.dirty };
        Some(std::mem::take(next)).filter(|batch| !batch.is_empty())
    }

    /// Returns the dirty Services, so that the caller can sort them.
    pub(super) const fn dirty(&mut self) -> &mut Vec<ServiceId> {
        &mut self.dirty
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.dirty.is_empty() && self.postponed.is_empty() && self.deferred.is_empty()
    }

    pub(super) fn is_queued(&self, id: ServiceId) -> bool {
        self.states.get(id.index()).is_some_and(|s| s.queued)
    }

    /// Has a Service tried again later, after twice the previous wait.
    pub(super) fn retry(&mut self, id: ServiceId, now: Duration) {
        let state = self.state(id);
        let wait = FIRST_RETRY * (1 << state.failures.min(MAX_DOUBLINGS));
        state.failures = state.failures.saturating_add(1);
        self.retries.push(Reverse((now + wait, id)));
    }

    /// Has the node's own entries tried again.
    pub(super) fn retry_node(&mut self, now: Duration) {
        self.retries.push(Reverse((now + FIRST_RETRY, ServiceId::NODE)));
    }

    /// Removes and returns the next retry that is due.
    pub(super) fn due(&mut self, now: Duration) -> Option<ServiceId> {
        self.next_retry().filter(|at| *at <= now)?;
        self.retries.pop().map(|Reverse((_, id))| id)
    }

    /// Returns the time of the next retry.
    pub(super) fn next_retry(&self) -> Option<Duration> {
        self.retries.peek().map(|Reverse((at, _))| *at)
    }

    /// Returns the targets of all retries that were scheduled and are not due yet.
    pub(super) fn retries(&self) -> impl Iterator<Item = ServiceId> {
        self.retries.iter().map(|Reverse((_, id))| *id)
    }

    pub(super) fn succeeded(&mut self, id: ServiceId) {
        self.state(id).failures = 0;
    }

    pub(super) fn is_failing(&self, id: ServiceId) -> bool {
        self.states.get(id.index()).is_some_and(|s| s.failures > 0)
    }

    /// Resets an id that another Service may get.
    pub(super) fn remove(&mut self, id: ServiceId) {
        *self.state(id) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn deferred_services_come_when_no_other_is_dirty() {
        let [a, b] = [1, 2].map(ServiceId::new);
        let mut queue = WorkQueue::default();
        queue.defer(a);
        queue.mark(b);
        queue.mark(a);
        assert_eq!(queue.next_batch(), Some(vec![b]));
        assert_eq!(queue.next_batch(), Some(vec![a]));
        assert_eq!(queue.next_batch(), None);
    }

    #[test]
    fn deferred_services_wait_for_postponed_ones() {
        let [a, b] = [1, 2].map(ServiceId::new);
        let mut queue = WorkQueue::default();
        queue.defer(a);
        queue.postpone(b);
        assert_eq!((queue.next_batch(), queue.is_empty(), queue.has_postponed()), (None, false, true));
        queue.resume();
        assert_eq!((queue.next_batch(), queue.has_postponed()), (Some(vec![b]), false));
        assert_eq!(queue.next_batch(), Some(vec![a]));
    }

    #[test]
    fn retries_back_off_until_a_success() {
        let id = ServiceId::new(3);
        let mut queue = WorkQueue::default();
        queue.retry(id, NOW);
        assert_eq!(queue.next_retry(), Some(NOW + FIRST_RETRY));
        assert_eq!(queue.due(NOW), None);
        assert_eq!(queue.due(NOW + FIRST_RETRY), Some(id));
        queue.retry(id, NOW);
        assert_eq!(queue.next_retry(), Some(NOW + 2 * FIRST_RETRY));
        for _ in 0..20 {
            queue.retries.clear();
            queue.retry(id, NOW);
        }
        assert_eq!(queue.next_retry(), Some(NOW + Duration::from_millis(25_600)), "the longest wait");
        queue.retries.clear();
        queue.succeeded(id);
        assert!(!queue.is_failing(id));
        queue.retry(id, NOW);
        assert_eq!(queue.next_retry(), Some(NOW + FIRST_RETRY));
    }
}
