//! Gathers what the controller tells about itself between two snapshots.
//!
//! Fed by `Core` with events and by `Pipeline` with the results of each round; read when a snapshot
//! is taken. It never influences what is written to the maps.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dataplane_common::types::service::scheduler;
use hashbrown::HashMap;

use super::histogram::{Histogram, Programming, Rounds};
use super::locality::{Bits, NoLocal, missing, recount};
use super::pending::Pending;
use super::rejections::Rejections;
use super::snapshot::{HealthCheck, Snapshot};
use crate::proxy::desired::Context;
use crate::proxy::reconcile::PublishedPort;
use crate::proxy::reconcile::ids::ServiceId;
use crate::proxy::source::ObjectKey;

/// The part of one Service in the counts.
#[derive(Clone, Copy, Default, Debug)]
struct Counted {
    /// Bits of [`super::pending`]: changes that are not in the maps.
    pending: u8,
    /// Families and policies without a local endpoint.
    no_local: Bits,
    /// Its scheduler counts connections.
    counting: bool,
}

#[derive(Debug, Default)]
pub(super) struct Status {
    /// Objects, files and Services that can't be used or served.
    pub(super) rejections: Rejections,
    /// Services refused because a map was full, with the map and the number of missing entries.
    insufficient: HashMap<ServiceId, (&'static str, u32)>,
    pending: Arc<Pending>,
    no_local: NoLocal,
    /// Services whose scheduler counts connections.
    counting: usize,
    /// By Service id.
    services: Vec<Counted>,
    service_changes: u64,
    endpoint_changes: u64,
    last_queued: Option<SystemTime>,
    last_sync: Option<SystemTime>,
    last_duration: Duration,
    last_error: Option<(SystemTime, Arc<str>)>,
    pending_since: Option<Instant>,
    rounds: Arc<Histogram<Rounds>>,
    programming: Arc<Histogram<Programming>>,
    /// Times of the changes that are not in the maps yet, by Service, in milliseconds since 1970.
    triggered: Vec<(ServiceId, u64)>,
    health: Arc<BTreeMap<u16, HealthCheck>>,
    nodeport_addresses: Arc<[IpAddr]>,
}

/// Trigger times that are kept.
const MAX_TRIGGERED: usize = 4096;

impl Status {
    pub(super) fn service_change(&mut self) {
        self.service_changes += 1;
    }

    pub(super) fn endpoint_change(&mut self) {
        self.endpoint_changes += 1;
    }

    /// Notes when a change of a Service's endpoints happened; 0: unknown. Changes before the first
    /// full sync are not measured.
    pub(super) fn triggered(&mut self, service: ServiceId, at: u64) {
        if at != 0 && self.last_sync.is_some() && self.triggered.len() < MAX_TRIGGERED {
            self.triggered.push((service, at));
        }
    }

    pub(super) fn queued(&mut self, at: SystemTime) {
        self.last_queued = Some(at);
    }

    pub(super) fn error(&mut self, error: &str) {
        self.last_error = Some((SystemTime::now(), error.into()));
    }

    fn counted(&mut self, id: ServiceId) -> &mut Counted {
        if id.index() >= self.services.len() {
            self.services.resize(id.index() + 1, Counted::default());
        }
        &mut self.services[id.index()]
    }

    /// Notes a change of a Service (bits of [`super::pending`]) that is not in the maps yet.
    pub(super) fn pending(&mut self, id: ServiceId, change: u8) {
        let counted = self.counted(id);
        let before = counted.pending;
        let after = before | change;
        counted.pending = after;
        self.pending.count(before, after);
    }

    #[cfg(test)]
    pub(super) fn pending_changes(&self) -> &Pending {
        &self.pending
    }

    /// Notes that the maps contain what the Service desires.
    pub(super) fn applied(&mut self, id: ServiceId) {
        let before = std::mem::take(&mut self.counted(id).pending);
        self.pending.count(before, 0);
    }

    /// Counts what the maps contain of a Service now.
    pub(super) fn published(&mut self, id: ServiceId, ports: &[PublishedPort]) {
        let no_local = missing(ports);
        let counting = ports.iter().any(|port| scheduler::counts_connections(port.scheduler));
        let counted = self.counted(id);
        let before = std::mem::replace(&mut counted.no_local, no_local);
        let was_counting = std::mem::replace(&mut counted.counting, counting);
        recount(&mut self.no_local, before, no_local);
        self.counting += usize::from(counting);
        self.counting -= usize::from(was_counting);
    }

    /// Resets an id that another Service may get.
    pub(super) fn remove(&mut self, id: ServiceId) {
        self.rejections.set_service(id, Vec::new());
        *self.counted(id) = Counted::default();
    }

    /// Notes that a Service was refused because `map` lacks `needed` entries.
    pub(super) fn refused(&mut self, id: ServiceId, map: &'static str, needed: u32) {
        self.insufficient.insert(id, (map, needed));
    }

    /// Notes that a Service fits into the maps.
    pub(super) fn fits(&mut self, id: ServiceId) {
        self.insufficient.remove(&id);
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

    /// Notes the addresses at which node ports are served, without loopback ones.
    pub(super) fn set_nodeport_addresses(&mut self, context: &Context) {
        let all = context.node.nodeport_addresses.iter().copied();
        let outer = all.filter(|a| !a.is_loopback() && context.serves(*a));
        self.nodeport_addresses = outer.collect();
    }

    /// Notes the end of a round. `waits` returns true for Services that are not in the maps yet.
    pub(super) fn round(&mut self, duration: Duration, failing: bool, waits: impl Fn(ServiceId) -> bool) {
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

    /// Sums up the missing entries by map.
    fn insufficient(&self) -> BTreeMap<&'static str, u32> {
        let mut insufficient = BTreeMap::<_, u32>::new();
        for (map, needed) in self.insufficient.values() {
            let sum = insufficient.entry(*map).or_default();
            *sum = sum.saturating_add(*needed);
        }
        insufficient
    }

    /// Returns a snapshot with everything that is counted here; the other fields are empty.
    pub(super) fn snapshot(&mut self) -> Snapshot {
        Snapshot {
            last_sync: self.last_sync,
            last_duration: self.last_duration,
            pending_since: self.pending_since,
            last_queued: self.last_queued,
            service_changes: self.service_changes,
            endpoint_changes: self.endpoint_changes,
            last_error: self.last_error.clone(),
            rejections: self.rejections.shown(),
            rejected: self.rejections.len(),
            health_checks: self.health.clone(),
            nodeport_addresses: self.nodeport_addresses.clone(),
            rounds: self.rounds.clone(),
            programming: self.programming.clone(),
            no_local: self.no_local,
            insufficient: self.insufficient(),
            pending: self.pending.clone(),
            counting: self.counting,
            ..Snapshot::default()
        }
    }
}
