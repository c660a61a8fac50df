//! Computes the map operations that bring Services to their desired state. No I/O, no clock.
//!
//! It owns what the maps contain of each Service (the published state), the allocator and the
//! ownership of frontends. The controller calls, per round, [`Reconciler::reconcile`] for each
//! dirty Service and [`Reconciler::plan_addresses`], lets the map writer apply the plan, and then
//! tells per Service whether it was written: [`Reconciler::commit`], or
//! [`Reconciler::plan_rollback`] and after another write [`Reconciler::roll_back`] or
//! [`Reconciler::keep_both`]. The published state changes only in those last three, so that it
//! never says more than the maps contain.

mod rollback;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use dataplane_common::types::address::Address;
use dataplane_common::types::clock::Clock;
use hashbrown::{HashMap, HashSet};

use super::allocator::{Allocator, Capacities};
use super::assign::{Assigned, Refusal, assign};
use super::diff::plan_tables;
use super::ids::ServiceId;
use super::ownership::{Claimants, FrontendOwnership};
use super::plan::{Changes, Plan};
use super::published::PublishedPort;
use super::quota::SlotQuota;
use super::restore::{Garbage, Restored, RestoredService, TableContents, restore};
use crate::proxy::desired::{Desired, FrontendAddr};
use crate::proxy::source::ObjectKey;
use rollback::{Origin, Uncertain};

/// One Service's part of a round: its entries in the maps before the round and after it. For a
/// rollback the two change places.
#[derive(Debug)]
pub struct Part {
    /// The Service.
    pub id: ServiceId,
    before: Box<[PublishedPort]>,
    after: Box<[PublishedPort]>,
    /// Frontends that it takes from other Services.
    taken_over: Vec<(FrontendAddr, ServiceId)>,
    /// Frontends that it gives back to other Services, because it failed to take them in an earlier
    /// round.
    given_back: Vec<(FrontendAddr, ServiceId)>,
}

impl Part {
    /// Returns the Services that lose a frontend to this one, or get it back. Their published state
    /// is right only when the round has ended, so they take part in a later one.
    pub fn affected(&self) -> impl Iterator<Item = ServiceId> {
        self.foreign().map(|(_, owner)| *owner)
    }

    /// Returns the frontends of other Services that the part writes, with their owners.
    fn foreign(&self) -> impl Iterator<Item = &(FrontendAddr, ServiceId)> {
        self.taken_over.iter().chain(&self.given_back)
    }
}

/// The result of [`Reconciler::reconcile`].
#[derive(Debug)]
pub enum Reconciled {
    /// The operations are in the plan.
    Planned {
        /// To be committed or rolled back after the plan was applied.
        part: Part,
        /// Frontends that another Service keeps; `None`: of an unknown Service.
        conflicts: Vec<(FrontendAddr, Option<ServiceId>)>,
    },
    /// Nothing is planned: the Service gives up frontends, which others may take first. It has to
    /// be reconciled again when no other Service is dirty.
    Deferred,
    /// Nothing is planned: a Service of this round has a frontend that this one has to give back.
    /// It has to be reconciled in a later round.
    Later,
    /// Nothing is planned: the Service does not fit and keeps what it has.
    Refused(Refusal),
}

/// The Services' published state, and everything that is needed to change it.
#[derive(Debug)]
pub struct Reconciler {
    allocator: Allocator,
    ownership: FrontendOwnership,
    /// By Service id.
    published: Vec<Box<[PublishedPort]>>,
    /// Services found in the maps at start, by `namespace/name`, that none has adopted yet.
    stale: HashMap<Box<str>, RestoredService>,
    /// Entries found at start that belong to no Service; `None` once they are removed.
    garbage: Option<Garbage>,
    uncertain: HashMap<ServiceId, Uncertain>,
    quota: SlotQuota,
    /// Services to reconcile because of what happened to another one.
    woken: Vec<ServiceId>,
    packet_clock: Clock,
}

impl Reconciler {
    /// Takes over what the maps contain when the agent starts.
    #[must_use]
    pub fn new(found: TableContents, capacities: Capacities, packet_clock: Clock, now: Duration) -> Self {
        let Restored { allocator, services, garbage } = restore(found, capacities, now);
        Self {
            allocator,
            ownership: FrontendOwnership::default(),
            published: Vec::new(),
            stale: services,
            garbage: Some(garbage),
            uncertain: HashMap::new(),
            quota: SlotQuota::default(),
            woken: Vec::new(),
            packet_clock,
        }
    }

    /// Returns the allocator, for the figures of use.
    #[must_use]
    pub const fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// Returns the allocator, to tell it the node's addresses and to reserve memory.
    pub const fn allocator_mut(&mut self) -> &mut Allocator {
        &mut self.allocator
    }

    /// Sets the number of slots of the largest map, of which Services and namespaces get a share;
    /// 0: unlimited.
    pub const fn set_most_slots(&mut self, slots: u32) {
        self.quota.largest = slots;
    }

