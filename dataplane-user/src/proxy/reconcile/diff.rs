//! Computes the operations between two states of one Service, and what is free after them.
//!
//! [`Allocator::plan`] and [`plan_tables`] run before the write and [`Allocator::commit`] after it.
//! The rollback of a failed write is a plan in the other direction, without tables.

use std::cmp::Ordering;
use std::time::Duration;

use dataplane_common::types::address::octets16;
use dataplane_common::types::service::{Backend, NAME_LEN, ServiceName};

use super::allocator::Allocator;
use super::ids::{ServiceId, ServicePortId};
use super::plan::Plan;
use super::published::{PublishedBackend, PublishedPort, TABLES};
use crate::proxy::desired::{ClientRange, FrontendAddr};

/// Returns the name of a service port in the map `services`: `namespace/name:port`, or
/// `namespace/name` for a port without a name. Longer names are cut.
#[must_use]
pub fn port_name(namespace: &str, service: &str, port: &str) -> ServiceName {
    let mut name = [0; NAME_LEN];
    let mut rest = &mut name[..NAME_LEN - 1];
    let colon = if port.is_empty() { "" } else { ":" };
    for part in [namespace, "/", service, colon, port] {
        let len = part.len().min(rest.len());
        let (to, after) = rest.split_at_mut(len);
        to.copy_from_slice(&part.as_bytes()[..len]);
        rest = after;
    }
    ServiceName { name }
}

impl Allocator {
    /// Adds the operations that lead one Service from `before` to `after`, and records its
    /// frontends and addresses in the allocator.
    pub fn plan(
        &mut self,
        (namespace, name): (&str, &str),
        before: &[PublishedPort],
        after: &[PublishedPort],
        service: ServiceId,
        plan: &mut Plan,
    ) {
        for port in after {
            let old = before.iter().find(|p| p.id == port.id);
            self.plan_backends(old, port, service, plan);
            if old.is_none_or(|o| o.uncertain) {
                self.ports.adopt(port.id, service);
                plan.names.sets.push(service, port.id.get(), port_name(namespace, name, &port.name));
            }
            self.plan_sources(old, port, service, plan);
            self.plan_frontends(before, old, port, service, plan);
        }
        for (i, port) in before.iter().enumerate() {
            let new = after.iter().find(|p| p.id == port.id);
            plan_gone_sources(port, new, service, plan);
            self.plan_gone(&before[..i], port, after, service, plan);
            if new.is_none() {
                plan.names.removals.push(service, port.id.get());
            }
        }
    }

    fn plan_backends(&self, old: Option<&PublishedPort>, port: &PublishedPort, service: ServiceId, plan: &mut Plan) {
        let uncertain = old.is_some_and(|o| o.uncertain);
        let mut known = old.map_or(&[][..], |o| &o.backends).iter().peekable();
        for b in &port.backends {
            while known.next_if(|k| k.endpoint() < b.endpoint()).is_some() {}
            let same = known.next_if(|k| k.endpoint() == b.endpoint());
            if uncertain || same.is_none_or(|k| k.state != b.state || k.weight != b.weight) {
                plan.backends.push(service, b.id.get(), self.entry(b, port.id));
            }
        }
    }

    fn entry(&self, b: &PublishedBackend, service_port: ServicePortId) -> Backend {
        Backend {
            addr: octets16(b.addr),
            port: b.port,
            state: b.state,
            pad: 0,
            generation: self.backends.generation(b.id).get(),
            service_port: service_port.get(),
            weight: b.weight.into(),
        }
    }

    fn plan_sources(&mut self, old: Option<&PublishedPort>, port: &PublishedPort, service: ServiceId, plan: &mut Plan) {
        let known = old.filter(|o| !o.uncertain).map_or(&[][..], PublishedPort::sources);
        for range in port.sources().iter().filter(|r| known.binary_search(r).is_err()) {
            self.enter_source(port.id, *range);
            plan.set_source(service, port.id, range);
        }
    }

    fn plan_frontends(
        &mut self,
        all: &[PublishedPort],
        old: Option<&PublishedPort>,
        port: &PublishedPort,
        service: ServiceId,
        plan: &mut Plan,
    ) {
        for f in &port.frontends {
            let value = port.value(f);
            let same = old.filter(|o| !o.uncertain).and_then(|o| Some((o, o.find(&f.key)?)));
            if same.is_some_and(|(o, g)| o.value(g) == value) {
                continue;
            }
            match all.iter().find_map(|o| o.find(&f.key)) {
                Some(known) => self.change_addr(known, f, service),
                None => self.use_addr(f, service),
            }
            self.enter_frontend(f.key, port.id);
            plan.set_frontend(service, &f.key, value);
        }
    }

