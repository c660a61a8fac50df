//! The controller without threads and clocks: takes events, and on request brings the maps to the
//! desired state.
//!
//! `Worker` in the parent module drives it, tests and benchmarks do too. [`Core::handle`] sorts an
//! event to the object store or the cluster state and queues the Services that it concerns;
//! [`Core::reconcile`] decides when rounds may run, `Pipeline` runs them. Nothing is written before
//! the objects of every needed kind have been listed once.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use dataplane_common::types::clock::Clock;
use dataplane_host::map::MapError;
use ipnetwork::IpNetwork;
use tracing::info;

use super::cluster_state::{ClusterState, Nodes};
use super::pending::{OBJECT, SLICES};
use super::pipeline::Pipeline;
use super::snapshot::Snapshot;
use crate::proxy::apply::{self, MapWriter, Operations, ServiceMaps};
use crate::proxy::desired::NodeContext;
use crate::proxy::reconcile::Reconciler;
use crate::proxy::reconcile::ids::ServiceId;
use crate::proxy::source::object::DualAddr;
use crate::proxy::source::{ObjectKey, ObjectKind, ServiceObject, SliceObject, SourceEvent};

/// Namespace and name of the Service whose endpoints are the API servers.
const API_SERVICE: (&str, &str) = ("default", "kubernetes");

/// The controller's state.
pub struct Core {
    pipeline: Pipeline,
    cluster_state: ClusterState,
    synced: bool,
    addresses_changed: bool,
}

impl Core {
    /// Takes over the content of the maps; writes nothing.
    ///
    /// # Errors
    /// The maps can't be read.
    pub fn new(maps: ServiceMaps, packet_clock: Clock, now: Duration) -> Result<Self, MapError> {
        let reconciler = Reconciler::new(apply::read(&maps)?, apply::capacities(&maps), packet_clock, now);
        Ok(Self {
            pipeline: Pipeline::new(reconciler, MapWriter::new(maps)),
            cluster_state: ClusterState::default(),
            synced: false,
            addresses_changed: false,
        })
    }

    /// Sets the node's addresses and settings. Nothing is written before the first call.
    pub fn set_node_context(&mut self, node: NodeContext) {
        self.cluster_state.set_node_context(node);
    }

    /// Returns all Nodes if they are complete and have changed since the last call.
    pub fn changed_nodes(&mut self) -> Option<&Nodes> {
        let changed = self.cluster_state.has_nodes() && std::mem::take(&mut self.cluster_state.nodes_changed);
        changed.then_some(&self.cluster_state.nodes)
    }

    /// Returns the known ranges of cluster IPs: of `ServiceCIDR`s and of the configuration.
    #[must_use]
    pub fn service_ranges(&self) -> &[IpNetwork] {
        self.pipeline.context.cluster.service_ranges()
    }

    /// Records a change; the maps follow with the next round.
    pub fn handle(&mut self, event: SourceEvent) {
        let rejections = &mut self.pipeline.status.rejections;
        match event {
            SourceEvent::Service(key, object) => self.set_service(&key, object),
            SourceEvent::Slice(key, object) => self.set_slice(&key, object),
            SourceEvent::Node(name, object) => {
                rejections.clear_object(ObjectKind::Node, &ObjectKey::new("", &name));
                self.cluster_state.set_node(name, object);
            }
            SourceEvent::ServiceCidr(name, ranges) => {
                rejections.clear_object(ObjectKind::ServiceCidr, &ObjectKey::new("", &name));
                self.cluster_state.set_service_cidr(name, ranges);
            }
            SourceEvent::ApiServers(addresses) => self.cluster_state.set_api_servers(addresses),
            SourceEvent::Relist(kind) => {
                rejections.clear_kind(kind);
                self.pipeline.store.relist(kind);
                self.cluster_state.relist(kind);
            }
            SourceEvent::InSync(kind) => self.in_sync(kind),
            SourceEvent::Rejected(rejection) => rejections.add(rejection),
            SourceEvent::Cleared(path) => rejections.clear_file(&path),
            SourceEvent::WatchError(kind, error) => self.pipeline.status.error(&format!("{kind}: {error}")),
        }
    }

