//! The only writer of the service maps.
//!
//! [`MapWriter`] carries out a [`Plan`] in the order that keeps every frontend complete, counts the
//! entries that it wrote and removed, and returns the Services for which a write failed. The
//! controller calls it; it never decides what to write and never retries. [`read()`] gives the
//! content of the maps to an agent that starts.

mod kernel;
pub mod memory;
mod read;
#[cfg(test)]
mod tests;

use bytemuck::Pod;
use dataplane_common::types::address::{Prefix, V4, V6};
use dataplane_common::types::pod::AddressInfo;
use dataplane_common::types::service::{Backend, Frontend, FrontendKey, ServiceName, Slot, SourceRange};
use dataplane_host::map::MapError;
use hashbrown::HashMap;

use crate::proxy::reconcile::ids::ServiceId;
use crate::proxy::reconcile::plan::{Plan, Removals, Sets, SlotWrites};

pub use kernel::open;
pub use read::{capacities, read};

/// A hash map or a trie.
pub trait HashTable<K, V>: Send {
    /// Returns the number of entries that fit.
    fn capacity(&self) -> u32;
    /// Sets entries in order. The error carries the number of entries that were set before it.
    ///
    /// # Errors
    /// The map is full, or the kernel refused.
    fn set(&self, keys: &[K], values: &[V]) -> Result<(), (MapError, usize)>;
    /// Removes entries in order; a missing entry counts as removed. The error carries the number
    /// of entries that were removed before it.
    ///
    /// # Errors
    /// The kernel refused.
    fn remove(&self, keys: &[K]) -> Result<(), (MapError, usize)>;
    /// Returns all entries.
    ///
    /// # Errors
    /// The kernel refused.
    fn entries(&self) -> Result<Vec<(K, V)>, MapError>;
}

/// An array whose memory the agent maps and shares with the eBPF programs.
pub trait ArrayTable<V>: Send {
    /// Returns the number of elements.
    fn capacity(&self) -> u32;
    /// Sets consecutive elements. Returns false if some of them are beyond the end; these are not
    /// written.
    fn set(&self, base: u32, values: &[V]) -> bool;
    /// Returns an element; `None` beyond the end.
    fn get(&self, index: u32) -> Option<V>;
}

/// The service maps that exist once per address family.
pub struct FamilyMaps<A> {
    /// The map `source_ranges4` or `source_ranges6`.
    pub sources: Box<dyn HashTable<Prefix<SourceRange<A>>, u32>>,
    /// The map `addresses4` or `addresses6`.
    pub addresses: Box<dyn HashTable<A, AddressInfo>>,
    /// The map `frontends4` or `frontends6`.
    pub frontends: Box<dyn HashTable<FrontendKey<A>, Frontend>>,
}

/// The service maps.
pub struct ServiceMaps {
    /// The map `services`.
    pub services: Box<dyn HashTable<u32, ServiceName>>,
    /// The maps of IPv4.
    pub v4: FamilyMaps<V4>,
    /// The maps of IPv6.
    pub v6: FamilyMaps<V6>,
    /// The map `slots`.
    pub slots: Box<dyn ArrayTable<Slot>>,
    /// The map `backends`.
    pub backends: Box<dyn ArrayTable<Backend>>,
}

/// Entries written and removed since the agent started, by map.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Operations {
    /// Entries of `services`.
    pub services: u64,
    /// Entries of `frontends4` and `frontends6`.
    pub frontends: u64,
    /// Entries of `source_ranges4` and `source_ranges6`.
    pub sources: u64,
    /// Entries of `addresses4` and `addresses6`.
    pub addresses: u64,
    /// Entries of `slots`.
    pub slots: u64,
    /// Entries of `backends`.
    pub backends: u64,
}

impl Operations {
    /// Returns the sum over all maps.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.services + self.frontends + self.sources + self.addresses + self.slots + self.backends
    }

    /// Returns the counts by map name, both families together.
    #[must_use]
    pub const fn by_map(&self) -> [(&'static str, u64); 6] {
        [
            ("services", self.services),
            ("frontends", self.frontends),
            ("source_ranges", self.sources),
            ("addresses", self.addresses),
            ("slots", self.slots),
            ("backends", self.backends),
        ]
    }
}

/// The Services for which a write failed, each with its first error.
pub type Failures = HashMap<ServiceId, MapError>;

/// The result of [`MapWriter::apply`].
#[derive(Debug, Default)]
pub struct Outcome {
    /// The Services whose part of the plan was not carried out completely.
    pub failures: Failures,
}

impl Outcome {
    /// Returns true if every operation was carried out.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }

    /// Returns true if an operation of this Service failed.
    #[must_use]
    pub fn failed(&self, id: ServiceId) -> bool {
        self.failures.contains_key(&id)
    }
}

/// Carries out plans on the service maps.
pub struct MapWriter {
    maps: ServiceMaps,
    operations: Operations,
}

impl MapWriter {
    /// Creates the writer. Nothing is written before the first plan.
    #[must_use]
    pub fn new(maps: ServiceMaps) -> Self {
        Self { maps, operations: Operations::default() }
    }

