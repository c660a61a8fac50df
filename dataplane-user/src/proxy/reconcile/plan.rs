//! The map operations of one round.
//!
//! The reconciler fills a [`Plan`], the map writer carries it out in the order of [`Plan`]'s
//! fields: backends, slots, names, then per family client ranges, addresses and frontends; after
//! that the removals in reverse. So a packet that reads a frontend at any instant finds its slot
//! table, its backends and its client ranges complete. Each operation carries the Service it is
//! for, so that a failed write fails that Service alone. A plan never reads or writes a map.

use std::net::IpAddr;

use dataplane_common::types::address::{Address, Prefix, V4, V6};
use dataplane_common::types::pod::AddressInfo;
use dataplane_common::types::service::{Backend, Frontend, FrontendKey, ServiceName, SourceRange};

use super::ids::{ServiceId, ServicePortId};
use super::published::{frontend_key, source_key};
use crate::proxy::desired::{ClientRange, FrontendAddr};

/// Entries to set in one map: keys, values and Services by position.
#[derive(Debug)]
pub struct Sets<K, V> {
    /// Map keys.
    pub keys: Vec<K>,
    /// Map values.
    pub values: Vec<V>,
    /// The Services that the entries are for.
    pub services: Vec<ServiceId>,
}

impl<K, V> Default for Sets<K, V> {
    fn default() -> Self {
        Self { keys: Vec::new(), values: Vec::new(), services: Vec::new() }
    }
}

impl<K, V> Sets<K, V> {
    /// Appends an entry that belongs to `service`.
    pub fn push(&mut self, service: ServiceId, key: K, value: V) {
        self.keys.push(key);
        self.values.push(value);
        self.services.push(service);
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.services.clear();
    }
}

/// Entries to remove from one map: keys and Services by position.
#[derive(Debug)]
pub struct Removals<K> {
    /// Map keys.
    pub keys: Vec<K>,
    /// The Services that the entries were for.
    pub services: Vec<ServiceId>,
}

impl<K> Default for Removals<K> {
    fn default() -> Self {
        Self { keys: Vec::new(), services: Vec::new() }
    }
}

impl<K> Removals<K> {
    /// Appends a key that belongs to `service`.
    pub fn push(&mut self, service: ServiceId, key: K) {
        self.keys.push(key);
        self.services.push(service);
    }

    /// Keeps the removals of some keys only.
    pub fn retain(&mut self, keeps: impl Fn(&K) -> bool) {
        let mut services = std::mem::take(&mut self.services).into_iter();
        let keys = std::mem::take(&mut self.keys).into_iter();
        keys.zip(&mut services).filter(|(key, _)| keeps(key)).for_each(|(key, service)| self.push(service, key));
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.services.clear();
    }
}

/// The changes of one hash map or trie.
#[derive(Debug)]
pub struct Changes<K, V> {
    /// New and changed entries.
    pub sets: Sets<K, V>,
    /// Entries that go, after every `sets` of the plan.
    pub removals: Removals<K>,
}

impl<K, V> Default for Changes<K, V> {
    fn default() -> Self {
        Self { sets: Sets::default(), removals: Removals::default() }
    }
}

impl<K, V> Changes<K, V> {
    const fn len(&self) -> usize {
        self.sets.keys.len() + self.removals.keys.len()
    }

    fn clear(&mut self) {
        self.sets.clear();
        self.removals.clear();
    }
}

/// The changes of the maps that exist once per address family.
#[derive(Debug)]
pub struct FamilyChanges<A: Address> {
    /// `source_ranges4` or `source_ranges6`.
    pub sources: Changes<Prefix<SourceRange<A>>, u32>,
    /// `addresses4` or `addresses6`.
    pub addresses: Changes<A, AddressInfo>,
    /// `frontends4` or `frontends6`.
    pub frontends: Changes<FrontendKey<A>, Frontend>,
}

impl<A: Address> Default for FamilyChanges<A> {
    fn default() -> Self {
        Self { sources: Changes::default(), addresses: Changes::default(), frontends: Changes::default() }
    }
}