    fn set_service(&mut self, key: &ObjectKey, object: Option<ServiceObject>) {
        let status = &mut self.pipeline.status;
        status.rejections.clear_object(ObjectKind::Service, key);
        status.service_change();
        let added = object.as_ref().map(|o| o.cluster_ips);
        let Some((id, moved)) = self.pipeline.store.set_service(key, object) else { return };
        if moved && self.synced {
            added.iter().flat_map(DualAddr::iter).for_each(|a| self.mark_external_users(a));
            self.mark_refused();
        }
        self.mark_changed(id, OBJECT);
    }

    fn set_slice(&mut self, key: &ObjectKey, object: Option<SliceObject>) {
        let status = &mut self.pipeline.status;
        status.rejections.clear_object(ObjectKind::Slice, key);
        status.endpoint_change();
        let triggered = object.as_ref().map_or(0, |o| o.triggered);
        let changed = self.pipeline.store.set_slice(key, object);
        self.follow_api_servers(changed.into_iter().flatten());
        changed.into_iter().flatten().for_each(|id| self.mark_changed(id, SLICES));
        if let Some(id) = changed[1] {
            self.pipeline.status.triggered(id, triggered);
        }
    }

    /// Follows the endpoints of the API server's own Service, if it is one of those that changed.
    fn follow_api_servers(&mut self, changed: impl IntoIterator<Item = ServiceId>) {
        for entry in changed.into_iter().filter_map(|id| self.pipeline.store.get(id)) {
            if (&*entry.key.namespace, &*entry.key.name) == API_SERVICE {
                let endpoints = entry.slices.iter().flat_map(|slice| &*slice.object.endpoints);
                let ports = entry.slices.iter().flat_map(|slice| &*slice.object.ports);
                let ports = ports.map(|p| p.port).collect();
                self.cluster_state.set_api_endpoints(endpoints.map(|e| e.addr).collect(), ports);
            }
        }
    }

    fn in_sync(&mut self, kind: ObjectKind) {
        let gone = self.pipeline.store.sweep(kind);
        self.follow_api_servers(gone.iter().copied());
        if self.synced && !gone.is_empty() {
            self.mark_refused();
        }
        let change = if kind == ObjectKind::Service { OBJECT } else { SLICES };
        gone.into_iter().for_each(|id| self.mark_changed(id, change));
        self.cluster_state.in_sync(kind);
    }

    /// Returns true if [`Self::reconcile`] has something to do at this time.
    #[must_use]
    pub fn has_work(&self, now: Duration) -> bool {
        self.cluster_state.is_complete()
            && (!self.synced || !self.pipeline.queue.is_empty() || self.next_retry().is_some_and(|at| at <= now))
    }

    /// Returns true if [`Self::reconcile`] has put Services off and is to be called again at once.
    #[must_use]
    pub const fn has_postponed(&self) -> bool {
        self.pipeline.queue.has_postponed()
    }

    /// Returns the time at which a Service that failed is tried again.
    #[must_use]
    pub fn next_retry(&self) -> Option<Duration> {
        self.pipeline.queue.next_retry()
    }

    /// Returns the entries written and removed so far.
    #[must_use]
    pub const fn operations(&self) -> &Operations {
        self.pipeline.writer.operations()
    }

    /// Returns true after the maps have been made equal to the desired state once.
    #[must_use]
    pub const fn is_synced(&self) -> bool {
        self.synced
    }

    /// Brings the maps to the desired state. Writes nothing before every needed kind of object has
    /// been complete once.
    pub fn reconcile(&mut self, now: Duration) {
        if !self.cluster_state.is_complete() {
            return;
        }
        if let Some(context) = self.cluster_state.new_context().filter(|c| *c != self.pipeline.context) {
            self.pipeline.status.set_nodeport_addresses(&context);
            self.pipeline.reconciler.set_most_slots(context.node.max_slots);
            self.pipeline.context = context;
            self.pipeline.add_node_addresses();
            self.addresses_changed = true;
            self.mark_all();
        }
        while let Some(id) = self.pipeline.queue.due(now) {
            if self.pipeline.store.get(id).is_some() {
                self.pipeline.queue.mark(id);
            }
        }
        self.pipeline.node_round(now);
        self.pipeline.remove_garbage(now);
        if self.synced {
            self.pipeline.rounds(1, now);
        } else {
            self.first_rounds(now);
        }
        if std::mem::take(&mut self.addresses_changed) {
            self.pipeline.keep_node_addresses();
        }
        self.pipeline.node_round(now);
    }

