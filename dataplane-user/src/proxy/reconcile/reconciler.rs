//! Computes the map operations that bring Services to their desired state. No I/O, no clock.
//!
//! It owns what the maps contain of each Service (the published state), the allocator and the
//! ownership of frontends. The controller calls, per round, [`Reconciler::reconcile`] for each
//! dirty Service and [`Reconciler::plan_addresses`], lets the map writer apply the plan, and then
//! tells per Service whether it was written: [`Reconciler::commit`], or
//! [`Reconciler::plan_rollback`] and after another write [`Reconciler::roll_back`] or
//! [`Reconciler::keep_both`]. The published state changes only in those last three, so that it
//! never says more than the maps contain.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use dataplane_common::types::address::Address;
use dataplane_common::types::clock::Clock;
use dataplane_common::types::service::{Frontend, SlotTable};
use hashbrown::{HashMap, HashSet};

use super::allocator::{Allocator, Capacities};
use super::assign::{Assigned, Refusal, assign};
use super::diff::plan_tables;
use super::ids::ServiceId;
use super::ownership::{Claimants, FrontendOwnership};
use super::plan::{Changes, Plan};
use super::published::{PublishedPort, union};
use super::quota::SlotQuota;
use super::restore::{Garbage, Restored, RestoredService, TableContents, restore};
use crate::proxy::desired::{Desired, FrontendAddr};
use crate::proxy::source::ObjectKey;

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
}

impl Part {
    /// Returns the Services that lose a frontend to this one. Their published state is right only
    /// when the round has ended, so they take part in a later one.
    pub fn losers(&self) -> impl Iterator<Item = ServiceId> {
        self.taken_over.iter().map(|(_, from)| *from)
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
    /// Nothing is planned: the Service does not fit and keeps what it has.
    Refused(Refusal),
}

/// A Service whose entries in the maps are uncertain.
#[derive(Debug)]
struct Uncertain {
    origin: Origin,
    /// Slot tables that must not be reused yet, because frontends may still use them, besides those
    /// of the published state.
    tables: Vec<SlotTable>,
}

/// The state to which a rollback of an uncertain Service leads.
#[derive(Debug)]
enum Origin {
    /// The last state that was in the maps for certain.
    Known(Box<[PublishedPort]>),
    /// The frontends that the agent found, half written, when it started, and the number of
    /// [`Uncertain::tables`] that they use.
    Found(Vec<(FrontendAddr, Frontend)>, usize),
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
                self.uncertain.insert(id, Uncertain { origin, tables });
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
        Some(Reconciled::Planned { part: Part { id, before, after, taken_over }, conflicts })
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

    /// Adds the operations that undo a part of which a write failed: the Service gets back what it
    /// last had for certain, or the frontends that the agent found. No slot table is written: those
    /// of earlier states are in the maps, unchanged.
    pub fn plan_rollback(&mut self, part: &mut Part, services: &impl Claimants, plan: &mut Plan) {
        part.taken_over.iter().for_each(|(key, owner)| self.plan_return(key, *owner, part.id, plan));
        let Some(claimant) = services.claimant(part.id) else { return };
        let name = (&*claimant.key.namespace, &*claimant.key.name);
        let (before, mut failed) = (std::mem::take(&mut part.before), std::mem::take(&mut part.after));
        failed.iter_mut().for_each(|p| p.uncertain = true);
        if !self.uncertain.contains_key(&part.id) {
            (part.before, part.after) = (failed, before);
            self.allocator.plan(name, &part.before, &part.after, part.id, plan);
            return;
        }
        part.before = self.merge(part, &before, &failed, &failed, name);
        match self.uncertain.get(&part.id).map(|uncertain| &uncertain.origin) {
            Some(Origin::Known(ports)) => {
                part.after.clone_from(ports);
                self.allocator.plan(name, &part.before, &part.after, part.id, plan);
            }
            Some(Origin::Found(frontends, _)) => {
                let mut rest = part.before.clone();
                rest.iter_mut().for_each(|p| p.frontends = Box::default());
                self.allocator.plan(name, &rest, &rest, part.id, plan);
                for key in part.before.iter().flat_map(|p| &p.frontends).map(|f| f.key) {
                    match frontends.iter().find(|(found, _)| *found == key) {
                        Some((_, value)) => plan.set_frontend(part.id, &key, *value),
                        None => plan.remove_frontend(part.id, &key),
                    }
                }
                part.after = part.before.clone();
            }
            None => {}
        }
    }

