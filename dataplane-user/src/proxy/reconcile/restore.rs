//! Rebuilds the allocator and the published state from the maps after a restart.
//!
//! A name in `services` gives a service port its identity; frontends and backends contain the
//! service port that they belong to. Service ports whose entries contradict each other are taken
//! over as uncertain, so that they are written again. Entries without a service port are garbage.
//! It gets the content of the maps from `apply::read` and writes nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane_common::types::address::{Address, Prefix, V4, V6};
use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::pod::{AddressInfo, address_kind};
use dataplane_common::types::service::{self, Backend, Frontend, FrontendKey, ServiceName, SlotTable, frontend_flags};
use hashbrown::{HashMap, HashSet};

use super::allocator::{Allocator, Capacities};
use super::ids::{BackendId, BackendIds, Generation, PortIds, ServiceId, ServicePortId};
use super::plan::Plan;
use super::published::{PublishedBackend, PublishedPort, TABLES, frontend_addr, source_range, table_index};
use super::slots::FreeList;
use crate::proxy::desired::{self, ClientRange, FrontendAddr, sets};

/// The content of the maps.
#[derive(Debug, Default)]
pub struct TableContents {
    /// Names of service ports, from `services`.
    pub names: Vec<(ServicePortId, ServiceName)>,
    /// Entries of `frontends4` and `frontends6`.
    pub frontends: Vec<(FrontendAddr, Frontend)>,
    /// Used entries of `backends`.
    pub backends: Vec<(BackendId, Backend)>,
    /// Generations of all backend ids that were ever used, by id.
    pub generations: Vec<Generation>,
    /// The slots up to the last one that a frontend uses.
    pub slots: Vec<u32>,
    /// Entries of `source_ranges4` and `source_ranges6`: service port and range.
    pub sources: Vec<(ServicePortId, ClientRange)>,
    /// Entries of `source_ranges4` that the agent never writes.
    pub odd_sources4: Vec<Prefix<service::SourceRange<V4>>>,
    /// Entries of `source_ranges6` that the agent never writes.
    pub odd_sources6: Vec<Prefix<service::SourceRange<V6>>>,
    /// Entries of `addresses4` and `addresses6`, without those of pods.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl TableContents {
    /// Adds the frontends of one family.
    pub fn add_frontends<A: Address + Into<IpAddr>>(&mut self, entries: Vec<(FrontendKey<A>, Frontend)>) {
        self.frontends.extend(entries.into_iter().map(|(k, v)| (frontend_addr(&k), v)));
    }

    /// Adds the client ranges of one family. Returns the keys that the agent never writes.
    pub fn add_sources<A: Address + Into<IpAddr>>(
        &mut self,
        entries: Vec<(Prefix<service::SourceRange<A>>, u32)>,
    ) -> Vec<Prefix<service::SourceRange<A>>> {
        let mut odd = Vec::new();
        for (key, _) in entries {
            match source_range(&key) {
                Some(known) => self.sources.push(known),
                None => odd.push(key),
            }
        }
        odd
    }

    /// Adds the addresses of one family.
    pub fn add_addresses<A: Address + Into<IpAddr>>(&mut self, entries: Vec<(A, AddressInfo)>) {
        let ours = entries.into_iter().filter(|(_, v)| v.kind != address_kind::POD);
        self.addresses.extend(ours.map(|(k, v)| (k.into(), v.kind)));
    }
}

/// The restored state.
#[derive(Debug)]
pub struct Restored {
    /// The ids, slots and frontends in use.
    pub allocator: Allocator,
    /// Services by `namespace/name`.
    pub services: HashMap<Box<str>, RestoredService>,
    /// Entries that belong to no service port.
    pub garbage: Garbage,
}

/// A Service in the maps that an agent has found.
#[derive(Debug, Default)]
pub struct RestoredService {
    /// Its ports.
    pub ports: Vec<PublishedPort>,
    /// Its frontends, if some ports are uncertain.
    pub frontends: Vec<(FrontendAddr, Frontend)>,
    /// Slot tables that some of its frontends have besides those of the ports: an agent was killed
    /// between the writes of two frontends.
    pub tables: Vec<SlotTable>,
}

/// Entries that belong to no service port.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Operations that remove the entries.
    pub plan: Plan,
    /// Slot ranges that only garbage uses.
    slots: Vec<SlotTable>,
    backends: Vec<BackendId>,
    ports: BTreeSet<ServicePortId>,
}

impl Garbage {
    /// Leaves the frontends alone that Services have claimed since: their entries are not garbage
    /// any more.
    pub fn leave_claimed(&mut self, allocator: &Allocator) {
        let is_free = |key: &FrontendAddr| allocator.frontend_owner(key).is_none();
        self.plan.v4.frontends.removals.retain(|key| is_free(&frontend_addr(key)));
        self.plan.v6.frontends.removals.retain(|key| is_free(&frontend_addr(key)));
    }

