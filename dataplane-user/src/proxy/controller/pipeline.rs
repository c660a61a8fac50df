//! Runs rounds: from the objects of dirty Services through the reconciler and the map writer to the
//! status.
//!
//! A round takes a number of Services together, so that maps are written in batches, and treats the
//! failures of each apart. `Core` calls it; it takes no events and reads no clock.

use std::time::Duration;

use dataplane_common::types::ip_family::IpFamily;
use dataplane_host::map::MapError;
use tracing::error;

use super::queue::WorkQueue;
use super::snapshot::HealthCheck;
use super::status::Status;
use super::store::{ObjectStore, ServiceEntry};
use crate::proxy::apply::{MapWriter, Outcome};
use crate::proxy::desired::limits::{Excess, excess};
use crate::proxy::desired::{self, Context, Desired, FrontendAddr, ready_local};
use crate::proxy::reconcile::ids::ServiceId;
use crate::proxy::reconcile::ownership::Claimants;
use crate::proxy::reconcile::quota::SlotLimit;
use crate::proxy::reconcile::reconciler::{Part, Reconciled};
use crate::proxy::reconcile::{Plan, Reconciler, Refusal};
use crate::proxy::source::{Cause, ObjectKind, Rejection};

/// Services to a round: enough for batches, few enough for little memory.
const CHUNK: usize = 512;
/// Ports times endpoints and external addresses above which a Service is large: some milliseconds.
const LARGE: usize = 4096;
/// Passes over changed Services in one reconciliation: a frontend goes to its owner in three or
/// four.
const MAX_PASSES: u32 = 100;

/// The stages that a Service passes, and the state of each.
pub(super) struct Pipeline {
    pub(super) store: ObjectStore,
    pub(super) queue: WorkQueue,
    pub(super) context: Context,
    pub(super) reconciler: Reconciler,
    pub(super) writer: MapWriter,
    pub(super) status: Status,
    /// Empty between rounds; kept for its memory.
    plan: Plan,
}

impl Pipeline {
    pub(super) fn new(reconciler: Reconciler, writer: MapWriter) -> Self {
        Self {
            store: ObjectStore::default(),
            queue: WorkQueue::default(),
            context: Context::default(),
            reconciler,
            writer,
            status: Status::default(),
            plan: Plan::default(),
        }
    }

    /// Runs rounds until no Service is dirty or deferred, but for large ones: after `most_large` of
    /// them the others are put off, so that changes of small Services do not wait for all.
    pub(super) fn rounds(&mut self, mut most_large: usize, now: Duration) {
        let mut passes = 0;
        self.queue.resume();
        while let Some(mut batch) = self.queue.next_batch() {
            passes += 1;
            if passes > MAX_PASSES {
                let services = batch.len();
                error!(services, "frontend ownership not settled after {MAX_PASSES} passes: retry later");
                for id in batch {
                    self.queue.begin(id);
                    self.queue.retry(id, now);
                }
                return;
            }
            if self.reconciler.has_contested_frontends() {
                // the Service with the best claim comes first
                let store = &self.store;
                let rank = |id: ServiceId| store.claimant(id).map(|c| c.rank());
                batch.sort_by(|a, b| rank(*a).cmp(&rank(*b)));
            }
            let (large, small): (Vec<_>, Vec<_>) = batch.into_iter().partition(|id| self.is_large(*id));
            for chunk in small.chunks(CHUNK) {
                self.round(chunk, now);
            }
            for id in large {
                if most_large == 0 {
                    self.queue.postpone(id);
                } else {
                    most_large -= 1;
                    self.round(&[id], now);
                }
            }
        }
    }

    /// Returns true if a round with this Service takes much longer than one without.
    fn is_large(&self, id: ServiceId) -> bool {
        let Some(entry) = self.store.get(id) else { return false };
        let Some(service) = &entry.service else { return false };
        let endpoints: usize = entry.slices.iter().map(|slice| slice.object.endpoints.len()).sum();
        let external = service.extra.as_ref().map_or(0, |e| e.external_ips.len() + e.load_balancer_ips.len());
        service.ports.len() * (endpoints + external) > LARGE
    }

    /// Removes the entries that belonged to no Service at start, which makes room in the maps. What
    /// they use is free only when all of them are removed; until then, that is tried again.
    pub(super) fn remove_garbage(&mut self, now: Duration) {
        let Some(garbage) = self.reconciler.take_garbage() else { return };
        if self.apply_for_node(&garbage.plan, now) {
            self.reconciler.release_garbage(garbage, now);
        } else {
            self.reconciler.keep_garbage(garbage);
        }
    }