    /// Notes that the rollback of a part is in the maps.
    pub fn roll_back(&mut self, mut part: Part, now: Duration) {
        let Self { uncertain, allocator, .. } = self;
        if let Some(Uncertain { origin: Origin::Found(_, of_found), tables }) = uncertain.get_mut(&part.id) {
            tables.drain(*of_found..).for_each(|table| allocator.slots.release(table, now));
        } else {
            part.after.iter_mut().for_each(|p| p.uncertain = false);
            self.release_uncertain(part.id, now);
        }
        self.settle(part.id, &part.before, part.after, now);
    }

    /// Notes that both a part and its rollback failed: the maps may contain any of both. The
    /// Service keeps all of it, uncertain, until a later round has written it. Frontends that it
    /// was to take from others stay with them.
    pub fn keep_both(&mut self, mut part: Part, services: &impl Claimants) {
        let (failed, origin) = (std::mem::take(&mut part.before), std::mem::take(&mut part.after));
        for (key, owner) in &part.taken_over {
            self.mark_frontend_uncertain(key, *owner);
        }
        let Some(claimant) = services.claimant(part.id) else { return };
        let name = (&*claimant.key.namespace, &*claimant.key.name);
        let both = self.merge(&part, &origin, &failed, &origin, name);
        self.publish(part.id, both);
    }

    /// Returns the entries that the maps may contain: those of `before` and of `failed`, without
    /// frontends that were to be taken from others. All of it is allocated, so that no other
    /// Service gets a part of it; so far, `allocated` is.
    fn merge(
        &mut self,
        part: &Part,
        before: &[PublishedPort],
        failed: &[PublishedPort],
        allocated: &[PublishedPort],
        name: (&str, &str),
    ) -> Box<[PublishedPort]> {
        let mut own = failed.to_vec();
        let is_taken = |key: &FrontendAddr| part.taken_over.iter().any(|(taken, _)| taken == key);
        own.iter_mut().for_each(|p| p.frontends = p.frontends.iter().filter(|f| !is_taken(&f.key)).copied().collect());
        let (both, tables) = union(before, &own);
        self.allocator.plan(name, allocated, &both, part.id, &mut Plan::default());
        let new = || Uncertain { origin: Origin::Known(before.into()), tables: Vec::new() };
        self.uncertain.entry(part.id).or_insert_with(new).tables.extend(tables);
        both
    }

    /// Releases the slot tables that only uncertain entries of a Service used.
    fn release_uncertain(&mut self, id: ServiceId, now: Duration) {
        if self.uncertain.is_empty() {
            return;
        }
        let tables = self.uncertain.remove(&id).map(|uncertain| uncertain.tables);
        tables.into_iter().flatten().for_each(|table| self.allocator.slots.release(table, now));
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
        // A rollback must not take it back.
        match self.uncertain.get_mut(&from).map(|uncertain| &mut uncertain.origin) {
            Some(Origin::Known(ports)) => ports.iter_mut().for_each(|port| port.remove(key)),
            Some(Origin::Found(frontends, _)) => frontends.retain(|(found, _)| found != key),
            None => {}
        }
        self.ownership.end_proposal(key);
        self.woken.push(from);
        self.wake_waiting(key);
    }

    fn wake_waiting(&mut self, key: &FrontendAddr) {
        self.woken.extend(self.ownership.wake(key));
    }

    /// Plans, for the Service `id` that could not take a frontend over, the entry of its owner. The
    /// Services that wait learn the owner again.
    fn plan_return(&mut self, key: &FrontendAddr, owner: ServiceId, id: ServiceId, plan: &mut Plan) {
        self.wake_waiting(key);
        let mut ports = self.published.get(owner.index()).into_iter().flatten();
        let Some((port, frontend)) = ports.find_map(|p| Some((p, p.find(key)?))) else { return };
        self.allocator.enter_frontend(*key, port.id);
        plan.set_frontend(id, key, port.value(frontend));
    }

    /// Has the owner write a frontend again, because its entry may be the owner's or another's.
    fn mark_frontend_uncertain(&mut self, key: &FrontendAddr, owner: ServiceId) {
        let Some(ports) = self.published.get_mut(owner.index()) else { return };
        ports.iter_mut().filter(|p| p.find(key).is_some()).for_each(|p| p.uncertain = true);
        self.woken.push(owner);
    }
}
