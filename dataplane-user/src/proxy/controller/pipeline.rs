//! A round: a number of Services together, so that maps are written in batches, each Service on its own account.

use std::cmp::Reverse;
use std::time::Duration;

use dataplane_common::types::address::Address;
use dataplane_common::types::service::scheduler;
use dataplane_host::map::MapError;

use super::core::Core;
use super::locality::{missing, recount};
use super::snapshot::HealthCheck;
use crate::proxy::apply::Failures;
use crate::proxy::desired::context::ip;
use crate::proxy::desired::{self, Desired, FrontendAddr, ready_local};
use crate::proxy::reconcile::plan::{NODE, Plan, Tag};
use crate::proxy::reconcile::published::union;
use crate::proxy::reconcile::{PublishedPort, Refusal, assign};
use crate::proxy::source::{Cause, ObjectKey, ObjectKind, Rejection};

/// Services to a round: enough for batches, few enough for little memory.
pub(super) const CHUNK: usize = 512;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_DOUBLINGS: u8 = 8;

/// One Service's part of a round.
struct Part {
    number: u32,
    before: Box<[PublishedPort]>,
    after: Box<[PublishedPort]>,
    /// Frontends that it gets from other Services.
    taken_over: Vec<(FrontendAddr, u32)>,
}

impl Core {
    pub(super) fn round(&mut self, numbers: &[u32], now: Duration) {
        let mut plan = std::mem::take(&mut self.plan);
        let mut parts = Vec::with_capacity(numbers.len());
        let mut giving: Vec<u32> = Vec::new();
        for number in numbers {
            if giving.contains(number) {
                // its published state is right only when this round has ended
                self.dirty.push(*number);
            } else if let Some(part) = self.prepare(*number, &mut plan, now) {
                giving.extend(part.taken_over.iter().map(|(_, from)| *from));
                parts.push(part);
            }
        }
        self.allocator.plan_addrs(&mut plan);
        let failures = if plan.is_empty() { Failures::new() } else { self.execute(&plan) };
        plan.clear();
        self.finish(parts, &failures, &mut plan, now);
        self.plan = plan;
    }

    /// Derives, assigns and plans one Service; none if nothing of it is or will be in the tables.
    fn prepare(&mut self, number: u32, plan: &mut Plan, now: Duration) -> Option<Part> {
        self.adopt(number);
        self.ownership.forget(number);
        let entry = self.store.get_mut(number)?;
        entry.dirty = false;
        let before = std::mem::take(&mut entry.published);
        let entry = self.store.get(number)?;
        let mut desired = match &entry.service {
            None => Desired::default(),
            Some(service) => {
                let slices = entry.slices.iter().map(|s| &s.object);
                desired::service(&entry.key, service, slices, &self.context, |a| self.store.is_cluster_ip(a))
            }
        };
        if self.propose(number, &before, &desired) {
            self.restore_part(number, before);
            self.put_off(number);
            return None;
        }
        let entry = self.store.get(number)?;
        let clock = self.packet_clock;
        let (store, ownership) = (&self.store, &self.ownership);
        let assigned = assign(&before, &desired, number, &mut self.allocator, clock, now, |key, owner| {
            ownership.decide(key, entry, owner, store)
        });
        let mut rejections = std::mem::take(&mut desired.rejections);
        self.note_health(number);
        let entry = self.store.get(number)?;
        let assigned = match assigned {
            Ok(assigned) => {
                self.insufficient.remove(&number);
                assigned
            }
            Err(refusal) => {
                let Refusal::Full { map, needed, .. } = refusal;
                self.insufficient.insert(number, (map, needed));
                rejections.push(
                    Rejection::of(ObjectKind::Service, &entry.key, "", refusal.to_string()).because(Cause::TableFull),
                );
                self.rejections.set_service(number, rejections);
                self.restore_part(number, before);
                self.retry(number, now);
                return None;
            }
        };
        self.allocator.plan((&entry.key.namespace, &entry.key.name), &before, &assigned.ports, number, plan);
        for (key, other) in assigned.conflicts {
            rejections.push(self.conflict(number, key, other));
            if other != Some(number) {
                self.ownership.wait(number, key);
            }
        }
        self.rejections.set_service(number, rejections);
        self.mark_earlier(number, &assigned.ports);
        if assigned.later {
            self.mark(number);
        }
        Some(Part { number, before, after: assigned.ports, taken_over: assigned.taken_over })
    }