    /// Returns what the maps contain of a Service.
    #[must_use]
    pub fn published(&self, id: ServiceId) -> &[PublishedPort] {
        self.published.get(id.index()).map_or(&[], |ports| ports)
    }

    /// Returns true if any Service waits for a frontend; then the order of Services matters.
    #[must_use]
    pub fn has_contested_frontends(&self) -> bool {
        !self.ownership.is_empty()
    }

    /// Returns the Services that have to be reconciled because of the calls since this was last
    /// called.
    pub fn take_woken(&mut self) -> Vec<ServiceId> {
        std::mem::take(&mut self.woken)
    }

    /// Returns the entries that belonged to no Service at start, until they have been removed. The
    /// caller removes them and calls one of the next two functions.
    pub fn take_garbage(&mut self) -> Option<Garbage> {
        let mut garbage = self.garbage.take()?;
        garbage.leave_claimed(&self.allocator);
        Some(garbage)
    }

    /// Notes that garbage could not be removed: what it uses is not free.
    pub fn keep_garbage(&mut self, garbage: Garbage) {
        self.garbage = Some(garbage);
    }

    /// Frees what removed garbage used.
    pub fn release_garbage(&mut self, garbage: Garbage, now: Duration) {
        garbage.release(&mut self.allocator, now);
    }

    /// Gives a Service what the maps had of it when the agent started.
    pub fn adopt(&mut self, id: ServiceId, key: &ObjectKey) {
        if self.stale.is_empty() || !self.published(id).is_empty() {
            return;
        }
        if let Some(RestoredService { ports, frontends, tables }) = self.stale.remove(key.to_string().as_str()) {
            self.quota.register(id, &key.namespace);
            ports.iter().for_each(|p| self.allocator.ports.adopt(p.id, id));
            if ports.iter().any(|p| p.uncertain) {
                let origin = Origin::Found(frontends, tables.len());
                self.uncertain.insert(id, Uncertain::new(origin, tables));
            }
            self.publish(id, ports.into());
        }
    }

    /// Returns the Services with entries in the maps that were not adopted: after the first full
    /// sync, these were deleted while the agent was down.
    #[must_use]
    pub fn stale(&self) -> Vec<ObjectKey> {
        self.stale.keys().filter_map(|name| name.split_once('/')).map(|(n, s)| ObjectKey::new(n, s)).collect()
    }

    /// Adds the operations that lead one Service to `desired`. `deferred` is true if that was
    /// deferred until no other Service is dirty. Returns `None` if there is no such Service.
    pub fn reconcile(
        &mut self,
        id: ServiceId,
        desired: &Desired,
        services: &impl Claimants,
        plan: &mut Plan,
        now: Duration,
        deferred: bool,
    ) -> Option<Reconciled> {
        let key = services.claimant(id)?.key;
        self.adopt(id, key);
        let mut given_back = self.unreturned(id);
        if given_back.iter().any(|(key, owner)| self.published(*owner).iter().all(|p| p.find(key).is_none())) {
            return Some(Reconciled::Later);
        }
        self.ownership.remove(id);
        let before = self.published.get_mut(id.index()).map(std::mem::take).unwrap_or_default();
        if self.propose(id, &before, desired, services, deferred) {
            self.wait_for_others(id, desired);
            self.publish(id, before);
            return Some(Reconciled::Deferred);
        }
        self.quota.register(id, &key.namespace);
        self.allocator.room = self.quota.room(id, &key.namespace);
        let decisions = self.ownership.decide(id, desired, &self.allocator, &self.published, services);
        let assigned = assign(&before, desired, id, &mut self.allocator, self.packet_clock, now, &decisions);
        let Assigned { ports: after, conflicts, taken_over, later } = match assigned {
            Ok(assigned) => assigned,
            Err(refusal) => {
                self.publish(id, before);
                return Some(Reconciled::Refused(refusal));
            }
        };
        given_back.retain(|(key, _)| !taken_over.iter().any(|(taken, _)| taken == key));
        given_back.iter().for_each(|(key, owner)| self.plan_return(key, *owner, id, plan));
        self.allocator.plan((&key.namespace, &key.name), &before, &after, id, plan);
        plan_tables(&before, &after, id, plan);
        // Counted before it is written, because others of the namespace may take part in the round.
        self.quota.set(id, &after);
        for (frontend, _) in conflicts.iter().filter(|(_, owner)| *owner != Some(id)) {
            self.ownership.wait(id, *frontend);
        }
        self.wake_earlier(id, &after, services);
        if later {
            self.woken.push(id);
        }
        Some(Reconciled::Planned { part: Part { id, before, after, taken_over, given_back }, conflicts })
    }

    /// Has a Service wait for no frontend of another one any more. It keeps what it has.
    pub fn withdraw(&mut self, id: ServiceId) {
        self.ownership.remove(id);
    }

    /// Adds the entries of addresses that have changed since the last call, at the end of a round.
    pub fn plan_addresses(&mut self, plan: &mut Plan) {
        self.allocator.plan_addresses(plan);
    }

