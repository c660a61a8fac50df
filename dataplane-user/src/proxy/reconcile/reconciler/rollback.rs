//! Undoes the part of a Service of which a write failed, and keeps what is uncertain if that fails
//! too.
//!
//! The pipeline calls it when a round has ended. Until a later round has written the Service
//! whole, everything that the maps may contain of it stays allocated, with the names of its ports.

use std::time::Duration;

use dataplane_common::types::service::{Frontend, SlotTable};

use super::super::ids::ServiceId;
use super::super::ownership::Claimants;
use super::super::plan::Plan;
use super::super::published::{PublishedPort, union};
use super::{Part, Reconciler};
use crate::proxy::desired::FrontendAddr;

/// A Service whose entries in the maps are uncertain.
#[derive(Debug)]
pub(super) struct Uncertain {
    origin: Origin,
    /// Slot tables that must not be reused yet, because frontends may still use them, besides those
    /// of the published state.
    tables: Vec<SlotTable>,
    /// Frontends of other Services that may still lead to this one, because it failed to take them
    /// and then to give them back. Its next plan gives them back, before it removes anything.
    unreturned: Vec<FrontendAddr>,
}

impl Uncertain {
    /// Creates the record of a Service that leads back to `origin`.
    pub(super) const fn new(origin: Origin, tables: Vec<SlotTable>) -> Self {
        Self { origin, tables, unreturned: Vec::new() }
    }

    /// Removes a frontend that another Service has taken: a rollback must not take it back.
    pub(super) fn remove(&mut self, key: &FrontendAddr) {
        match &mut self.origin {
            Origin::Known(ports) => ports.iter_mut().for_each(|port| port.remove(key)),
            Origin::Found(frontends, _) => frontends.retain(|(found, _)| found != key),
        }
    }
}

/// The state to which a rollback of an uncertain Service leads.
#[derive(Debug)]
pub(super) enum Origin {
    /// The last state that was in the maps for certain.
    Known(Box<[PublishedPort]>),
    /// The frontends that the agent found, half written, when it started, and the number of
    /// [`Uncertain::tables`] that they use.
    Found(Vec<(FrontendAddr, Frontend)>, usize),
}

impl Origin {
    /// Returns the entry of a frontend, if the Service had it.
    fn frontend(&self, key: &FrontendAddr) -> Option<Frontend> {
        match self {
            Self::Known(ports) => ports.iter().find_map(|port| Some(port.value(port.find(key)?))),
            Self::Found(frontends, _) => frontends.iter().find(|(found, _)| found == key).map(|(_, value)| *value),
        }
    }
}

impl Reconciler {
    /// Adds the operations that undo a part of which a write failed: the Service gets back what it
    /// last had for certain, or the frontends that the agent found. No slot table is written: those
    /// of earlier states are in the maps, unchanged.
    pub fn plan_rollback(&mut self, part: &mut Part, services: &impl Claimants, plan: &mut Plan) {
        part.foreign().for_each(|(key, owner)| self.plan_return(key, *owner, part.id, plan));
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
        if let Some(Uncertain { origin: Origin::Found(_, of_found), tables, unreturned }) = uncertain.get_mut(&part.id)
        {
            unreturned.clear();
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
        if let Some(uncertain) = self.uncertain.get_mut(&part.id) {
            uncertain.unreturned = part.foreign().map(|(key, _)| *key).collect();
        }
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
        let new = || Uncertain::new(Origin::Known(before.into()), Vec::new());
        self.uncertain.entry(part.id).or_insert_with(new).tables.extend(tables);
        both
    }

    /// Releases the slot tables that only uncertain entries of a Service used.
    pub(super) fn release_uncertain(&mut self, id: ServiceId, now: Duration) {
        if self.uncertain.is_empty() {
            return;
        }
        let tables = self.uncertain.remove(&id).map(|uncertain| uncertain.tables);
        tables.into_iter().flatten().for_each(|table| self.allocator.slots.release(table, now));
    }

    /// Returns the frontends of other Services that may lead to this one, with their owners. One
    /// that its owner has written or removed since is certain.
    pub(super) fn unreturned(&self, id: ServiceId) -> Vec<(FrontendAddr, ServiceId)> {
        let Some(uncertain) = self.uncertain.get(&id) else { return Vec::new() };
        let owner = |key: &FrontendAddr| {
            let owner = self.allocator.ports.owner(self.allocator.frontend_owner(key)?)?;
            let port = self.published(owner).iter().find(|port| port.find(key).is_some());
            (owner != id && port.is_none_or(|port| port.uncertain)).then_some((*key, owner))
        };
        uncertain.unreturned.iter().filter_map(owner).collect()
    }

    /// Plans, for the Service `id` that could not take a frontend over, the entry that its owner
    /// last had for certain, or its removal. The Services that wait learn the owner again.
    pub(super) fn plan_return(&mut self, key: &FrontendAddr, owner: ServiceId, id: ServiceId, plan: &mut Plan) {
        self.wake_waiting(key);
        let mut ports = self.published.get(owner.index()).into_iter().flatten();
        let Some((port, frontend)) = ports.find_map(|p| Some((p, p.find(key)?))) else { return };
        self.allocator.enter_frontend(*key, port.id);
        let value = match self.uncertain.get(&owner) {
            Some(uncertain) => uncertain.origin.frontend(key),
            None => Some(port.value(frontend)),
        };
        match value {
            Some(value) => plan.set_frontend(id, key, value),
            None => plan.remove_frontend(id, key),
        }
    }

    /// Has the owner write a frontend again, because its entry may be the owner's or another's.
    fn mark_frontend_uncertain(&mut self, key: &FrontendAddr, owner: ServiceId) {
        let Some(ports) = self.published.get_mut(owner.index()) else { return };
        ports.iter_mut().filter(|p| p.find(key).is_some()).for_each(|p| p.uncertain = true);
        self.woken.push(owner);
    }
}