    /// Returns the entries written and removed since the agent started.
    #[must_use]
    pub const fn operations(&self) -> &Operations {
        &self.operations
    }

    /// Carries out a plan. A Service for which an operation fails gets no later operation of this
    /// plan, so that no frontend of it leads to an entry that was not written.
    pub fn apply(&mut self, plan: &Plan) -> Outcome {
        let mut failed = Failures::new();
        self.set_backends(&plan.backends, &mut failed);
        self.set_slots(&plan.slots, &mut failed);
        let (maps, operations) = (&self.maps, &mut self.operations);
        let (v4, v6) = (&maps.v4, &maps.v6);
        operations.services += set(&*maps.services, &plan.names.sets, &mut failed);
        operations.sources += set(&*v4.sources, &plan.v4.sources.sets, &mut failed);
        operations.sources += set(&*v6.sources, &plan.v6.sources.sets, &mut failed);
        operations.addresses += set(&*v4.addresses, &plan.v4.addresses.sets, &mut failed);
        operations.addresses += set(&*v6.addresses, &plan.v6.addresses.sets, &mut failed);
        operations.frontends += set(&*v4.frontends, &plan.v4.frontends.sets, &mut failed);
        operations.frontends += set(&*v6.frontends, &plan.v6.frontends.sets, &mut failed);
        operations.frontends += remove(&*v4.frontends, &plan.v4.frontends.removals, &mut failed);
        operations.frontends += remove(&*v6.frontends, &plan.v6.frontends.removals, &mut failed);
        operations.sources += remove(&*v4.sources, &plan.v4.sources.removals, &mut failed);
        operations.sources += remove(&*v6.sources, &plan.v6.sources.removals, &mut failed);
        operations.addresses += remove(&*v4.addresses, &plan.v4.addresses.removals, &mut failed);
        operations.addresses += remove(&*v6.addresses, &plan.v6.addresses.removals, &mut failed);
        operations.services += remove(&*maps.services, &plan.names.removals, &mut failed);
        self.set_backends(&plan.ended_backends, &mut failed);
        Outcome { failures: failed }
    }

    fn set_backends(&mut self, sets: &Sets<u32, Backend>, failed: &mut Failures) {
        for ((id, entry), service) in sets.keys.iter().zip(&sets.values).zip(&sets.services) {
            if failed.contains_key(service) {
                continue;
            }
            if self.maps.backends.set(*id, std::slice::from_ref(entry)) {
                self.operations.backends += 1;
            } else {
                failed.insert(*service, beyond_the_end("backends", *id, 1));
            }
        }
    }

    fn set_slots(&mut self, writes: &SlotWrites, failed: &mut Failures) {
        let mut rest = &writes.ids[..];
        let mut scratch = Vec::new();
        for (base, len, service) in &writes.ranges {
            let (ids, after) = rest.split_at((*len as usize).min(rest.len()));
            rest = after;
            if failed.contains_key(service) {
                continue;
            }
            scratch.clear();
            scratch.extend(ids.iter().map(|id| Slot { backend: *id, turn: 0 }));
            if self.maps.slots.set(*base, &scratch) {
                self.operations.slots += ids.len() as u64;
            } else {
                failed.insert(*service, beyond_the_end("slots", *base, ids.len()));
            }
        }
    }
}

/// The error of a write to an array that returned false.
fn beyond_the_end(map: &str, first: u32, count: usize) -> MapError {
    let reason = format!("{count} elements from {first} on do not all fit, the map is smaller than its size says");
    MapError::Io { name: map.to_owned(), source: std::io::Error::other(reason) }
}

fn set<K: Pod, V: Pod>(table: &dyn HashTable<K, V>, ops: &Sets<K, V>, failed: &mut Failures) -> u64 {
    in_runs(&ops.services, failed, |from, to| table.set(&ops.keys[from..to], &ops.values[from..to]))
}

fn remove<K: Pod, V>(table: &dyn HashTable<K, V>, ops: &Removals<K>, failed: &mut Failures) -> u64 {
    in_runs(&ops.services, failed, |from, to| table.remove(&ops.keys[from..to]))
}

/// Calls `write` for the longest runs of entries without a failed Service. Returns the number of
/// entries that were written.
fn in_runs(
    services: &[ServiceId],
    failed: &mut Failures,
    mut write: impl FnMut(usize, usize) -> Result<(), (MapError, usize)>,
) -> u64 {
    let (mut at, mut written) = (0, 0);
    while at < services.len() {
        if failed.contains_key(&services[at]) {
            at += 1;
            continue;
        }
        let end = if failed.is_empty() { services.len() } else { at + run(&services[at..], failed) };
        match write(at, end) {
            Ok(()) => {
                written += (end - at) as u64;
                at = end;
            }
            Err((error, done)) => {
                let bad = (at + done).min(end - 1);
                written += (bad - at) as u64;
                failed.entry(services[bad]).or_insert(error);
                at = bad + 1;
            }
        }
    }
    written
}

fn run(services: &[ServiceId], failed: &Failures) -> usize {
    services.iter().position(|t| failed.contains_key(t)).unwrap_or(services.len())
}
