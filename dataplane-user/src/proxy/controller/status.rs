//! Gathers what the snapshot tells.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::core::Core;
use super::histogram::{Histogram, Programming, Rounds};
use super::snapshot::{HealthCheck, Snapshot};
use crate::proxy::desired::Context;
use crate::proxy::source::ObjectKey;

#[derive(Debug, Default)]
pub(super) struct Report {
    service_changes: u64,
    endpoint_changes: u64,
    last_queued: Option<SystemTime>,
    last_sync: Option<SystemTime>,
    last_duration: Duration,
    last_error: Option<Arc<str>>,
    pending_since: Option<Instant>,
    rounds: Arc<Histogram<Rounds>>,
    programming: Arc<Histogram<Programming>>,
    /// When the changes happened that are not in the tables yet, by Service; in milliseconds since 1970.
    triggered: Vec<(u32, u64)>,
    health: Arc<BTreeMap<u16, HealthCheck>>,
    nodeport_addresses: Arc<[IpAddr]>,
}

/// Trigger times that are kept.
const MAX_TRIGGERED: usize = 4096;

impl Report {
    pub(super) fn service_change(&mut self) {
        self.service_changes += 1;
    }

    pub(super) fn endpoint_change(&mut self) {
        self.endpoint_changes += 1;
    }

    /// A change of a Service's endpoints happened then; 0: unknown. What happened before the tables were complete once is not measured.
    pub(super) fn triggered(&mut self, service: u32, at: u64) {
        if at != 0 && self.last_sync.is_some() && self.triggered.len() < MAX_TRIGGERED {
            self.triggered.push((service, at));
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

    /// The node's addresses may have changed.
    pub(super) fn set_nodeport_addresses(&mut self, context: &Context) {
        let all = context.node.nodeport_addresses.iter().copied();
        let outer = all.filter(|a| !a.is_loopback() && context.serves(*a));
        self.nodeport_addresses = outer.collect();
    }

    /// A round has ended. `waits` says which Services are not in the tables yet.
    pub(super) fn round(&mut self, duration: Duration, failing: bool, waits: impl Fn(u32) -> bool) {
        let now = SystemTime::now();
        (self.last_sync, self.last_duration) = (Some(now), duration);
        Arc::make_mut(&mut self.rounds).record(duration);
        let now_ms = now.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        if !self.triggered.is_empty() {
            let programming = Arc::make_mut(&mut self.programming);
            self.triggered.retain(|(service, at)| {
                let waits = waits(*service);
                if !waits {
                    programming.record(Duration::from_millis(now_ms.saturating_sub(*at)));
                }
                waits
            });
        }
        self.pending_since = if failing { self.pending_since.or_else(|| Some(Instant::now())) } else { None };
    }
}

impl Core {
    /// A round that took so long has ended.
    pub fn note_round(&mut self, duration: Duration) {
        let failing = self.failing() > 0;
        let store = &self.store;
        self.report.round(duration, failing, |number| store.get(number).is_some_and(|e| e.failures > 0));
    }

    fn insufficient(&self) -> BTreeMap<&'static str, u32> {
        let mut insufficient = BTreeMap::<_, u32>::new();
        for (map, needed) in self.insufficient.values() {
            let sum = insufficient.entry(*map).or_default();
            *sum = sum.saturating_add(*needed);
        }
        insufficient
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
            waiting_for: self.cluster_state.missing(),
            synced: self.is_synced(),
            last_sync: report.last_sync,
            last_duration: report.last_duration,
            pending_since: report.pending_since,
            last_queued: report.last_queued,
            services,
            slices,
            pods: self.cluster_state.pods(),
            service_ports: self.allocator.ports.used(),
            frontends: self.allocator.frontend_counts(),
            backends: self.allocator.backends.used(),
            slots: self.allocator.slots.used(),
            operations: *self.operations(),
            service_changes: report.service_changes,
            endpoint_changes: report.endpoint_changes,
            failing: self.failing(),
            last_error: report.last_error.clone(),
            rejections: self.rejections.shown(),
            rejected: self.rejections.len(),
            health_checks: report.health.clone(),
            nodeport_addresses: report.nodeport_addresses.clone(),
            rounds: report.rounds.clone(),
            programming: report.programming.clone(),
            no_local: self.no_local,
            insufficient: self.insufficient(),
            pending: self.pending.clone(),
            counting: self.counting,
            leaving: self.cluster_state.is_leaving(),
        }
    }
}