impl<A: Address> FamilyChanges<A> {
    const fn len(&self) -> usize {
        self.sources.len() + self.addresses.len() + self.frontends.len()
    }

    fn clear(&mut self) {
        self.sources.clear();
        self.addresses.clear();
        self.frontends.clear();
    }
}

/// Slot tables to write.
#[derive(Debug, Default)]
pub struct SlotWrites {
    /// First slot, number of slots, Service.
    pub ranges: Vec<(u32, u32, ServiceId)>,
    /// The backend ids of all ranges, one range after the other.
    pub ids: Vec<u32>,
}

/// The operations of one round.
#[derive(Debug, Default)]
pub struct Plan {
    /// New backends, and new states of known ones.
    pub backends: Sets<u32, Backend>,
    /// New slot tables.
    pub slots: SlotWrites,
    /// Names of service ports, the map `services`.
    pub names: Changes<u32, ServiceName>,
    /// The maps of IPv4.
    pub v4: FamilyChanges<V4>,
    /// The maps of IPv6.
    pub v6: FamilyChanges<V6>,
    /// Backends that end: state 0 and the next generation. Written last.
    pub ended_backends: Sets<u32, Backend>,
}

impl Plan {
    /// Adds a new or changed frontend.
    pub fn set_frontend(&mut self, service: ServiceId, key: &FrontendAddr, value: Frontend) {
        match key.addr {
            IpAddr::V4(_) => self.v4.frontends.sets.push(service, frontend_key(key), value),
            IpAddr::V6(_) => self.v6.frontends.sets.push(service, frontend_key(key), value),
        }
    }

    /// Adds the removal of a frontend.
    pub fn remove_frontend(&mut self, service: ServiceId, key: &FrontendAddr) {
        match key.addr {
            IpAddr::V4(_) => self.v4.frontends.removals.push(service, frontend_key(key)),
            IpAddr::V6(_) => self.v6.frontends.removals.push(service, frontend_key(key)),
        }
    }

    /// Adds a client range that may use the guarded frontends of a service port.
    pub fn set_source(&mut self, service: ServiceId, service_port: ServicePortId, range: &ClientRange) {
        match range.addr {
            IpAddr::V4(_) => self.v4.sources.sets.push(service, source_key(service_port, range), ALLOWED),
            IpAddr::V6(_) => self.v6.sources.sets.push(service, source_key(service_port, range), ALLOWED),
        }
    }

    /// Adds the removal of a client range of a service port.
    pub fn remove_source(&mut self, service: ServiceId, service_port: ServicePortId, range: &ClientRange) {
        match range.addr {
            IpAddr::V4(_) => self.v4.sources.removals.push(service, source_key(service_port, range)),
            IpAddr::V6(_) => self.v6.sources.removals.push(service, source_key(service_port, range)),
        }
    }

    /// Adds the entry of an address; kind 0 removes it.
    pub fn change_address(&mut self, service: ServiceId, addr: IpAddr, kind: u8) {
        let value = AddressInfo { ifindex: 0, kind, flags: 0, mac: [0; 6] };
        match (addr, kind) {
            (IpAddr::V4(a), 0) => self.v4.addresses.removals.push(service, a.into()),
            (IpAddr::V6(a), 0) => self.v6.addresses.removals.push(service, a.into()),
            (IpAddr::V4(a), _) => self.v4.addresses.sets.push(service, a.into(), value),
            (IpAddr::V6(a), _) => self.v6.addresses.sets.push(service, a.into(), value),
        }
    }

    /// Counts the entries that the plan sets and removes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.backends.keys.len()
            + self.slots.ids.len()
            + self.names.len()
            + self.v4.len()
            + self.v6.len()
            + self.ended_backends.keys.len()
    }

    /// Returns true if there is no operation.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes all operations and keeps the memory for the next round.
    pub fn clear(&mut self) {
        self.backends.clear();
        self.slots.ranges.clear();
        self.slots.ids.clear();
        self.names.clear();
        self.v4.clear();
        self.v6.clear();
        self.ended_backends.clear();
    }
}

/// The value of `source_ranges4/6`: presence of the key allows the client, the value is not read.
const ALLOWED: u32 = 1;