    fn first_rounds(&mut self, now: Duration) {
        self.pipeline.prepare_first_round();
        self.pipeline.rounds(usize::MAX, now);
        self.pipeline.mark_stale();
        self.pipeline.rounds(usize::MAX, now);
        self.synced = true;
        let (services, slices) = self.pipeline.store.counts();
        info!(services, slices, operations = self.operations().total(), "maps in sync");
    }

    /// Queues a Service of which an object has changed.
    fn mark_changed(&mut self, id: ServiceId, change: u8) {
        self.pipeline.queue.mark(id);
        self.pipeline.status.pending(id, change);
    }

    /// Queues all Services.
    pub(super) fn mark_all(&mut self) {
        let Pipeline { store, queue, .. } = &mut self.pipeline;
        store.iter().for_each(|(id, _)| queue.mark(id));
    }

    /// Queues the Services that have a new cluster IP as an external address: they must give it up.
    fn mark_external_users(&mut self, addr: IpAddr) {
        let Pipeline { store, queue, reconciler, .. } = &mut self.pipeline;
        if reconciler.allocator().has_frontends(addr) {
            store.external_users(addr).for_each(|id| queue.mark(id));
        }
    }

    /// Queues the Services with external addresses that were refused something: they may have it
    /// now.
    fn mark_refused(&mut self) {
        let Pipeline { store, queue, status, .. } = &mut self.pipeline;
        let has_extra = |id: &ServiceId| {
            store.get(*id).and_then(|e| e.service.as_ref()).is_some_and(|service| service.extra.is_some())
        };
        status.rejections.services().into_iter().filter(has_extra).for_each(|id| queue.mark(id));
    }

    /// Records that changes have come.
    pub fn note_queued(&mut self) {
        self.pipeline.status.queued(SystemTime::now());
    }

    /// Records a round and how long it took.
    pub fn note_round(&mut self, duration: Duration) {
        let failing = self.failing() > 0;
        let Pipeline { queue, status, .. } = &mut self.pipeline;
        status.round(duration, failing, |id| queue.is_failing(id));
    }

    /// Counts the retries that are still needed: of failing Services, and of the node's own
    /// entries.
    fn failing(&self) -> usize {
        let Pipeline { store, queue, .. } = &self.pipeline;
        queue.retries().filter(|id| store.get(*id).is_none() || queue.is_failing(*id)).count()
    }

    /// Returns the present state.
    #[must_use]
    pub fn snapshot(&mut self) -> Snapshot {
        let (services, slices) = self.pipeline.store.counts();
        let allocator = self.pipeline.reconciler.allocator();
        Snapshot {
            waiting_for: self.cluster_state.missing(),
            synced: self.synced,
            services,
            slices,
            service_ports: allocator.ports.used(),
            frontends: allocator.frontend_counts(),
            backends: allocator.backends.used(),
            slots: allocator.slots.used(),
            operations: *self.operations(),
            failing: self.failing(),
            leaving: self.cluster_state.is_leaving(),
            ..self.pipeline.status.snapshot()
        }
    }
}

#[cfg(test)]
impl Core {
    pub(super) fn mark(&mut self, id: ServiceId) {
        self.pipeline.queue.mark(id);
    }

    pub(super) fn services(&self) -> impl Iterator<Item = ServiceId> {
        self.pipeline.store.iter().map(|(id, _)| id)
    }

    /// Returns the numbers of slots, backends and service ports in use, without those at rest.
    pub(super) fn in_use(&self) -> (u32, usize, usize) {
        let allocator = self.pipeline.reconciler.allocator();
        (allocator.slots.in_use(), allocator.backends.in_use(), allocator.ports.used())
    }

    pub(super) fn pending(&self) -> &super::pending::Pending {
        self.pipeline.status.pending_changes()
    }
}
