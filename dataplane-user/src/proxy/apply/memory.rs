//! Service maps in memory, for tests: with limits, with faults on demand, with an observer of every
//! intermediate state, and with an end of the agent between any two writes.
//!
//! Tests of the controller and of the map writer use them in place of the kernel's maps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use dataplane_common::types::address::{Prefix, V4, V6};
use dataplane_common::types::pod::AddressInfo;
use dataplane_common::types::service::{Backend, Frontend, FrontendKey, ServiceName, Slot, SourceRange};
use dataplane_host::map::MapError;

use super::{ArrayTable, FamilyMaps, HashTable, ServiceMaps};

/// Called after each single write.
pub type Observer = Arc<dyn Fn() + Send + Sync>;

type Entries = Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>;

/// The kind of operation that a fault concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// An entry, or a run of elements of an array, is set.
    Set,
    /// An entry is removed.
    Remove,
}

/// The payload with which a write unwinds instead of being done, see [`MemoryMaps::kill_after`].
pub struct Killed;

/// Faults to come.
#[derive(Default)]
struct Faults {
    /// Map, operation, and the number of such operations that succeed first.
    fail: Vec<(&'static str, Operation, u32)>,
    /// The number of writes and removals, in all maps, before the agent is killed.
    kill: Option<u32>,
    /// Operations that have failed.
    failed: u32,
}

/// One map in memory. Clones share its content.
#[derive(Clone)]
pub struct MemoryMap {
    name: &'static str,
    entries: Entries,
    capacity: u32,
    faults: Arc<Mutex<Faults>>,
    observer: Arc<Mutex<Option<Observer>>>,
}

impl MemoryMap {
    /// Returns a copy of the content in bytes.
    #[must_use]
    pub fn content(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        lock(&self.entries).clone()
    }

    /// Returns the content as keys and values.
    #[must_use]
    pub fn typed<K: Pod, V: Pod>(&self) -> Vec<(K, V)> {
        let read = |(k, v): (&Vec<u8>, &Vec<u8>)| (bytemuck::pod_read_unaligned(k), bytemuck::pod_read_unaligned(v));
        lock(&self.entries).iter().map(read).collect()
    }

    /// Returns the elements of an array from `base` on that have been written, at most `count`.
    #[must_use]
    pub fn elements<V: Pod>(&self, base: u32, count: u32) -> Vec<V> {
        let range = base.to_be_bytes().to_vec()..(base + count).to_be_bytes().to_vec();
        lock(&self.entries).range(range).map(|(_, v)| bytemuck::pod_read_unaligned(v)).collect()
    }

    fn observe(&self) {
        let observer = lock(&self.observer).clone();
        if let Some(observer) = observer {
            observer();
        }
    }

    /// Returns true if this operation is to fail, see [`MemoryMaps::fail`].
    fn takes_fault(&self, operation: Operation) -> bool {
        let mut faults = lock(&self.faults);
        let Some(i) = faults.fail.iter().position(|(map, of, _)| (*map, *of) == (self.name, operation)) else {
            return false;
        };
        if faults.fail[i].2 > 0 {
            faults.fail[i].2 -= 1;
            return false;
        }
        faults.fail.remove(i);
        faults.failed += 1;
        true
    }

    /// Ends the agent if this write or removal is one too many.
    fn live(&self) {
        let mut faults = lock(&self.faults);
        match faults.kill {
            None => {}
            Some(0) => {
                drop(faults);
                std::panic::resume_unwind(Box::new(Killed));
            }
            Some(left) => faults.kill = Some(left - 1),
        }
    }

    fn error(&self) -> MapError {
        MapError::Io { name: self.name.into(), source: std::io::ErrorKind::OutOfMemory.into() }
    }

