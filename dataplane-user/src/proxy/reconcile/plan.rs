//! The operations of one round, in the order in which they are safe.
//!
//! Backends, slots, names, ranges of clients, addresses, frontends; then frontends, ranges, addresses, names and backends that go. Whoever
//! looks at any instant finds only frontends whose tables, backends and ranges are complete. Each operation carries the number of the Service
//! that it is for, so that a failure costs that Service alone.

use bytemuck::Pod;
use dataplane_common::types::address::{Prefix, V4, V6};
use dataplane_common::types::pod::AddressInfo;
use dataplane_common::types::service::{Backend, Frontend, FrontendKey, ServiceName, SourceRange};

/// Which Service an operation is for: its number in the controller's store.
pub type Tag = u32;

/// Operations that belong to no Service.
pub const NODE: Tag = u32::MAX;

/// Entries to set in one map.
#[derive(Debug)]
pub struct Sets<K, V> {
    /// Keys.
    pub keys: Vec<K>,
    /// Values, by position.
    pub values: Vec<V>,
    /// Services, by position.
    pub tags: Vec<Tag>,
}

impl<K, V> Default for Sets<K, V> {
    fn default() -> Self {
        Self { keys: Vec::new(), values: Vec::new(), tags: Vec::new() }
    }
}

impl<K: Pod, V: Pod> Sets<K, V> {
    /// One more.
    pub fn push(&mut self, tag: Tag, key: K, value: V) {
        self.keys.push(key);
        self.values.push(value);
        self.tags.push(tag);
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.tags.clear();
    }
}

/// Entries to remove from one map.
#[derive(Debug)]
pub struct Removals<K> {
    /// Keys.
    pub keys: Vec<K>,
    /// Services, by position.
    pub tags: Vec<Tag>,
}

impl<K> Default for Removals<K> {
    fn default() -> Self {
        Self { keys: Vec::new(), tags: Vec::new() }
    }
}

impl<K: Pod> Removals<K> {
    /// One more.
    pub fn push(&mut self, tag: Tag, key: K) {
        self.keys.push(key);
        self.tags.push(tag);
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.tags.clear();
    }
}

/// Slot tables to write.
#[derive(Debug, Default)]
pub struct SlotWrites {
    /// First slot, how many, Service.
    pub ranges: Vec<(u32, u32, Tag)>,
    /// The backend ids of all ranges, one after the other.
    pub ids: Vec<u32>,
}

/// The operations of one round.
#[derive(Debug, Default)]
pub struct Plan {
    /// New backends, and new states of known ones.
    pub backends: Sets<u32, Backend>,
    /// New slot tables.
    pub slots: SlotWrites,
    /// New names.
    pub names: Sets<u32, ServiceName>,
    /// New ranges of clients.
    pub sources4: Sets<Prefix<SourceRange<V4>>, u32>,
    /// New ranges of clients.
    pub sources6: Sets<Prefix<SourceRange<V6>>, u32>,
    /// New addresses.
    pub addrs4: Sets<V4, AddressInfo>,
    /// New addresses.
    pub addrs6: Sets<V6, AddressInfo>,
    /// New or changed frontends.
    pub frontends4: Sets<FrontendKey<V4>, Frontend>,
    /// New or changed frontends.
    pub frontends6: Sets<FrontendKey<V6>, Frontend>,
    /// Frontends that go.
    pub gone_frontends4: Removals<FrontendKey<V4>>,
    /// Frontends that go.
    pub gone_frontends6: Removals<FrontendKey<V6>>,
    /// Ranges of clients that go.
    pub gone_sources4: Removals<Prefix<SourceRange<V4>>>,
    /// Ranges of clients that go.
    pub gone_sources6: Removals<Prefix<SourceRange<V6>>>,
    /// Addresses that go.
    pub gone_addrs4: Removals<V4>,
    /// Addresses that go.
    pub gone_addrs6: Removals<V6>,
    /// Names that go.
    pub gone_names: Removals<u32>,
    /// Backends that end: state 0 and the next generation.
    pub gone_backends: Sets<u32, Backend>,
}

impl Plan {
    /// How many entries it touches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.backends.keys.len()
            + self.slots.ids.len()
            + self.names.keys.len()
            + self.sources4.keys.len()
            + self.sources6.keys.len()
            + self.addrs4.keys.len()
            + self.addrs6.keys.len()
            + self.frontends4.keys.len()
            + self.frontends6.keys.len()
            + self.gone_frontends4.keys.len()
            + self.gone_frontends6.keys.len()
            + self.gone_sources4.keys.len()
            + self.gone_sources6.keys.len()
            + self.gone_addrs4.keys.len()
            + self.gone_addrs6.keys.len()
            + self.gone_names.keys.len()
            + self.gone_backends.keys.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Empties it and keeps the memory.
    pub fn clear(&mut self) {
        self.backends.clear();
        self.slots.ranges.clear();
        self.slots.ids.clear();
        self.names.clear();
        self.sources4.clear();
        self.sources6.clear();
        self.addrs4.clear();
        self.addrs6.clear();
        self.frontends4.clear();
        self.frontends6.clear();
        self.gone_frontends4.clear();
        self.gone_frontends6.clear();
        self.gone_sources4.clear();
        self.gone_sources6.clear();
        self.gone_addrs4.clear();
        self.gone_addrs6.clear();
        self.gone_names.clear();
        self.gone_backends.clear();
    }
}