    /// It goes on when nobody else is left to go on.
    fn put_off(&mut self, number: u32) {
        if let Some(entry) = self.store.get_mut(number) {
            entry.dirty = true;
            self.deferred.push(number);
        }
    }

    /// Takes over what the tables had of this Service when the agent started.
    pub(super) fn adopt(&mut self, number: u32) {
        if self.stale.is_empty() {
            return;
        }
        let Some(entry) = self.store.get(number).filter(|e| e.published.is_empty()) else { return };
        let name = entry.key.to_string();
        if let Some(ports) = self.stale.remove(name.as_str()) {
            ports.iter().for_each(|p| self.allocator.ports.adopt(p.id, number));
            self.restore_part(number, ports.into());
        }
    }

    fn restore_part(&mut self, number: u32, published: Box<[PublishedPort]>) {
        if let Some(entry) = self.store.get_mut(number) {
            let before = std::mem::replace(&mut entry.no_local, missing(&published));
            recount(&mut self.no_local, before, entry.no_local);
            let counts = published.iter().any(|port| scheduler::counts_connections(port.scheduler));
            self.counting += usize::from(counts);
            self.counting -= usize::from(std::mem::replace(&mut entry.counts, counts));
            entry.published = published;
        }
    }

    fn conflict(&self, number: u32, key: FrontendAddr, other: Option<u32>) -> Rejection {
        let owner = other.and_then(|n| self.store.get(n));
        let owner = owner.map_or_else(|| "another Service".to_owned(), |e| format!("Service {}", e.key));
        let claimant = self.store.get(number).map_or_else(|| ObjectKey::new("", ""), |e| e.key.clone());
        let reason = format!("{} port {} is taken by {owner}", ip(key.addr), key.port);
        Rejection::of(ObjectKind::Service, &claimant, "spec.ports", reason).because(Cause::AddressConflict)
    }

    fn execute(&mut self, plan: &Plan) -> Failures {
        let failures = self.writer.apply(plan).failures;
        if let Some(error) = failures.values().next() {
            self.report.error(&error.to_string());
            let (v4, v6) = (&plan.v4.addresses, &plan.v6.addresses);
            self.mark_addrs_uncertain(&v4.sets.keys, &v4.sets.tags, &failures);
            self.mark_addrs_uncertain(&v6.sets.keys, &v6.sets.tags, &failures);
            self.mark_addrs_uncertain(&v4.removals.keys, &v4.removals.tags, &failures);
            self.mark_addrs_uncertain(&v6.removals.keys, &v6.removals.tags, &failures);
        }
        failures
    }

    /// Addresses that may not have been entered or removed are looked at again.
    fn mark_addrs_uncertain<A: Address>(&mut self, addrs: &[A], tags: &[Tag], failures: &Failures) {
        for (addr, tag) in addrs.iter().zip(tags).filter(|(_, tag)| failures.contains_key(*tag)) {
            self.allocator.addr_failed(addr.to_octets16(), *tag);
        }
    }

    /// Settles what was done; takes back what failed, and plans another try.
    fn finish(&mut self, parts: Vec<Part>, failures: &Failures, plan: &mut Plan, now: Duration) {
        let (done, mut failed): (Vec<_>, Vec<_>) = parts.into_iter().partition(|p| !failures.contains_key(&p.number));
        for part in done {
            if let Some(entry) = self.store.get_mut(part.number) {
                entry.failures = 0;
            }
            if !self.quarantine.is_empty() {
                let tables = self.quarantine.remove(&part.number);
                tables.into_iter().flatten().for_each(|t| self.allocator.slots.release(t, now));
            }
            self.note_applied(part.number);
            self.settle(part.number, &part.before, part.after, now);
            part.taken_over.iter().for_each(|(key, from)| self.transfer(key, *from));
        }
        for part in &mut failed {
            part.after.iter_mut().for_each(|p| p.uncertain = true);
            part.taken_over.iter().for_each(|(key, from)| self.plan_return(key, *from, part.number, plan));
            let Some(entry) = self.store.get(part.number) else { continue };
            self.allocator.plan((&entry.key.namespace, &entry.key.name), &part.after, &part.before, part.number, plan);
        }
        if failed.is_empty() {
            return;
        }
        self.allocator.plan_addrs(plan);
        let again = self.execute(plan);
        plan.clear();
        for mut part in failed {
            if let (Some(entry), Some(error)) = (self.store.get(part.number), failures.get(&part.number)) {
                let cause = if matches!(error, MapError::Full { .. }) { Cause::TableFull } else { Cause::WriteFailed };
                let rejection = Rejection::of(ObjectKind::Service, &entry.key, "", error.to_string()).because(cause);
                self.rejections.set_service(part.number, vec![rejection]);
            }
            if again.contains_key(&part.number) {
                self.keep_both(&mut part, plan);
            } else {
                self.settle(part.number, &part.after, part.before, now);
            }
            self.retry(part.number, now);
        }
    }