    /// Prepares the first rounds. Each dirty Service adopts its entries in the maps before any
    /// Service claims a frontend. Older Services come first, because the first claimant of a free
    /// frontend gets it.
    pub(super) fn prepare_first_round(&mut self) {
        let Self { store, queue, reconciler, .. } = self;
        for id in queue.dirty().iter() {
            if let Some(entry) = store.get(*id) {
                reconciler.adopt(*id, &entry.key);
            }
        }
        queue.dirty().sort_by_key(|id| store.claimant(*id).map(|c| c.rank().0));
        if reconciler.stale().is_empty() {
            let services = queue.dirty().len();
            reconciler.allocator_mut().reserve(services);
        }
    }

    /// Queues the Services that were deleted while the agent was down: after the first full sync,
    /// entries without a Service are theirs. They are removed like any deleted Service, so that
    /// waiting Services can take their frontends.
    pub(super) fn mark_stale(&mut self) {
        for key in self.reconciler.stale() {
            let id = self.store.id(&key);
            self.queue.mark(id);
        }
    }

    /// Tells the reconciler this node's addresses.
    pub(super) fn add_node_addresses(&mut self) {
        self.reconciler.allocator_mut().add_node_addresses(&self.context.node.addresses);
    }

    /// Drops addresses that are not this node's any more, after the Services' node ports have left
    /// them.
    pub(super) fn keep_node_addresses(&mut self) {
        self.reconciler.allocator_mut().keep_node_addresses(&self.context.node.addresses);
    }

    /// Writes and removes the entries of the node's own addresses.
    pub(super) fn node_round(&mut self, now: Duration) {
        if !self.reconciler.allocator().has_addr_changes() {
            return;
        }
        let mut plan = std::mem::take(&mut self.plan);
        self.reconciler.plan_addresses(&mut plan);
        self.apply_for_node(&plan, now);
        plan.clear();
        self.plan = plan;
    }

    /// Applies a plan that belongs to no Service. Returns false if it failed and will be tried
    /// again.
    fn apply_for_node(&mut self, plan: &Plan, now: Duration) -> bool {
        let complete = self.apply(plan).is_complete();
        if !complete {
            self.queue.retry_node(now);
        }
        complete
    }

    fn round(&mut self, ids: &[ServiceId], now: Duration) {
        let mut plan = std::mem::take(&mut self.plan);
        let mut parts = Vec::with_capacity(ids.len());
        let mut affected: Vec<ServiceId> = Vec::new();
        for id in ids {
            if affected.contains(id) {
                // its published state is right only when this round has ended
                self.queue.put_back(*id);
            } else if let Some(part) = self.plan_service(*id, &mut plan, now) {
                affected.extend(part.affected());
                parts.push(part);
            }
        }
        self.reconciler.plan_addresses(&mut plan);
        let outcome = self.apply(&plan);
        plan.clear();
        self.finish(parts, &outcome, &mut plan, now);
        self.plan = plan;
    }

    /// Derives one Service's desired state and adds its operations to the plan.
    fn plan_service(&mut self, id: ServiceId, plan: &mut Plan, now: Duration) -> Option<Part> {
        let deferred = self.queue.begin(id);
        let entry = self.store.get(id)?;
        let mut desired = match &entry.service {
            None => Desired::default(),
            Some(service) => {
                let slices = entry.slices.iter().map(|s| &s.object);
                if let Some(excess) = excess(service, slices.clone(), &self.context) {
                    self.exceed(id, excess);
                    return None;
                }
                desired::service(&entry.key, service, slices, &self.context, |a| self.store.is_cluster_ip(a))
            }
        };
        let reconciled = self.reconciler.reconcile(id, &desired, &self.store, plan, now, deferred)?;
        self.mark_woken();
        let mut rejections = std::mem::take(&mut desired.rejections);
        match reconciled {
            Reconciled::Deferred => {
                self.status.published(id, self.reconciler.published(id));
                self.queue.defer(id);
                None
            }
            Reconciled::Later => {
                self.queue.mark(id);
                None
            }
            Reconciled::Refused(refusal) => {
                self.note_health(id);
                let cause = match refusal {
                    Refusal::Full { map, needed, .. } => {
                        self.status.refused(id, map, needed);
                        Cause::TableFull
                    }
                    Refusal::Limit { .. } => {
                        self.status.fits(id);
                        Cause::LimitExceeded
                    }
                };
                rejections.extend(self.rejection(id, "", refusal.to_string(), cause));
                self.status.rejections.set_service(id, rejections);
                self.status.published(id, self.reconciler.published(id));
                match refusal {
                    Refusal::Limit { limit: SlotLimit::Service, .. } => self.leave(id),
                    // Others may give up what it needs.
                    Refusal::Full { .. } | Refusal::Limit { limit: SlotLimit::Namespace, .. } => {
                        self.queue.retry(id, now);
                    }
                }
                None
            }
            Reconciled::Planned { part, conflicts } => {
                self.note_health(id);
                self.status.fits(id);
                rejections.extend(conflicts.into_iter().filter_map(|(key, owner)| self.conflict(id, key, owner)));
                self.status.rejections.set_service(id, rejections);
                Some(part)
            }
        }
    }

