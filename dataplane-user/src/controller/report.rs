//! Gathers what the snapshot tells.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::core::Core;
use super::snapshot::{HealthCheck, Histogram, Snapshot};
use crate::source::ObjectKey;

#[derive(Debug, Default)]
pub(super) struct Report {
    service_changes: u64,
    endpoint_changes: u64,
    last_queued: Option<SystemTime>,
    last_sync: Option<SystemTime>,
    last_duration: Duration,
    last_error: Option<Arc<str>>,
    pending_since: Option<Instant>,
    rounds: Arc<Histogram>,
    programming: Arc<Histogram>,
    /// When the changes happened that the next round takes to the tables.
    triggered: Vec<u64>,
    health: Arc<BTreeMap<u16, HealthCheck>>,
}

/// Trigger times that are kept for a round.
const MAX_TRIGGERED: usize = 4096;

impl Report {
    pub(super) fn service_change(&mut self) {
        self.service_changes += 1;
    }

    pub(super) fn endpoint_change(&mut self, triggered: u64) {
        self.endpoint_changes += 1;
        if triggered != 0 && self.last_sync.is_some() && self.triggered.len() < MAX_TRIGGERED {
            self.triggered.push(triggered);
        }
    }

    pub(super) fn queued(&mut self, at: SystemTime) {
        self.last_queued = Some(at);
    }

    pub(super) fn error(&mut self, error: &str) {
        if self.last_error.as_deref() != Some(error) {
            self.last_error = Some(error.into());
        }
    }

    pub(super) fn set_health_check(&mut self, key: &ObjectKey, port: u16, check: Option<HealthCheck>) {
        let same = |c: &HealthCheck| c.namespace == key.namespace && c.name == key.name;
        if self.health.is_empty() && check.is_none() {
            return;
        }
        let stale: Vec<u16> = self.health.iter().filter(|(p, c)| **p != port && same(c)).map(|(p, _)| *p).collect();
        if stale.is_empty() && self.health.get(&port) == check.as_ref() {
            return;
        }
        let health = Arc::make_mut(&mut self.health);
        stale.iter().for_each(|p| drop(health.remove(p)));
        if let Some(check) = check {
            drop(health.insert(port, check));
        }
    }

    /// A round has ended.
    pub(super) fn round(&mut self, duration: Duration, failing: bool) {
        let now = SystemTime::now();
        (self.last_sync, self.last_duration) = (Some(now), duration);
        Arc::make_mut(&mut self.rounds).record(duration);
        let now_ms = now.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        if !self.triggered.is_empty() {
            let programming = Arc::make_mut(&mut self.programming);
            for at in self.triggered.drain(..) {
                programming.record(Duration::from_millis(now_ms.saturating_sub(at)));
            }
        }
        self.pending_since = if failing { self.pending_since.or_else(|| Some(Instant::now())) } else { None };
    }
}

impl Core {
    /// A round that took so long has ended.
    pub fn note_round(&mut self, duration: Duration) {
        self.report.round(duration, self.failing() > 0);
    }

    /// Services that wait for another try.
    fn failing(&self) -> usize {
        let waits = |number: u32| self.store.get(number).is_none_or(|e| e.failures > 0);
        self.retries.iter().filter(|r| waits(r.0.1)).count()
    }

    /// Changes have come.
    pub fn note_queued(&mut self) {
        self.report.queued(SystemTime::now());
    }

    /// The present state.
    #[must_use]
    pub fn snapshot(&mut self) -> Snapshot {
        let (services, slices) = self.store.counts();
        let report = &self.report;
        Snapshot {
            waiting_for: self.intake.missing(),
            synced: self.is_synced(),
            last_sync: report.last_sync,
            last_duration: report.last_duration,
            pending_since: report.pending_since,
            last_queued: report.last_queued,
            services,
            slices,
            pods: self.intake.pods(),
            service_ports: self.ledger.ports.used(),
            frontends: self.ledger.frontend_counts(),
            backends: self.ledger.backends.used(),
            slots: self.ledger.slots.used(),
            operations: self.operations,
            service_changes: report.service_changes,
            endpoint_changes: report.endpoint_changes,
            failing: self.failing(),
            last_error: report.last_error.clone(),
            rejections: self.faults.shown(),
            rejected: self.faults.len(),
            health_checks: report.health.clone(),
            rounds: report.rounds.clone(),
            programming: report.programming.clone(),
            leaving: self.intake.is_leaving(),
        }
    }
}