    /// Frees its ids and slots. It must have been removed.
    pub fn release(self, allocator: &mut Allocator, now: Duration) {
        self.backends.into_iter().for_each(|id| allocator.backends.release(id, now));
        self.slots.into_iter().for_each(|range| allocator.slots.release(range, now));
        self.ports.into_iter().for_each(|id| allocator.ports.release(id));
    }
}

/// The entries of one service port.
#[derive(Default)]
struct PortParts {
    frontends: Vec<(FrontendAddr, Frontend)>,
    sources: Vec<ClientRange>,
    backends: Vec<(BackendId, Backend)>,
}

/// Takes over the content of the maps.
#[must_use]
pub fn restore(mut found: TableContents, capacities: Capacities, now: Duration) -> Restored {
    let mut garbage = Plan::default();
    let mut names = port_names(&mut found.names, &mut garbage);
    let mut parts: HashMap<ServicePortId, PortParts> = names.keys().map(|id| (*id, PortParts::default())).collect();
    let mut used: Vec<SlotTable> = Vec::new();
    // Ids that Services must not get before the garbage is removed.
    let mut taken: BTreeSet<ServicePortId> =
        garbage.names.removals.keys.iter().map(|id| ServicePortId::new(*id)).collect();
    for (key, value) in &found.frontends {
        used.extend(tables(value));
        let id = ServicePortId::new(value.service_port);
        if let Some(port) = parts.get_mut(&id) {
            port.frontends.push((*key, *value));
        } else {
            taken.insert(id);
            garbage.remove_frontend(ServiceId::NODE, key);
        }
    }
    let nameless = found.backends.iter().map(|(_, b)| ServicePortId::new(b.service_port));
    taken.extend(nameless.filter(|id| !parts.contains_key(id)));
    for (id, range) in &found.sources {
        if let Some(port) = parts.get_mut(id) {
            port.sources.push(*range);
        } else {
            taken.insert(*id);
            garbage.remove_source(ServiceId::NODE, *id, range);
        }
    }
    // The pool holds all ids up to the greatest one, and gives out none beyond the map's size.
    taken.retain(|id| id.get() != 0 && id.get() <= capacities.services);
    found.odd_sources4.iter().for_each(|key| garbage.v4.sources.removals.push(ServiceId::NODE, *key));
    found.odd_sources6.iter().for_each(|key| garbage.v6.sources.removals.push(ServiceId::NODE, *key));
    used.sort_unstable_by_key(|t| (t.base, t.len));
    used.dedup();
    let in_use: HashSet<BackendId> = found.backends.iter().map(|(id, _)| *id).collect();
    let generations = std::mem::take(&mut found.generations);
    let ids = BackendIds::new(capacities.backends, generations, |id| !in_use.contains(&id), now);
    let ports = PortIds::new(found.names.iter().map(|(id, _)| *id).chain(taken.iter().copied()));
    let mut allocator = Allocator::with(capacities, FreeList::with_used(capacities.slots, used.clone()), ids, ports);
    let mut backends = Vec::new();
    let mut end_backend = |id: BackendId, b: &Backend| {
        let generation = Generation::new(b.generation).next().get();
        garbage.ended_backends.push(ServiceId::NODE, id.get(), Backend { state: 0, generation, ..*b });
        backends.push(id);
    };
    for (id, backend) in &found.backends {
        match parts.get_mut(&ServicePortId::new(backend.service_port)) {
            Some(port) => port.backends.push((*id, *backend)),
            None => end_backend(*id, backend),
        }
    }
    let mut services: HashMap<Box<str>, RestoredService> = HashMap::with_capacity(parts.len());
    for (id, parts) in parts {
        let Some((service, name)) = names.remove(&id) else { continue };
        let frontends = parts.frontends.clone();
        let port = parts.assemble(id, &name, &found.slots, &mut end_backend);
        for f in &port.frontends {
            allocator.enter_frontend(f.key, id);
            allocator.use_addr(f, ServiceId::NODE);
        }
        port.sources().iter().for_each(|range| allocator.enter_source(id, *range));
        let service = services.entry(service).or_default();
        let of_frontends = frontends.iter().flat_map(|(_, value)| tables(value));
        service.tables.extend(of_frontends.filter(|t| !port.tables.contains(t)));
        service.frontends.extend(frontends);
        service.ports.push(port);
    }
    for service in services.values_mut().filter(|s| s.ports.iter().all(|p| !p.uncertain)) {
        service.frontends = Vec::new();
    }
    for (addr, kind) in found.addresses {
        allocator.found_addr(addr, kind);
    }
    // Each table is freed once, whatever else has it.
    let mut kept: HashSet<SlotTable> = services.values().flat_map(|s| &s.ports).flat_map(|p| p.tables).collect();
    services.values_mut().for_each(|service| service.tables.retain(|table| kept.insert(*table)));
    let slots = used.into_iter().filter(|t| !kept.contains(t)).collect();
    Restored { allocator, services, garbage: Garbage { plan: garbage, slots, backends, ports: taken } }
}