    fn plan_gone(
        &mut self,
        earlier: &[PublishedPort],
        port: &PublishedPort,
        after: &[PublishedPort],
        service: ServiceId,
        plan: &mut Plan,
    ) {
        let new = after.iter().find(|p| p.id == port.id);
        for f in port.frontends.iter().filter(|f| !stays(&f.key, new, after)) {
            // after two failures two ports may have the frontend
            if !earlier.iter().any(|p| p.find(&f.key).is_some()) {
                self.leave_addr(f, service);
            }
            if self.is_of_another(&f.key, port.id) {
                continue;
            }
            plan.remove_frontend(service, &f.key);
        }
        for_each_gone(&port.backends, new.map_or(&[], |n| &n.backends), |b| {
            let next = self.backends.generation(b.id).next().get();
            let entry = Backend { state: 0, generation: next, ..self.entry(b, port.id) };
            plan.ended_backends.push(service, b.id.get(), entry);
        });
    }

    /// Frees everything of `before` that `after` does not use, once the operations are done; slots
    /// and backend ids rest first. Calls `freed` with each frontend that another Service may have
    /// now.
    pub fn commit(
        &mut self,
        before: &[PublishedPort],
        after: &[PublishedPort],
        now: Duration,
        mut freed: impl FnMut(&FrontendAddr),
    ) {
        for port in before {
            let new = after.iter().find(|p| p.id == port.id);
            for f in port.frontends.iter().filter(|f| !stays(&f.key, new, after)) {
                if !self.is_of_another(&f.key, port.id) {
                    self.remove_frontend_owner(&f.key);
                    freed(&f.key);
                }
            }
            gone_sources(port, new).for_each(|range| self.release_source(port.id, *range));
            for (i, ..) in TABLES {
                if new.is_none_or(|n| n.tables[i] != port.tables[i]) {
                    self.slots.release(port.tables[i], now);
                }
            }
            for_each_gone(&port.backends, new.map_or(&[], |n| &n.backends), |b| self.backends.release(b.id, now));
            if new.is_none() {
                self.ports.release(port.id);
            }
        }
    }
}

fn plan_gone_sources(port: &PublishedPort, new: Option<&PublishedPort>, service: ServiceId, plan: &mut Plan) {
    for range in gone_sources(port, new) {
        plan.remove_source(service, port.id, range);
    }
}

fn gone_sources<'a>(port: &'a PublishedPort, new: Option<&'a PublishedPort>) -> impl Iterator<Item = &'a ClientRange> {
    let kept = new.map_or(&[][..], PublishedPort::sources);
    port.sources().iter().filter(|r| kept.binary_search(r).is_err())
}

/// Adds the slot tables of `after` that `before` does not have. A rollback needs none: the tables
/// of the state to which it leads were published, and are never edited.
pub fn plan_tables(before: &[PublishedPort], after: &[PublishedPort], service: ServiceId, plan: &mut Plan) {
    for port in after {
        let old = before.iter().find(|p| p.id == port.id);
        for of in TABLES {
            let table = port.tables[of.0];
            if table.len > 0 && old.is_none_or(|o| o.tables[of.0] != table) {
                plan.slots.ranges.push((table.base, table.len, service));
                port.fill(of, &mut plan.slots.ids);
            }
        }
    }
}

fn stays(key: &FrontendAddr, new: Option<&PublishedPort>, after: &[PublishedPort]) -> bool {
    new.is_some_and(|n| n.find(key).is_some()) || after.iter().any(|p| p.find(key).is_some())
}

/// Calls `gone` for the backends of `before` that are not in `after`. Both are sorted by endpoint.
fn for_each_gone(before: &[PublishedBackend], after: &[PublishedBackend], mut gone: impl FnMut(&PublishedBackend)) {
    let mut after = after.iter().peekable();
    for b in before {
        while after.next_if(|a| a.endpoint().cmp(&b.endpoint()) == Ordering::Less).is_some() {}
        if after.next_if(|a| a.endpoint() == b.endpoint()).is_none() {
            gone(b);
        }
    }
}