    fn write(&self, key: &[u8], value: &[u8]) -> Result<(), MapError> {
        self.live();
        if self.takes_fault(Operation::Set) {
            return Err(self.error());
        }
        let mut entries = lock(&self.entries);
        if entries.len() as u32 >= self.capacity && !entries.contains_key(key) {
            return Err(MapError::Full { name: self.name.into() });
        }
        entries.insert(key.to_vec(), value.to_vec());
        drop(entries);
        self.observe();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Pod, V: Pod> HashTable<K, V> for MemoryMap {
    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn set(&self, keys: &[K], values: &[V]) -> Result<(), (MapError, usize)> {
        for (i, (key, value)) in keys.iter().zip(values).enumerate() {
            self.write(bytemuck::bytes_of(key), bytemuck::bytes_of(value)).map_err(|e| (e, i))?;
        }
        Ok(())
    }

    fn remove(&self, keys: &[K]) -> Result<(), (MapError, usize)> {
        for (i, key) in keys.iter().enumerate() {
            self.live();
            if self.takes_fault(Operation::Remove) {
                return Err((self.error(), i));
            }
            lock(&self.entries).remove(bytemuck::bytes_of(key));
            self.observe();
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        Ok(self.typed())
    }
}

impl<V: Pod> ArrayTable<V> for MemoryMap {
    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn set(&self, base: u32, values: &[V]) -> bool {
        if self.takes_fault(Operation::Set) {
            return false;
        }
        for (value, index) in values.iter().zip(base..) {
            if index >= self.capacity {
                return false;
            }
            self.live();
            lock(&self.entries).insert(index.to_be_bytes().to_vec(), bytemuck::bytes_of(value).to_vec());
        }
        // no program reads a table before it is published
        self.observe();
        true
    }

    fn get(&self, index: u32) -> Option<V> {
        if index >= self.capacity {
            return None;
        }
        let entries = lock(&self.entries);
        Some(entries.get(&index.to_be_bytes()[..]).map_or_else(V::zeroed, |v| bytemuck::pod_read_unaligned(v)))
    }
}

/// All service maps. Clones share their content.
#[derive(Clone)]
#[allow(missing_docs, reason = "named like the maps")]
pub struct MemoryMaps {
    pub services: MemoryMap,
    pub frontends4: MemoryMap,
    pub frontends6: MemoryMap,
    pub sources4: MemoryMap,
    pub sources6: MemoryMap,
    pub addresses4: MemoryMap,
    pub addresses6: MemoryMap,
    pub slots: MemoryMap,
    pub backends: MemoryMap,
    faults: Arc<Mutex<Faults>>,
    observer: Arc<Mutex<Option<Observer>>>,
}

impl MemoryMaps {
    /// Creates empty maps: hash maps of `entries`, arrays of `elements`.
    #[must_use]
    pub fn new(entries: u32, elements: u32) -> Self {
        Self::sized(entries, elements, elements)
    }

    /// Creates empty maps: hash maps of `entries`, arrays of so many slots and backends. An agent
    /// that starts reads all backends.
    #[must_use]
    pub fn sized(entries: u32, slots: u32, backends: u32) -> Self {
        let (faults, observer) = (Arc::<Mutex<Faults>>::default(), Arc::<Mutex<Option<Observer>>>::default());
        let map = |name, capacity| MemoryMap {
            name,
            entries: Entries::default(),
            capacity,
            faults: faults.clone(),
            observer: observer.clone(),
        };
        Self {
            services: map("services", entries),
            frontends4: map("frontends4", entries),
            frontends6: map("frontends6", entries),
            sources4: map("source_ranges4", entries),
            sources6: map("source_ranges6", entries),
            addresses4: map("addresses4", entries),
            addresses6: map("addresses6", entries),
            slots: map("slots", slots),
            backends: map("backends", backends),
            faults: faults.clone(),
            observer: observer.clone(),
        }
    }

    /// Returns maps with the same content that hold so many entries, slots and backends.
    #[must_use]
    pub fn resized(&self, entries: u32, slots: u32, backends: u32) -> Self {
        let mut new = self.clone();
        for map in [
            &mut new.services,
            &mut new.frontends4,
            &mut new.frontends6,
            &mut new.sources4,
            &mut new.sources6,
            &mut new.addresses4,
            &mut new.addresses6,
        ] {
            map.capacity = entries;
        }
        (new.slots.capacity, new.backends.capacity) = (slots, backends);
        new
    }

    /// Makes the next write to the map of this name fail; each call adds one failure.
    pub fn fail_next(&self, map: &'static str) {
        self.fail(map, Operation::Set, 0);
    }

    /// Makes an operation on the map of this name fail, after so many that succeed.
    pub fn fail(&self, map: &'static str, operation: Operation, after: u32) {
        lock(&self.faults).fail.push((map, operation, after));
    }

    /// Ends the agent after so many more writes and removals: the next one unwinds with [`Killed`]
    /// and does nothing. `None` lets it live.
    pub fn kill_after(&self, writes: Option<u32>) {
        lock(&self.faults).kill = writes;
    }

    /// Returns the number of operations that have failed since the last call of
    /// [`Self::clear_failed`].
    #[must_use]
    pub fn failed(&self) -> u32 {
        lock(&self.faults).failed
    }

    /// Sets the number of failed operations to 0.
    pub fn clear_failed(&self) {
        lock(&self.faults).failed = 0;
    }

    /// Removes the failures that have not happened yet.
    pub fn clear_faults(&self) {
        *lock(&self.faults) = Faults::default();
    }

    /// Sets the function that is called after each write.
    pub fn observe(&self, observer: Option<Observer>) {
        *lock(&self.observer) = observer;
    }

    /// Returns the maps in the form that the map writer takes.
    #[must_use]
    pub fn tables(&self) -> ServiceMaps {
        ServiceMaps {
            services: typed::<u32, ServiceName>(&self.services),
            v4: FamilyMaps {
                sources: typed::<Prefix<SourceRange<V4>>, u32>(&self.sources4),
                addresses: typed::<V4, AddressInfo>(&self.addresses4),
                frontends: typed::<FrontendKey<V4>, Frontend>(&self.frontends4),
            },
            v6: FamilyMaps {
                sources: typed::<Prefix<SourceRange<V6>>, u32>(&self.sources6),
                addresses: typed::<V6, AddressInfo>(&self.addresses6),
                frontends: typed::<FrontendKey<V6>, Frontend>(&self.frontends6),
            },
            slots: Box::new(self.slots.clone()) as Box<dyn ArrayTable<Slot>>,
            backends: Box::new(self.backends.clone()) as Box<dyn ArrayTable<Backend>>,
        }
    }
}

fn typed<K: Pod, V: Pod>(map: &MemoryMap) -> Box<dyn HashTable<K, V>> {
    Box::new(map.clone())
}