/// Returns the slot tables of a frontend that are not empty.
fn tables(value: &Frontend) -> impl Iterator<Item = SlotTable> + use<> {
    [value.internal, value.external].into_iter().filter(|table| table.len > 0)
}

/// Returns the Service and the port name of each service port id. Names that cannot be read, and
/// the later ones of a name that two ids have, become garbage.
fn port_names(
    found: &mut [(ServicePortId, ServiceName)],
    garbage: &mut Plan,
) -> HashMap<ServicePortId, (Box<str>, Box<str>)> {
    let mut names = HashMap::with_capacity(found.len());
    let mut seen = HashSet::with_capacity(found.len());
    found.sort_unstable_by_key(|(id, _)| *id);
    for (id, name) in &*found {
        match parse_name(name).filter(|_| id.get() != 0) {
            Some(name) if seen.insert(name.clone()) => {
                names.insert(*id, name);
            }
            _ => garbage.names.removals.push(ServiceId::NODE, id.get()),
        }
    }
    names
}

/// Splits a name into `namespace/name` and the port.
fn parse_name(name: &ServiceName) -> Option<(Box<str>, Box<str>)> {
    let end = name.name.iter().position(|b| *b == 0)?;
    let text = std::str::from_utf8(&name.name[..end]).ok()?;
    let (service, port) = text.split_once(':').unwrap_or((text, ""));
    service.contains('/').then(|| (service.into(), port.into()))
}

impl PortParts {
    fn assemble(
        mut self,
        id: ServicePortId,
        name: &str,
        slots: &[u32],
        end_backend: &mut impl FnMut(BackendId, &Backend),
    ) -> PublishedPort {
        self.frontends.sort_unstable_by_key(|(key, _)| *key);
        self.sources.sort_unstable();
        self.backends.sort_unstable_by_key(|(id, b)| (u128::from_be_bytes(b.addr), b.port, *id));
        self.backends.dedup_by(|next, kept| {
            let same = (next.1.addr, next.1.port) == (kept.1.addr, kept.1.port);
            if same {
                end_backend(next.0, &next.1);
            }
            same
        });
        let first = self.frontends.first().map(|(_, v)| *v);
        let mut port = PublishedPort {
            name: Arc::from(name),
            id,
            affinity_ticks: first.map_or(0, |f| f.affinity_ticks),
            tables: self.tables(),
            frontends: self
                .frontends
                .iter()
                .map(|(key, v)| desired::DesiredFrontend { key: *key, flags: v.flags })
                .collect(),
            backends: Box::default(),
            sources: (!self.sources.is_empty()).then(|| Arc::new(std::mem::take(&mut self.sources).into())),
            scheduler: first.map_or(0, |f| f.scheduler),
            uncertain: false,
        };
        port.uncertain = self.frontends.iter().zip(&port.frontends).any(|((_, value), f)| port.value(f) != *value);
        let members: [Option<&[u32]>; 4] = port.tables.map(|t| {
            let end = (t.base as usize).checked_add(t.len as usize)?;
            slots.get(t.base as usize..end)
        });
        port.uncertain |= members.iter().any(Option::is_none);
        let mut sets_of: HashMap<BackendId, u8> = HashMap::with_capacity(self.backends.len());
        for (i, _, set) in TABLES {
            for member in members[i].into_iter().flatten() {
                *sets_of.entry(BackendId::new(*member)).or_default() |= set;
            }
        }
        port.backends = self.backends.iter().map(|(id, b)| published(*id, b, &sets_of)).collect();
        let mut expected = Vec::new();
        port.uncertain |= TABLES.iter().any(|&of| {
            expected.clear();
            port.fill(of, &mut expected);
            members[of.0].is_none_or(|found| *found != *expected)
        });
        port
    }

    /// Returns the slot tables by index: the flags of the frontends tell which sets they use.
    fn tables(&self) -> [SlotTable; 4] {
        let mut tables = [SlotTable::default(); 4];
        for (key, value) in &self.frontends {
            let set = |drop| if value.flags & drop == 0 { sets::CLUSTER } else { sets::LOCAL };
            let family = IpFamily::of(key.addr);
            tables[table_index(family, set(frontend_flags::INTERNAL_DROP))] = value.internal;
            tables[table_index(family, set(frontend_flags::EXTERNAL_DROP))] = value.external;
        }
        tables
    }
}

fn published(id: BackendId, b: &Backend, sets_of: &HashMap<BackendId, u8>) -> PublishedBackend {
    let sets = sets_of.get(&id).copied().unwrap_or(0);
    let weight = u16::try_from(b.weight).unwrap_or(u16::MAX);
    PublishedBackend { addr: IpAddr::from(b.addr).to_canonical(), port: b.port, state: b.state, sets, weight, id }
}
