//! All Services with their slices and what is published of them, by number.
//!
//! A slice counts for the Service of its own namespace only (CVE-2021-25740). What a relist does not mention is swept when the
//! list is complete, by an epoch on each object: that costs no second copy of the state.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::proxy::desired::context::octets16;
use crate::proxy::reconcile::PublishedPort;
use crate::proxy::source::{ObjectKey, ObjectKind, ServiceObject, SliceObject};

/// A Service, its slices, or what is left of it in the tables.
#[derive(Debug)]
pub(super) struct ServiceEntry {
    pub(super) key: ObjectKey,
    pub(super) service: Option<ServiceObject>,
    pub(super) slices: Vec<StoredSlice>,
    pub(super) published: Box<[PublishedPort]>,
    /// Waits for the next round.
    pub(super) dirty: bool,
    /// Bits of [`super::pending`]: what has changed and is not in the tables.
    pub(super) pending: u8,
    /// Failed this many times in a row.
    pub(super) failures: u8,
    /// What [`super::locality`] has counted of it.
    pub(super) no_local: u8,
    /// Its scheduler counts connections.
    pub(super) counts: bool,
    epoch: u8,
}

#[derive(Debug)]
pub(super) struct StoredSlice {
    name: Box<str>,
    /// Its `service` is empty: the entry says it.
    pub(super) object: SliceObject,
    epoch: u8,
}

impl ServiceEntry {
    /// Of two claimants to a frontend the smaller wins: the Service that was created first, then by name.
    pub(super) fn rank(&self) -> (u32, &ObjectKey) {
        (self.service.as_ref().map_or(u32::MAX, |s| s.created), &self.key)
    }

    fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty() && self.published.is_empty() && !self.dirty
    }
}

/// The store.
#[derive(Debug, Default)]
pub(super) struct ObjectStore {
    entries: Vec<Option<ServiceEntry>>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    /// A part of the hash of the slice's name, and the Service that has it.
    by_slice: HashTable<(u32, u32)>,
    cluster_ips: HashMap<[u8; 16], u32>,
    hasher: DefaultHashBuilder,
    service_epoch: u8,
    slice_epoch: u8,
    services: usize,
    slices: usize,
}

