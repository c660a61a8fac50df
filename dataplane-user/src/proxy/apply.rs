//! The only writer of the service maps: carries out a [`Plan`], counts what it did, and says for which Services it failed.

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

use crate::proxy::reconcile::plan::{Plan, Removals, Sets, Tag};

pub use kernel::open;
pub use read::{capacities, read};

/// A hash map or a trie.
pub trait HashTable<K, V>: Send {
    /// How many entries it can have.
    fn capacity(&self) -> u32;
    /// Sets entries in order. On an error says how many were set before it.
    ///
    /// # Errors
    /// The map is full, or the kernel refused.
    fn set(&self, keys: &[K], values: &[V]) -> Result<(), (MapError, usize)>;
    /// Removes entries in order; those that are not there count as removed. On an error says how many were removed before it.
    ///
    /// # Errors
    /// The kernel refused.
    fn remove(&self, keys: &[K]) -> Result<(), (MapError, usize)>;
    /// All entries.
    ///
    /// # Errors
    /// The kernel refused.
    fn entries(&self) -> Result<Vec<(K, V)>, MapError>;
}

/// An array that we share with the programs.
pub trait ArrayTable<V>: Send {
    /// How many elements it has.
    fn capacity(&self) -> u32;
    /// Sets consecutive elements. Those beyond the end are left out, and so said.
    fn set(&self, base: u32, values: &[V]) -> bool;
    /// An element.
    fn get(&self, index: u32) -> Option<V>;
}

/// The service maps.
pub struct ServiceMaps {
    /// `services`.
    pub services: Box<dyn HashTable<u32, ServiceName>>,
    /// `frontends4`.
    pub frontends4: Box<dyn HashTable<FrontendKey<V4>, Frontend>>,
    /// `frontends6`.
    pub frontends6: Box<dyn HashTable<FrontendKey<V6>, Frontend>>,
    /// `source_ranges4`.
    pub sources4: Box<dyn HashTable<Prefix<SourceRange<V4>>, u32>>,
    /// `source_ranges6`.
    pub sources6: Box<dyn HashTable<Prefix<SourceRange<V6>>, u32>>,
    /// `addresses4`.
    pub addrs4: Box<dyn HashTable<V4, AddressInfo>>,
    /// `addresses6`.
    pub addrs6: Box<dyn HashTable<V6, AddressInfo>>,
    /// `slots`.
    pub slots: Box<dyn ArrayTable<Slot>>,
    /// `backends`.
    pub backends: Box<dyn ArrayTable<Backend>>,
}

/// How many entries were written or removed, by map.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Operations {
    /// `services`.
    pub services: u64,
    /// `frontends4` and `frontends6`.
    pub frontends: u64,
    /// `source_ranges4` and `source_ranges6`.
    pub sources: u64,
    /// `addresses4` and `addresses6`.
    pub addrs: u64,
    /// `slots`.
    pub slots: u64,
    /// `backends`.
    pub backends: u64,
}

impl Operations {
    /// All together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.services + self.frontends + self.sources + self.addrs + self.slots + self.backends
    }

    /// By the name of the map (both families together).
    #[must_use]
    pub const fn by_map(&self) -> [(&'static str, u64); 6] {
        [
            ("services", self.services),
            ("frontends", self.frontends),
            ("source_ranges", self.sources),
            ("addrs", self.addrs),
            ("slots", self.slots),
            ("backends", self.backends),
        ]
    }
}

/// What went wrong, by Service; the first error of each.
pub type Failures = HashMap<Tag, MapError>;

/// Carries out a plan. A Service for which an operation fails gets no later operation of this plan.
pub fn execute(plan: &Plan, tables: &ServiceMaps, operations: &mut Operations) -> Failures {
    let mut failed = Failures::new();
    for (id, entry) in plan.backends.keys.iter().zip(&plan.backends.values) {
        tables.backends.set(*id, std::slice::from_ref(entry));
    }
    operations.backends += plan.backends.keys.len() as u64;
    let mut rest = &plan.slots.ids[..];
    let mut scratch = Vec::new();
    for (base, len, _) in &plan.slots.ranges {
        let (ids, after) = rest.split_at((*len as usize).min(rest.len()));
        scratch.clear();
        scratch.extend(ids.iter().map(|id| Slot { backend: *id, turn: 0 }));
        tables.slots.set(*base, &scratch);
        rest = after;
    }
    operations.slots += plan.slots.ids.len() as u64;
    operations.services += set(&*tables.services, &plan.names, &mut failed);
    operations.sources += set(&*tables.sources4, &plan.sources4, &mut failed);
    operations.sources += set(&*tables.sources6, &plan.sources6, &mut failed);
    operations.addrs += set(&*tables.addrs4, &plan.addrs4, &mut failed);
    operations.addrs += set(&*tables.addrs6, &plan.addrs6, &mut failed);
    operations.frontends += set(&*tables.frontends4, &plan.frontends4, &mut failed);
    operations.frontends += set(&*tables.frontends6, &plan.frontends6, &mut failed);
    operations.frontends += remove(&*tables.frontends4, &plan.gone_frontends4, &mut failed);
    operations.frontends += remove(&*tables.frontends6, &plan.gone_frontends6, &mut failed);
    operations.sources += remove(&*tables.sources4, &plan.gone_sources4, &mut failed);
    operations.sources += remove(&*tables.sources6, &plan.gone_sources6, &mut failed);
    operations.addrs += remove(&*tables.addrs4, &plan.gone_addrs4, &mut failed);
    operations.addrs += remove(&*tables.addrs6, &plan.gone_addrs6, &mut failed);
    operations.services += remove(&*tables.services, &plan.gone_names, &mut failed);
    let ended = &plan.gone_backends;
    for ((id, entry), tag) in ended.keys.iter().zip(&ended.values).zip(&ended.tags) {
        if !failed.contains_key(tag) {
            tables.backends.set(*id, std::slice::from_ref(entry));
            operations.backends += 1;
        }
    }
    failed
}

fn set<K: Pod, V: Pod>(table: &dyn HashTable<K, V>, ops: &Sets<K, V>, failed: &mut Failures) -> u64 {
    in_runs(&ops.tags, failed, |from, to| table.set(&ops.keys[from..to], &ops.values[from..to]))
}

fn remove<K: Pod, V>(table: &dyn HashTable<K, V>, ops: &Removals<K>, failed: &mut Failures) -> u64 {
    in_runs(&ops.tags, failed, |from, to| table.remove(&ops.keys[from..to]))
}

/// Calls `write` for runs that are as long as can be and leave out Services that have failed; returns how many entries went through.
fn in_runs(
    tags: &[Tag],
    failed: &mut Failures,
    mut write: impl FnMut(usize, usize) -> Result<(), (MapError, usize)>,
) -> u64 {
    let (mut at, mut written) = (0, 0);
    while at < tags.len() {
        if failed.contains_key(&tags[at]) {
            at += 1;
            continue;
        }
        let end = if failed.is_empty() { tags.len() } else { at + run(&tags[at..], failed) };
        match write(at, end) {
            Ok(()) => {
                written += (end - at) as u64;
                at = end;
            }
            Err((error, done)) => {
                let bad = (at + done).min(end - 1);
                written += (bad - at) as u64;
                failed.entry(tags[bad]).or_insert(error);
                at = bad + 1;
            }
        }
    }
    written
}

fn run(tags: &[Tag], failed: &Failures) -> usize {
    tags.iter().position(|t| failed.contains_key(t)).unwrap_or(tags.len())
}
