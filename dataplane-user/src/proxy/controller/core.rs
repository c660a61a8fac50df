//! The controller without threads and clocks: takes events, and in rounds brings the tables to the desired state.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use dataplane_common::types::clock::Clock;
use dataplane_common::types::service::SlotTable;
use dataplane_host::map::MapError;
use hashbrown::HashMap;
use ipnetwork::IpNetwork;
use tracing::{error, info};

use super::cluster_state::{ClusterState, Nodes};
use super::locality::NoLocal;
use super::ownership::FrontendOwnership;
use super::pending::{OBJECT, Pending, SLICES};
use super::rejections::Rejections;
use super::status::Report;
use super::store::{ObjectStore, ServiceEntry};
use crate::proxy::apply::{self, MapWriter, Operations, ServiceMaps};
use crate::proxy::desired::context::octets16;
use crate::proxy::desired::{Context, NodeContext};
use crate::proxy::reconcile::restore::{Garbage, Restored, restore};
use crate::proxy::reconcile::{Allocator, Plan, PublishedPort};
use crate::proxy::source::object::DualAddr;
use crate::proxy::source::{ObjectKey, ObjectKind, ServiceObject, SourceEvent};

/// Passes over changed Services in one reconciliation: a frontend goes to its owner in three or four.
const MAX_PASSES: u32 = 100;

/// The controller's state.
pub struct Core {
    pub(super) writer: MapWriter,
    pub(super) store: ObjectStore,
    pub(super) allocator: Allocator,
    pub(super) context: Context,
    pub(super) plan: Plan,
    pub(super) rejections: Rejections,
    pub(super) report: Report,
    pub(super) no_local: NoLocal,
    pub(super) pending: Arc<Pending>,
    /// Services whose scheduler counts connections.
    pub(super) counting: usize,
    pub(super) cluster_state: ClusterState,
    pub(super) packet_clock: Clock,
    /// Services that wait for the next round.
    pub(super) dirty: Vec<u32>,
    /// Services that go on when no other is dirty.
    pub(super) deferred: Vec<u32>,
    /// Services that wait for another try.
    pub(super) retries: BinaryHeap<Reverse<(Duration, u32)>>,
    /// Owners of contested frontends, and the Services that wait for them.
    pub(super) ownership: FrontendOwnership,
    /// Service ports found in the maps at start, by `namespace/name`, that no Service has adopted yet.
    pub(super) stale: HashMap<Box<str>, Vec<PublishedPort>>,
    /// Slot tables that must not be reused yet, by Service: a write failed, so frontends may still use them.
    pub(super) quarantine: HashMap<u32, Vec<SlotTable>>,
    /// Services refused because a map was full, with the map and the number of missing entries.
    pub(super) insufficient: HashMap<u32, (&'static str, u32)>,
    garbage: Garbage,
    synced: bool,
    addresses_changed: bool,
}

impl Core {
    /// Takes over what is in the tables; writes nothing.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn new(tables: ServiceMaps, packet_clock: Clock, now: Duration) -> Result<Self, MapError> {
        let found = apply::read(&tables)?;
        let Restored { allocator, services, garbage } = restore(found, apply::capacities(&tables), now);
        Ok(Self {
            writer: MapWriter::new(tables),
            store: ObjectStore::default(),
            allocator,
            context: Context::default(),
            plan: Plan::default(),
            rejections: Rejections::default(),
            report: Report::default(),
            no_local: NoLocal::default(),
            pending: Arc::default(),
            counting: 0,
            cluster_state: ClusterState::default(),
            packet_clock,
            dirty: Vec::new(),
            deferred: Vec::new(),
            retries: BinaryHeap::new(),
            ownership: FrontendOwnership::default(),
            stale: services,
            quarantine: HashMap::new(),
            insufficient: HashMap::new(),
            garbage,
            synced: false,
            addresses_changed: false,
        })
    }

    /// What the node is like; the first time is a condition for writing anything.
    pub fn set_node_context(&mut self, node: NodeContext) {
        self.cluster_state.set_node_context(node);
    }