    /// Neither the way forth nor the way back was completed. What others were to hand over stays with them.
    fn keep_both(&mut self, part: &mut Part, scratch: &mut Plan) {
        for (key, owner) in part.taken_over.drain(..) {
            let without = |p: &PublishedPort| p.frontends.iter().filter(|f| f.key != key).copied().collect();
            part.after.iter_mut().for_each(|p| p.frontends = without(p));
            self.mark_frontend_uncertain(&key, owner);
        }
        let (both, tables) = union(&part.before, &part.after);
        if let Some(entry) = self.store.get(part.number) {
            // Planned only to allocate all of it, so that no other Service gets a part; nothing is executed.
            self.allocator.plan((&entry.key.namespace, &entry.key.name), &part.before, &both, part.number, scratch);
            scratch.clear();
        }
        self.quarantine.entry(part.number).or_default().extend(tables);
        self.restore_part(part.number, both);
    }

    /// `after` is in the tables instead of `before`.
    fn settle(&mut self, number: u32, before: &[PublishedPort], after: Box<[PublishedPort]>, now: Duration) {
        self.commit(before, &after, now);
        self.restore_part(number, after);
        self.store.collect(number);
    }

    /// Commits `after` to the allocator, and marks the Services that wait for what is free now.
    fn commit(&mut self, before: &[PublishedPort], after: &[PublishedPort], now: Duration) {
        let mut woken = Vec::new();
        let ownership = &mut self.ownership;
        self.allocator.commit(before, after, now, |key| woken.extend(ownership.wake(key)));
        woken.into_iter().for_each(|n| self.mark(n));
    }

    pub(super) fn retry(&mut self, number: u32, now: Duration) {
        let Some(entry) = self.store.get_mut(number) else { return };
        let wait = FIRST_RETRY * (1 << entry.failures.min(MAX_DOUBLINGS));
        entry.failures = entry.failures.saturating_add(1);
        self.retries.push(Reverse((now + wait, number)));
    }

    /// Marks the Services that were deleted while the agent was down: after the first full sync, entries without a Service
    /// are theirs. They are removed like any deleted Service, so that waiting Services can take their frontends.
    pub(super) fn mark_stale(&mut self) {
        let names: Vec<ObjectKey> =
            self.stale.keys().filter_map(|name| name.split_once('/')).map(|(n, s)| ObjectKey::new(n, s)).collect();
        for key in names {
            let number = self.store.number(&key);
            self.mark(number);
        }
    }

    /// Enters and removes the node's own addresses.
    pub(super) fn node_round(&mut self, now: Duration) {
        if !self.allocator.has_addr_changes() {
            return;
        }
        let mut plan = std::mem::take(&mut self.plan);
        self.allocator.plan_addrs(&mut plan);
        self.execute_for_node(&plan, now);
        plan.clear();
        self.plan = plan;
    }

    /// What belongs to no Service; addresses that could not be entered are tried again.
    pub(super) fn execute_for_node(&mut self, plan: &Plan, now: Duration) {
        if !plan.is_empty() && !self.execute(plan).is_empty() {
            self.retries.push(Reverse((now + FIRST_RETRY, NODE)));
        }
    }

    fn note_health(&mut self, number: u32) {
        let Some(entry) = self.store.get(number) else { return };
        let extra = entry.service.as_ref().and_then(|s| s.extra.as_ref());
        let port = extra.map_or(0, |e| e.health_check_node_port);
        let weights = extra.and_then(|e| e.scheduling.as_ref()).map(|s| &s.weights);
        let check = (port != 0).then(|| HealthCheck {
            namespace: entry.key.namespace.clone(),
            name: entry.key.name.clone(),
            local_endpoints: [false, true].map(|v6| ready_local(entry.slices.iter().map(|s| &s.object), v6, weights)),
        });
        self.report.set_health_check(&entry.key, port, check);
    }
}
