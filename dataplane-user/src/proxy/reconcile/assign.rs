//! Allocates ids and slots for the desired state of one Service.
//!
//! All or nothing: a Service that does not fit keeps what it has, and everything that was taken for
//! it is returned. The reconciler calls it once per dirty Service; it plans and writes nothing.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane_common::types::clock::{Clock, Ticks};
use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::SlotTable;

use hashbrown::{HashMap, HashSet};

use super::allocator::Allocator;
use super::ids::{ServiceId, ServicePortId};
use super::ownership::{Decisions, Ownership};
use super::published::{PublishedBackend, PublishedPort, TABLES, table_index};
use super::quota::{self, Room, SlotLimit};
use super::table::{MemberCounts, Rule};
use crate::proxy::desired::context::sort_key;
use crate::proxy::desired::{self, Desired, DesiredPort, FrontendAddr, Sources, sets};

/// Share of the maps `slots` and `backends` that is reserved: one in so many.
const RESERVE_SHARE: u32 = 8;
/// Entries up to which a Service that is served may use the reserve to grow.
const SMALL: u32 = 256;

/// The reason to refuse a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// A map lacks room for its entries.
    #[error("map {map} is full: it holds {capacity} entries, and the Service needs {needed} more")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Entries that fit into the map.
        capacity: u32,
        /// Entries that are missing.
        needed: u32,
    },
    /// It would have too many slots.
    #[error("the Service needs more than {most} slots, and {} has no more; its entries stay as they are", limit.owner())]
    Limit {
        /// The slots that it may have.
        most: u32,
        /// The limit.
        limit: SlotLimit,
    },
}

/// The state of a Service after the round.
#[derive(Debug, Default)]
pub struct Assigned {
    /// The ports, one for each desired one.
    pub ports: Box<[PublishedPort]>,
    /// Frontends that another Service has and keeps; `None`: the Service is unknown.
    pub conflicts: Vec<(FrontendAddr, Option<ServiceId>)>,
    /// Frontends that the Service takes from others: they lead to it as soon as they are written.
    pub taken_over: Vec<(FrontendAddr, ServiceId)>,
    /// True if the Service takes frontends from others in a later round.
    pub later: bool,
}

/// Converts an affinity timeout; 0 is none. The packet path forgets a client as soon as the timeout
/// is reached.
#[must_use]
pub(super) const fn affinity_ticks(seconds: u32, clock: Clock) -> Ticks {
    if seconds == 0 { Ticks(0) } else { clock.ticks_to_reach(seconds) }
}

/// Allocates ids and slots for `desired`. `before` is what the Service has now; `decisions` tells
/// which frontends of other Services it takes.
///
/// # Errors
/// Something is full; then nothing is taken.
pub fn assign(
    before: &[PublishedPort],
    desired: &Desired,
    service: ServiceId,
    allocator: &mut Allocator,
    clock: Clock,
    now: Duration,
    decisions: &Decisions,
) -> Result<Assigned, Refusal> {
    let found = Assigned::default();
    let own_ids = before.iter().map(|port| port.id).collect();
    let siblings = HashMap::new();
    let (added, added_sources) = ((0, 0), (0, 0));
    let mut work = Work { before, service, allocator, now, decisions, found, added, added_sources, own_ids, siblings };
    let mut ports: Vec<PublishedPort> = Vec::with_capacity(desired.ports.len());
    for port in &desired.ports {
        match work.port(port, clock) {
            Ok(port) => {
                work.siblings.extend(port.frontends.iter().map(|f| (f.key, port.id)));
                ports.push(port);
                let Room { slots: most, limit } = work.allocator.room;
                if quota::count(&ports) > most {
                    work.give_back();
                    return Err(Refusal::Limit { most, limit });
                }
            }
            Err(refusal) => {
                work.give_back();
                return Err(refusal);
            }
        }
    }
    let found = work.found;
    allocator.allocated.clear();
    Ok(Assigned { ports: ports.into(), ..found })
}

impl super::allocator::Allocated {
    fn clear(&mut self) {
        self.slots.clear();
        self.backends.clear();
        self.ports.clear();
    }
}

struct Work<'a> {
    before: &'a [PublishedPort],
    service: ServiceId,
    allocator: &'a mut Allocator,
    now: Duration,
    decisions: &'a Decisions,
    found: Assigned,
    /// New frontends, by family.
    added: (u32, u32),
    /// New ranges of clients, by family.
    added_sources: (u32, u32),
    /// Ids of the ports that the Service has.
    own_ids: HashSet<ServicePortId>,
    /// Frontends of the ports that are assigned already. A search through them for each frontend
    /// would take a minute for a Service with hundreds of ports and a thousand addresses.
    siblings: HashMap<FrontendAddr, ServicePortId>,
}