    /// Marks the addresses of an applied plan as uncertain if their Service is one that `failed`.
    pub fn mark_addresses_uncertain(&mut self, plan: &Plan, failed: impl Fn(ServiceId) -> bool) {
        self.mark_uncertain(&plan.v4.addresses, &failed);
        self.mark_uncertain(&plan.v6.addresses, &failed);
    }

    fn mark_uncertain<A: Address + Into<IpAddr>, V>(
        &mut self,
        changes: &Changes<A, V>,
        failed: &impl Fn(ServiceId) -> bool,
    ) {
        let (sets, removals) = (&changes.sets, &changes.removals);
        let entries = sets.keys.iter().zip(&sets.services).chain(removals.keys.iter().zip(&removals.services));
        for (addr, id) in entries.filter(|(_, id)| failed(**id)) {
            self.allocator.addr_failed((*addr).into(), *id);
        }
    }

    /// Notes that a Service's part of the plan is in the maps.
    pub fn commit(&mut self, part: Part, now: Duration) {
        self.release_uncertain(part.id, now);
        self.settle(part.id, &part.before, part.after, now);
        part.taken_over.iter().for_each(|(key, from)| self.transfer(key, *from));
    }

    fn publish(&mut self, id: ServiceId, ports: Box<[PublishedPort]>) {
        if id.index() >= self.published.len() {
            self.published.resize_with(id.index() + 1, Box::default);
        }
        self.quota.set(id, &ports);
        self.published[id.index()] = ports;
    }

    /// Replaces `before` by `after`, and wakes the Services that wait for what is free now.
    fn settle(&mut self, id: ServiceId, before: &[PublishedPort], after: Box<[PublishedPort]>, now: Duration) {
        let Self { allocator, ownership, woken, .. } = self;
        allocator.commit(before, &after, now, |key| woken.extend(ownership.wake(key)));
        self.publish(id, after);
    }

    /// Proposes the frontends that the Service is about to give up to their successors. Returns
    /// true if there were any, or if it was not deferred yet: until all other dirty Services have
    /// been reconciled, their claims are not known. The Service then keeps everything.
    fn propose(
        &mut self,
        id: ServiceId,
        before: &[PublishedPort],
        desired: &Desired,
        services: &impl Claimants,
        deferred: bool,
    ) -> bool {
        if before.is_empty() {
            return false;
        }
        let wanted: HashSet<FrontendAddr> = desired.ports.iter().flat_map(|p| &p.frontends).map(|f| f.key).collect();
        let keys = before.iter().flat_map(|p| &p.frontends).map(|f| f.key);
        if !deferred && keys.clone().any(|key| !wanted.contains(&key)) {
            return true;
        }
        if self.ownership.is_empty() {
            return false;
        }
        let mut proposed = false;
        for key in keys {
            let successor = self.ownership.successor(&key, id, services).filter(|_| !wanted.contains(&key));
            match successor {
                Some(successor) if self.ownership.propose(key) => {
                    self.woken.push(successor);
                    proposed = true;
                }
                _ => self.ownership.end_proposal(&key),
            }
        }
        proposed
    }

    /// Has the Service wait for the frontends that others have, whatever it will get of them.
    fn wait_for_others(&mut self, id: ServiceId, desired: &Desired) {
        for key in desired.ports.iter().flat_map(|p| &p.frontends).map(|f| f.key) {
            let owner = self.allocator.frontend_owner(&key);
            if owner.is_some_and(|port| self.allocator.ports.owner(port) != Some(id)) {
                self.ownership.wait(id, key);
            }
        }
    }

    /// Wakes the Services that wait for frontends of this one and come before it now, because it
    /// was deleted and created again.
    fn wake_earlier(&mut self, id: ServiceId, after: &[PublishedPort], services: &impl Claimants) {
        if self.ownership.is_empty() {
            return;
        }
        for key in after.iter().flat_map(|p| &p.frontends).map(|f| f.key) {
            let Some(successor) = self.ownership.successor(&key, id, services) else { continue };
            let rank = |id: ServiceId| services.claimant(id).map(|c| c.rank());
            if rank(successor) < rank(id) {
                self.woken.push(successor);
            }
        }
    }

    /// Takes a frontend from `from`, whose entry another Service has overwritten. `from` claims it
    /// again and waits; the Services that waited learn the new owner.
    fn transfer(&mut self, key: &FrontendAddr, from: ServiceId) {
        let Some(ports) = self.published.get_mut(from.index()) else { return };
        for port in ports {
            let Some(frontend) = port.find(key).copied() else { continue };
            port.remove(key);
            self.allocator.leave_addr(&frontend, from);
        }
        if let Some(uncertain) = self.uncertain.get_mut(&from) {
            uncertain.remove(key);
        }
        self.ownership.end_proposal(key);
        self.woken.push(from);
        self.wake_waiting(key);
    }

    fn wake_waiting(&mut self, key: &FrontendAddr) {
        self.woken.extend(self.ownership.wake(key));
    }
}