    /// Leaves a Service that is too large as it is. Only a change of its objects can help.
    fn exceed(&mut self, id: ServiceId, excess: Excess) {
        self.reconciler.withdraw(id);
        self.note_health(id);
        self.status.fits(id);
        let rejection = self.rejection(id, "", excess.to_string(), Cause::LimitExceeded);
        self.status.rejections.set_service(id, rejection.into_iter().collect());
        self.status.published(id, self.reconciler.published(id));
        self.leave(id);
    }

    /// Tries a Service again only when its objects change.
    fn leave(&mut self, id: ServiceId) {
        self.queue.succeeded(id);
        self.status.applied(id);
    }

    fn apply(&mut self, plan: &Plan) -> Outcome {
        if plan.is_empty() {
            return Outcome::default();
        }
        let outcome = self.writer.apply(plan);
        if let Some(error) = outcome.failures.values().next() {
            self.status.error(&error.to_string());
            self.reconciler.mark_addresses_uncertain(plan, |id| outcome.failed(id));
        }
        outcome
    }

    /// Commits the parts that were written, rolls the others back and schedules their retry.
    fn finish(&mut self, parts: Vec<Part>, outcome: &Outcome, plan: &mut Plan, now: Duration) {
        let (failed, done): (Vec<_>, Vec<_>) = parts.into_iter().partition(|p| outcome.failed(p.id));
        for part in done {
            let id = part.id;
            self.queue.succeeded(id);
            self.status.applied(id);
            self.reconciler.commit(part, now);
            self.settled(id);
        }
        if !failed.is_empty() {
            self.roll_back(failed, outcome, plan, now);
        }
    }

    fn roll_back(&mut self, mut failed: Vec<Part>, outcome: &Outcome, plan: &mut Plan, now: Duration) {
        for part in &mut failed {
            self.reconciler.plan_rollback(part, &self.store, plan);
            self.mark_woken();
        }
        self.reconciler.plan_addresses(plan);
        let rollback = self.apply(plan);
        plan.clear();
        for part in failed {
            let id = part.id;
            if let Some(error) = outcome.failures.get(&id) {
                let cause = if matches!(error, MapError::Full { .. }) { Cause::TableFull } else { Cause::WriteFailed };
                let rejection = self.rejection(id, "", error.to_string(), cause);
                self.status.rejections.set_service(id, rejection.into_iter().collect());
            }
            if rollback.failed(id) {
                self.reconciler.keep_both(part, &self.store);
            } else {
                self.reconciler.roll_back(part, now);
            }
            // First, because the Service may be gone when it is settled, and its id free.
            self.queue.retry(id, now);
            self.settled(id);
        }
    }

    /// Follows a change of a Service's published state: counts it, queues the Services that wait
    /// for its former frontends, and removes the Service if it has no objects and no entries.
    fn settled(&mut self, id: ServiceId) {
        self.status.published(id, self.reconciler.published(id));
        self.mark_woken();
        let is_gone = self.reconciler.published(id).is_empty() && !self.queue.is_queued(id);
        if is_gone && self.store.collect(id) {
            self.queue.remove(id);
            self.status.remove(id);
        }
    }

    fn mark_woken(&mut self) {
        self.reconciler.take_woken().into_iter().for_each(|id| self.queue.mark(id));
    }

    fn rejection(&self, id: ServiceId, field: &str, reason: String, cause: Cause) -> Option<Rejection> {
        let entry = self.store.get(id)?;
        Some(Rejection::of(ObjectKind::Service, &entry.key, field, reason).because(cause))
    }

    fn conflict(&self, id: ServiceId, key: FrontendAddr, owner: Option<ServiceId>) -> Option<Rejection> {
        let owner = owner.and_then(|n| self.store.get(n));
        let owner = owner.map_or_else(|| "another Service".to_owned(), |e| format!("Service {}", e.key));
        let reason = format!("{} port {} is taken by {owner}", key.addr, key.port);
        self.rejection(id, "spec.ports", reason, Cause::AddressConflict)
    }

    fn note_health(&mut self, id: ServiceId) {
        let Some(entry) = self.store.get(id) else { return };
        let (port, check) = health_check(entry);
        self.status.set_health_check(&entry.key, port, check);
    }
}

/// Returns the health check node port of a Service (0: none) and its answer.
fn health_check(entry: &ServiceEntry) -> (u16, Option<HealthCheck>) {
    let extra = entry.service.as_ref().and_then(|s| s.extra.as_ref());
    let port = extra.map_or(0, |e| e.health_check_node_port);
    let weights = extra.and_then(|e| e.scheduling.as_ref()).map(|s| &s.weights);
    let check = (port != 0).then(|| HealthCheck {
        namespace: entry.key.namespace.clone(),
        name: entry.key.name.clone(),
        local_endpoints: IpFamily::BOTH
            .map(|family| ready_local(entry.slices.iter().map(|s| &s.object), family, weights)),
    });
    (port, check)
}