impl Work<'_> {
    fn port(&mut self, port: &DesiredPort, clock: Clock) -> Result<PublishedPort, Refusal> {
        let before = self.before.iter().find(|p| p.name == port.name);
        let id = match before {
            Some(before) => before.id,
            None => self.new_id()?,
        };
        let frontends = self.frontends(port, id)?;
        self.check_room_for_sources(before, &port.sources)?;
        let other = |b: &PublishedPort| b.uncertain || b.scheduler != port.scheduler;
        let mut changed = [before.is_none_or(other); 4];
        // a set whose frontends all belong to others has no table, so that a restart finds the
        // expected tables
        let wanted = desired::wanted_sets(&frontends);
        let backends = self.backends(before.map_or(&[], |b| &b.backends), &port.backends, wanted, &mut changed)?;
        let mut after = PublishedPort {
            name: before.map_or_else(|| Arc::clone(&port.name), |b| Arc::clone(&b.name)),
            id,
            affinity_ticks: affinity_ticks(port.affinity, clock).0,
            tables: [SlotTable::default(); 4],
            frontends,
            backends,
            sources: port.sources.clone(),
            scheduler: port.scheduler,
            uncertain: false,
        };
        let mut counts = [MemberCounts::default(); 4];
        for b in &after.backends {
            let family = IpFamily::of(b.addr);
            for set in [sets::CLUSTER, sets::LOCAL].into_iter().filter(|set| b.sets & set != 0) {
                counts[table_index(family, set)].add(b.weight);
            }
        }
        let rule = Rule { scheduler: port.scheduler, maglev_size: port.maglev_size };
        for (i, family, set) in TABLES {
            let len = counts[i].len(rule, after.members(family, set));
            let old = before.map(|b| b.tables[i]);
            after.tables[i] = match old.filter(|t| !changed[i] && t.len == len) {
                Some(table) => table,
                None => self.new_table(len, old.map_or(0, |t| t.len))?,
            };
        }
        Ok(after)
    }

    fn new_id(&mut self) -> Result<ServicePortId, Refusal> {
        let capacity = self.allocator.capacities.services;
        if self.allocator.ports.used() as u32 >= capacity {
            return Err(Refusal::Full { map: "services", capacity, needed: 1 });
        }
        let id = self.allocator.ports.take(self.service);
        self.allocator.allocated.ports.push(id);
        Ok(id)
    }

    /// Takes space for a table in place of one of the length `before`.
    fn new_table(&mut self, len: u32, before: u32) -> Result<SlotTable, Refusal> {
        let capacity = self.allocator.capacities.slots;
        let full = Refusal::Full { map: "slots", capacity, needed: len };
        self.allocator.slots.wake(self.now);
        let left = capacity.saturating_sub(self.allocator.slots.used());
        if left.saturating_sub(len) < self.kept(capacity, len, before) {
            return Err(full);
        }
        let table = self.allocator.slots.take(len, self.now).ok_or(full)?;
        if len > 0 {
            self.allocator.allocated.slots.push(table);
        }
        Ok(table)
    }

    /// Returns the number of entries that must stay free: a share of the map is reserved for
    /// Services that are served already and exchange what they have, or have little. They need new
    /// entries before their old ones are free.
    fn kept(&self, capacity: u32, entries: u32, before: u32) -> u32 {
        let may_use_reserve = !self.before.is_empty() && entries <= before.max(SMALL);
        if may_use_reserve { 0 } else { capacity / RESERVE_SHARE }
    }

    /// Returns the frontends that the Service has or takes, by `decisions`, and notes the others.
    fn frontends(&mut self, port: &DesiredPort, id: ServicePortId) -> Result<Box<[desired::DesiredFrontend]>, Refusal> {
        let mut frontends = Vec::with_capacity(port.frontends.len());
        for f in &port.frontends {
            let owner = self.allocator.frontend_owner(&f.key);
            let sibling = self.siblings.get(&f.key).copied();
            match sibling.or(owner) {
                None => {
                    self.check_room(&f.key)?;
                    frontends.push(*f);
                }
                Some(o) if sibling.is_none() && (o == id || self.own_ids.contains(&o)) => {
                    frontends.push(*f);
                }
                Some(other) => {
                    let other = self.allocator.ports.owner(other);
                    let ownership = other.filter(|_| sibling.is_none()).map(|_| self.decisions.get(&f.key));
                    match (ownership, other) {
                        (Some(Ownership::Ours), Some(other)) => {
                            self.found.taken_over.push((f.key, other));
                            frontends.push(*f);
                        }
                        (Some(Ownership::Later), _) => self.found.later = true,
                        _ => self.found.conflicts.push((f.key, other)),
                    }
                }
            }
        }
        frontends.sort_unstable_by_key(|f| f.key);
        Ok(frontends.into())
    }

    fn check_room(&mut self, key: &FrontendAddr) -> Result<(), Refusal> {
        let (v4, v6) = self.allocator.frontend_counts();
        let capacities = self.allocator.capacities;
        let (map, used, added, capacity) = if key.addr.is_ipv4() {
            ("frontends4", v4, &mut self.added.0, capacities.frontends4)
        } else {
            ("frontends6", v6, &mut self.added.1, capacities.frontends6)
        };
        *added += 1;
        if used + *added > capacity { Err(Refusal::Full { map, capacity, needed: *added }) } else { Ok(()) }
    }

    fn check_room_for_sources(&mut self, before: Option<&PublishedPort>, wanted: &Sources) -> Result<(), Refusal> {
        let Some(wanted) = wanted else { return Ok(()) };
        let known = before.map_or(&[][..], PublishedPort::sources);
        let (capacities, (v4, v6)) = (self.allocator.capacities, self.allocator.source_counts());
        for range in wanted.iter().filter(|r| known.binary_search(r).is_err()) {
            let (map, used, added, capacity) = if range.addr.is_ipv4() {
                ("source_ranges4", v4, &mut self.added_sources.0, capacities.sources4)
            } else {
                ("source_ranges6", v6, &mut self.added_sources.1, capacities.sources6)
            };
            *added += 1;
            if used + *added > capacity {
                return Err(Refusal::Full { map, capacity, needed: *added });
            }
        }
        Ok(())
    }

    /// Returns the backends with their ids; endpoints that stay keep theirs. Both lists are sorted.
    /// Sets `changed` for the tables whose members change.
    fn backends(
        &mut self,
        before: &[PublishedBackend],
        desired: &[desired::DesiredBackend],
        wanted: [u8; 2],
        changed: &mut [bool; 4],
    ) -> Result<Box<[PublishedBackend]>, Refusal> {
        let mut note = |addr: IpAddr, sets: u8| {
            let family = IpFamily::of(addr);
            changed[table_index(family, sets::CLUSTER)] |= sets & sets::CLUSTER != 0;
            changed[table_index(family, sets::LOCAL)] |= sets & sets::LOCAL != 0;
        };
        let kept = self.kept(self.allocator.capacities.backends, desired.len() as u32, before.len() as u32);
        let mut old = before.iter().peekable();
        let mut after = Vec::with_capacity(desired.len());
        for (i, d) in desired.iter().enumerate() {
            let endpoint = (sort_key(d.addr), d.port);
            let sets = d.sets & wanted[IpFamily::of(d.addr).index()];
            let mut id = None;
            while let Some(b) = old.peek() {
                match b.endpoint().cmp(&endpoint) {
                    Ordering::Less => note(b.addr, b.sets),
                    Ordering::Equal => {
                        note(b.addr, if b.weight == d.weight { b.sets ^ sets } else { b.sets | sets });
                        id = Some(b.id);
                    }
                    Ordering::Greater => break,
                }
                old.next();
                if id.is_some() {
                    break;
                }
            }
            let id = if let Some(id) = id {
                id
            } else {
                note(d.addr, sets);
                let (capacity, needed) = (self.allocator.capacities.backends, (desired.len() - i) as u32);
                let full = Refusal::Full { map: "backends", capacity, needed };
                if self.allocator.backends.left() <= kept {
                    return Err(full);
                }
                let id = self.allocator.backends.take(self.now).ok_or(full)?;
                self.allocator.allocated.backends.push(id);
                id
            };
            let &desired::DesiredBackend { addr, port, state, weight, .. } = d;
            after.push(PublishedBackend { addr, port, state, sets, weight, id });
        }
        for b in old {
            note(b.addr, b.sets);
        }
        Ok(after.into())
    }

    fn give_back(&mut self) {
        let mut allocated = std::mem::take(&mut self.allocator.allocated);
        allocated.slots.drain(..).for_each(|t| self.allocator.slots.take_back(t));
        allocated.backends.drain(..).for_each(|id| self.allocator.backends.release(id, self.now));
        allocated.ports.drain(..).for_each(|id| self.allocator.ports.release(id));
        self.allocator.allocated = allocated;
    }
}