impl ObjectStore {
    pub(super) fn get(&self, number: u32) -> Option<&ServiceEntry> {
        self.entries.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut ServiceEntry> {
        self.entries.get_mut(number as usize)?.as_mut()
    }

    pub(super) const fn counts(&self) -> (usize, usize) {
        (self.services, self.slices)
    }

    pub(super) fn is_cluster_ip(&self, addr: &[u8; 16]) -> bool {
        self.cluster_ips.contains_key(addr)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &ServiceEntry)> {
        (0..).zip(&self.entries).filter_map(|(number, entry)| Some((number, entry.as_ref()?)))
    }

    /// A list begins: what it does not mention will be swept.
    pub(super) fn relist(&mut self, kind: ObjectKind) {
        match kind {
            ObjectKind::Service => self.service_epoch = self.service_epoch.wrapping_add(1),
            ObjectKind::Slice => self.slice_epoch = self.slice_epoch.wrapping_add(1),
            ObjectKind::Node | ObjectKind::Pod | ObjectKind::ServiceCidr => {}
        }
    }

    /// The list is complete; returns whom the sweep has changed.
    pub(super) fn sweep(&mut self, kind: ObjectKind) -> Vec<u32> {
        let mut changed = Vec::new();
        for number in 0..self.entries.len() as u32 {
            let (service_epoch, slice_epoch) = (self.service_epoch, self.slice_epoch);
            let Some(entry) = self.get_mut(number) else { continue };
            match kind {
                ObjectKind::Service if entry.service.is_some() && entry.epoch != service_epoch => {
                    let key = entry.key.clone();
                    changed.extend(self.set_service(&key, None).map(|(number, _)| number));
                }
                ObjectKind::Slice => {
                    let stale = entry.slices.iter().filter(|s| s.epoch != slice_epoch);
                    let keys: Vec<_> = stale.map(|s| (entry.key.namespace.clone(), s.name.clone())).collect();
                    for (namespace, name) in keys {
                        changed.extend(self.set_slice(&ObjectKey { namespace, name }, None).into_iter().flatten());
                    }
                }
                _ => {}
            }
        }
        changed
    }

    /// Takes a Service; if that changes anything, returns its number, and whether its cluster IPs are others now.
    pub(super) fn set_service(&mut self, key: &ObjectKey, object: Option<ServiceObject>) -> Option<(u32, bool)> {
        let number = match self.find(&key.namespace, &key.name) {
            Some(number) => number,
            None if object.is_none() => return None,
            None => self.insert(key),
        };
        let epoch = self.service_epoch;
        let entry = self.entries.get_mut(number as usize)?.as_mut()?;
        entry.epoch = epoch;
        if entry.service == object {
            return None;
        }
        for addr in object.iter().flat_map(|o| o.cluster_ips.iter()) {
            *self.cluster_ips.entry(octets16(addr)).or_default() += 1;
        }
        for addr in entry.service.iter().flat_map(|o| o.cluster_ips.iter()) {
            let addr = octets16(addr);
            if let Some(count) = self.cluster_ips.get_mut(&addr) {
                *count -= 1;
                if *count == 0 {
                    self.cluster_ips.remove(&addr);
                }
            }
        }
        let moved = entry.service.as_ref().map(|s| s.cluster_ips) != object.as_ref().map(|s| s.cluster_ips);
        self.services += usize::from(object.is_some());
        self.services -= usize::from(entry.service.is_some());
        entry.service = object;
        Some((number, moved))
    }

    /// Takes a slice; returns the numbers of the Services that changes: two, if it went from one to another.
    pub(super) fn set_slice(&mut self, key: &ObjectKey, object: Option<SliceObject>) -> [Option<u32>; 2] {
        let before = self.find_slice(&key.namespace, &key.name);
        let Some(mut object) = object else { return [before.map(|n| self.remove_slice(n, key)), None] };
        let service = std::mem::take(&mut object.service);
        let number = self.find(&key.namespace, &service);
        let number =
            number.unwrap_or_else(|| self.insert(&ObjectKey { namespace: key.namespace.clone(), name: service }));
        let moved = before.filter(|b| *b != number).map(|b| self.remove_slice(b, key));
        let epoch = self.slice_epoch;
        let Some(entry) = self.get_mut(number) else { return [moved, None] };
        if let Some(known) = entry.slices.iter_mut().find(|s| s.name == key.name) {
            known.epoch = epoch;
            if known.object == object {
                return [moved, None];
            }
            known.object = object;
        } else {
            entry.slices.reserve_exact(1);
            entry.slices.push(StoredSlice { name: key.name.clone(), object, epoch });
            self.slices += 1;
            let short = self.short_hash(&key.namespace, &key.name);
            self.by_slice.insert_unique(widen(short), (short, number), |(short, _)| widen(*short));
        }
        [moved, Some(number)]
    }

    /// Forgets a number that nothing is left of.
    pub(super) fn collect(&mut self, number: u32) {
        let Some(entry) = self.get(number).filter(|e| e.is_empty()) else { return };
        let hash = hash(&self.hasher, &entry.key.namespace, &entry.key.name);
        if let Ok(found) = self.by_key.find_entry(hash, |n| *n == number) {
            found.remove();
        }
        self.entries[number as usize] = None;
        self.free.push(number);
    }

    /// The number of a Service, with or without an object.
    pub(super) fn find(&self, namespace: &str, name: &str) -> Option<u32> {
        let is_it = |n: &u32| self.get(*n).is_some_and(|e| *e.key.name == *name && *e.key.namespace == *namespace);
        self.by_key.find(hash(&self.hasher, namespace, name), is_it).copied()
    }

    /// The number of a Service, which gets one if it has none.
    pub(super) fn number(&mut self, key: &ObjectKey) -> u32 {
        self.find(&key.namespace, &key.name).unwrap_or_else(|| self.insert(key))
    }

    fn insert(&mut self, key: &ObjectKey) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() as u32 - 1
        });
        self.entries[number as usize] = Some(ServiceEntry {
            key: key.clone(),
            service: None,
            slices: Vec::new(),
            published: Box::default(),
            dirty: false,
            pending: 0,
            failures: 0,
            no_local: 0,
            counts: false,
            epoch: 0,
        });
        let Self { by_key, entries, hasher, .. } = self;
        by_key.insert_unique(hash(hasher, &key.namespace, &key.name), number, |n| {
            entries[*n as usize].as_ref().map_or(0, |e| hash(hasher, &e.key.namespace, &e.key.name))
        });
        number
    }

    fn find_slice(&self, namespace: &str, name: &str) -> Option<u32> {
        let short = self.short_hash(namespace, name);
        let is_it = |&(s, n): &(u32, u32)| s == short && self.get(n).is_some_and(|e| has_slice(e, namespace, name));
        self.by_slice.find(widen(short), is_it).map(|(_, n)| *n)
    }

    fn remove_slice(&mut self, number: u32, key: &ObjectKey) -> u32 {
        let short = self.short_hash(&key.namespace, &key.name);
        if let Ok(found) = self.by_slice.find_entry(widen(short), |known| *known == (short, number)) {
            found.remove();
            self.slices -= 1;
        }
        if let Some(entry) = self.get_mut(number) {
            entry.slices.retain(|s| s.name != key.name);
        }
        number
    }

    fn short_hash(&self, namespace: &str, name: &str) -> u32 {
        hash(&self.hasher, namespace, name) as u32
    }
}

fn has_slice(entry: &ServiceEntry, namespace: &str, name: &str) -> bool {
    *entry.key.namespace == *namespace && entry.slices.iter().any(|s| *s.name == *name)
}

fn hash(hasher: &DefaultHashBuilder, namespace: &str, name: &str) -> u64 {
    hasher.hash_one((namespace, name))
}

/// The table looks at both ends of a hash.
const fn widen(short: u32) -> u64 {
    (short as u64) << 32 | short as u64
}