    /// All Nodes, if they have changed since this was last asked and are complete.
    pub fn changed_nodes(&mut self) -> Option<&Nodes> {
        let told = self.cluster_state.has_nodes() && std::mem::take(&mut self.cluster_state.nodes_changed);
        told.then_some(&self.cluster_state.nodes)
    }

    /// The ranges of cluster IPs, as far as they are known: of `ServiceCIDR`s and of the configuration.
    #[must_use]
    pub fn service_ranges(&self) -> &[IpNetwork] {
        self.context.cluster.service_ranges()
    }

    /// Notes a change; the tables follow with the next round.
    pub fn handle(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Service(key, object) => {
                self.rejections.clear_object(ObjectKind::Service, &key);
                self.report.service_change();
                let added = object.as_ref().map(|o| o.cluster_ips);
                if let Some((number, moved)) = self.store.set_service(&key, object) {
                    if moved && self.synced {
                        added.iter().flat_map(DualAddr::iter).for_each(|a| self.mark_external_users(&octets16(a)));
                        self.mark_refused();
                    }
                    self.mark_changed(number, OBJECT);
                }
            }
            SourceEvent::Slice(key, object) => {
                self.rejections.clear_object(ObjectKind::Slice, &key);
                self.report.endpoint_change();
                let triggered = object.as_ref().map_or(0, |o| o.triggered);
                let changed = self.store.set_slice(&key, object);
                changed.into_iter().flatten().for_each(|number| self.mark_changed(number, SLICES));
                if let Some(number) = changed[1] {
                    self.report.triggered(number, triggered);
                }
            }
            SourceEvent::Node(name, object) => {
                self.rejections.clear_object(ObjectKind::Node, &ObjectKey::new("", &name));
                self.cluster_state.set_node(name, object);
            }
            SourceEvent::Pod(key, object) => {
                self.rejections.clear_object(ObjectKind::Pod, &key);
                self.cluster_state.set_pod(key, object);
            }
            SourceEvent::ServiceCidr(name, ranges) => {
                self.rejections.clear_object(ObjectKind::ServiceCidr, &ObjectKey::new("", &name));
                self.cluster_state.set_service_cidr(name, ranges);
            }
            SourceEvent::Relist(kind) => {
                self.rejections.clear_kind(kind);
                self.store.relist(kind);
                self.cluster_state.relist(kind);
            }
            SourceEvent::InSync(kind) => {
                let gone = self.store.sweep(kind);
                if self.synced && !gone.is_empty() {
                    self.mark_refused();
                }
                let change = if kind == ObjectKind::Service { OBJECT } else { SLICES };
                gone.into_iter().for_each(|number| self.mark_changed(number, change));
                self.cluster_state.in_sync(kind);
            }
            SourceEvent::Rejected(rejection) => self.rejections.add(rejection),
            SourceEvent::Cleared(path) => self.rejections.clear_file(&path),
            SourceEvent::Trouble(kind, error) => self.report.error(&format!("{kind}: {error}")),
        }
    }

    /// Whether there is anything to do at this time.
    #[must_use]
    pub fn has_work(&self, now: Duration) -> bool {
        self.cluster_state.is_complete()
            && (!self.synced
                || !self.dirty.is_empty()
                || !self.deferred.is_empty()
                || self.next_retry().is_some_and(|at| at <= now))
    }

    /// When a Service that failed is tried again.
    #[must_use]
    pub fn next_retry(&self) -> Option<Duration> {
        self.retries.peek().map(|Reverse((at, _))| *at)
    }

    /// How many entries were written and removed so far.
    #[must_use]
    pub const fn operations(&self) -> &Operations {
        self.writer.operations()
    }

    /// Whether the tables have been made equal to the desired state once.
    #[must_use]
    pub const fn is_synced(&self) -> bool {
        self.synced
    }

    /// Brings the tables to the desired state. Writes nothing before everything that is needed has been complete once.
    pub fn reconcile(&mut self, now: Duration) {
        if !self.cluster_state.is_complete() {
            return;
        }
        if let Some(context) = self.cluster_state.new_context().filter(|c| *c != self.context) {
            self.context = context;
            self.report.set_nodeport_addresses(&self.context);
            self.allocator.add_node_addresses(&self.node_addresses());
            self.addresses_changed = true;
            self.mark_all();
        }
        while let Some(&Reverse((at, number))) = self.retries.peek()
            && at <= now
        {
            self.retries.pop();
            self.mark(number);
        }
        self.node_round(now);
        if self.synced {
            self.rounds(now);
        } else {
            self.first_rounds(now);
        }
        if std::mem::take(&mut self.addresses_changed) {
            self.allocator.keep_node_addresses(&self.node_addresses());
        }
        self.node_round(now);
    }

    fn node_addresses(&self) -> Vec<[u8; 16]> {
        self.context.node.addresses.iter().map(|a| octets16(*a)).collect()
    }

    fn first_rounds(&mut self, now: Duration) {
        self.first_order(now);
        self.rounds(now);
        self.mark_stale();
        self.rounds(now);
        std::mem::take(&mut self.garbage).release(&mut self.allocator, now);
        self.synced = true;
        let (services, slices) = self.store.counts();
        info!(services, slices, operations = self.operations().total(), "the tables are in sync");
    }

    fn rounds(&mut self, now: Duration) {
        let mut passes = 0;
        while !self.dirty.is_empty() || !self.deferred.is_empty() {
            let next = if self.dirty.is_empty() { &mut self.deferred } else { &mut self.dirty };
            let mut dirty = std::mem::take(next);
            passes += 1;
            if passes > MAX_PASSES {
                error!(services = dirty.len(), "Services go on taking frontends from each other; trying again later");
                for number in dirty {
                    self.store.get_mut(number).into_iter().for_each(|e| e.dirty = false);
                    self.retry(number, now);
                }
                return;
            }
            if !self.ownership.is_empty() {
                // so that whoever was first asks first
                let store = &self.store;
                dirty.sort_by(|a, b| store.get(*a).map(ServiceEntry::rank).cmp(&store.get(*b).map(ServiceEntry::rank)));
            }
            for chunk in dirty.chunks(super::pipeline::CHUNK) {
                self.round(chunk, now);
            }
        }
    }

    /// Garbage goes first, so that it is in nobody's way; older Services come first, because the first owner of an address wins. What the tables
    /// have of a Service is known to be its own before anybody asks for it.
    fn first_order(&mut self, now: Duration) {
        let garbage = std::mem::take(&mut self.garbage.plan);
        self.execute_for_node(&garbage, now);
        for i in 0..self.dirty.len() {
            self.adopt(self.dirty[i]);
        }
        let store = &self.store;
        self.dirty.sort_by_key(|n| store.get(*n).map(|e| e.rank().0));
        if self.stale.is_empty() {
            self.allocator.reserve(self.dirty.len());
        }
    }

    pub(super) fn mark(&mut self, number: u32) {
        if let Some(entry) = self.store.get_mut(number).filter(|e| !e.dirty) {
            entry.dirty = true;
            self.dirty.push(number);
        }
    }

    pub(super) fn mark_all(&mut self) {
        let all: Vec<u32> = self.store.iter().map(|(number, _)| number).collect();
        all.into_iter().for_each(|n| self.mark(n));
    }

    /// A cluster IP that others have had as an external address: they must give it up.
    fn mark_external_users(&mut self, addr: &[u8; 16]) {
        if !self.allocator.has_frontends(addr) {
            return;
        }
        let uses = |s: &ServiceObject| {
            let extra = s.extra.iter().flat_map(|e| e.external_ips.iter().chain(&e.load_balancer_ips));
            extra.into_iter().any(|a| octets16(*a) == *addr)
        };
        let users = self.store.iter().filter(|(_, e)| e.service.as_ref().is_some_and(uses)).map(|(n, _)| n);
        let users: Vec<u32> = users.collect();
        users.into_iter().for_each(|n| self.mark(n));
    }

    /// Services with external addresses that were refused something may have it now.
    fn mark_refused(&mut self) {
        for number in self.rejections.services() {
            if self.store.get(number).is_some_and(|e| e.service.as_ref().is_some_and(|s| s.extra.is_some())) {
                self.mark(number);
            }
        }
    }
}
