//! All Services with their slices, by Service id.
//!
//! `Core` hands it the sources' objects; it returns the ids of the Services that changed. It knows
//! nothing of desired or published state. A slice belongs to the Service in its own namespace only
//! (CVE-2021-25740). Objects that a relist does not mention are swept when the list is complete, by
//! an epoch on each object: that costs no second copy of the state.

use std::hash::BuildHasher;
use std::net::IpAddr;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::proxy::reconcile::ids::ServiceId;
use crate::proxy::reconcile::ownership::{Claimant, Claimants};
use crate::proxy::source::{ObjectKey, ObjectKind, ServiceObject, SliceObject};

/// A Service and its slices, or slices whose Service is missing.
#[derive(Debug)]
pub(super) struct ServiceEntry {
    pub(super) key: ObjectKey,
    pub(super) service: Option<ServiceObject>,
    /// By name, so that all nodes prefer the same one of two equal entries for an endpoint.
    pub(super) slices: Vec<StoredSlice>,
    epoch: u32,
}

#[derive(Debug)]
pub(super) struct StoredSlice {
    name: Box<str>,
    /// Its field `service` is empty: the key of the entry contains the name.
    pub(super) object: SliceObject,
    epoch: u32,
}

#[derive(Debug, Default)]
pub(super) struct ObjectStore {
    entries: Vec<Option<ServiceEntry>>,
    free: Vec<ServiceId>,
    by_key: HashTable<ServiceId>,
    /// 32 bits of the hash of the slice's name, and its Service.
    by_slice: HashTable<(u32, ServiceId)>,
    /// The number of Services that have each cluster IP.
    cluster_ips: HashMap<IpAddr, u32>,
    hasher: DefaultHashBuilder,
    service_epoch: u32,
    slice_epoch: u32,
    services: usize,
    slices: usize,
}

impl ObjectStore {
    pub(super) fn get(&self, id: ServiceId) -> Option<&ServiceEntry> {
        self.entries.get(id.index())?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: ServiceId) -> Option<&mut ServiceEntry> {
        self.entries.get_mut(id.index())?.as_mut()
    }

    pub(super) const fn counts(&self) -> (usize, usize) {
        (self.services, self.slices)
    }

    pub(super) fn is_cluster_ip(&self, addr: IpAddr) -> bool {
        self.cluster_ips.contains_key(&addr)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ServiceId, &ServiceEntry)> {
        (0..).map(ServiceId::new).zip(&self.entries).filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }

    /// Notes that a list begins: objects that it does not mention will be swept.
    pub(super) fn relist(&mut self, kind: ObjectKind) {
        match kind {
            ObjectKind::Service => self.service_epoch = self.service_epoch.wrapping_add(1),
            ObjectKind::Slice => self.slice_epoch = self.slice_epoch.wrapping_add(1),
            ObjectKind::Node | ObjectKind::ServiceCidr => {}
        }
    }

    /// Removes the objects that a complete list did not mention. Returns the Services that changed.
    pub(super) fn sweep(&mut self, kind: ObjectKind) -> Vec<ServiceId> {
        let mut changed = Vec::new();
        for id in (0..self.entries.len() as u32).map(ServiceId::new) {
            let (service_epoch, slice_epoch) = (self.service_epoch, self.slice_epoch);
            let Some(entry) = self.get_mut(id) else { continue };
            match kind {
                ObjectKind::Service if entry.service.is_some() && entry.epoch != service_epoch => {
                    let key = entry.key.clone();
                    changed.extend(self.set_service(&key, None).map(|(id, _)| id));
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

    /// Replaces a Service. If that changes it, returns its id, and true if its cluster IPs changed.
    pub(super) fn set_service(&mut self, key: &ObjectKey, object: Option<ServiceObject>) -> Option<(ServiceId, bool)> {
        let id = match self.find(&key.namespace, &key.name) {
            Some(id) => id,
            None if object.is_none() => return None,
            None => self.insert(key),
        };
        let epoch = self.service_epoch;
        let entry = self.entries.get_mut(id.index())?.as_mut()?;
        entry.epoch = epoch;
        if entry.service == object {
            return None;
        }
        for addr in object.iter().flat_map(|o| o.cluster_ips.iter()) {
            *self.cluster_ips.entry(addr).or_default() += 1;
        }
        for addr in entry.service.iter().flat_map(|o| o.cluster_ips.iter()) {
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
        Some((id, moved))
    }

    /// Replaces a slice. Returns the Services that it left and that it belongs to.
    pub(super) fn set_slice(&mut self, key: &ObjectKey, object: Option<SliceObject>) -> [Option<ServiceId>; 2] {
        let before = self.find_slice(&key.namespace, &key.name);
        let Some(mut object) = object else { return [before.map(|n| self.remove_slice(n, key)), None] };
        let service = std::mem::take(&mut object.service);
        let id = self.find(&key.namespace, &service);
        let id = id.unwrap_or_else(|| self.insert(&ObjectKey { namespace: key.namespace.clone(), name: service }));
        let moved = before.filter(|b| *b != id).map(|b| self.remove_slice(b, key));
        let epoch = self.slice_epoch;
        let Some(entry) = self.get_mut(id) else { return [moved, None] };
        if let Some(known) = entry.slices.iter_mut().find(|s| s.name == key.name) {
            known.epoch = epoch;
            if known.object == object {
                return [moved, None];
            }
            known.object = object;
        } else {
            entry.slices.reserve_exact(1);
            let at = entry.slices.partition_point(|s| s.name < key.name);
            entry.slices.insert(at, StoredSlice { name: key.name.clone(), object, epoch });
            self.slices += 1;
            let short = self.short_hash(&key.namespace, &key.name);
            self.by_slice.insert_unique(widen(short), (short, id), |(short, _)| widen(*short));
        }
        [moved, Some(id)]
    }

    /// Frees an id if no object is left of it. Returns true if it was freed.
    pub(super) fn collect(&mut self, id: ServiceId) -> bool {
        let is_empty = |e: &&ServiceEntry| e.service.is_none() && e.slices.is_empty();
        let Some(entry) = self.get(id).filter(is_empty) else { return false };
        let hash = hash(&self.hasher, &entry.key.namespace, &entry.key.name);
        if let Ok(found) = self.by_key.find_entry(hash, |n| *n == id) {
            found.remove();
        }
        self.entries[id.index()] = None;
        self.free.push(id);
        true
    }

    /// Returns the Services that have this address as an external or load-balancer IP.
    pub(super) fn external_users(&self, addr: IpAddr) -> impl Iterator<Item = ServiceId> {
        let uses = move |s: &ServiceObject| {
            let extra = s.extra.iter().flat_map(|e| e.external_ips.iter().chain(&e.load_balancer_ips));
            extra.into_iter().any(|a| *a == addr)
        };
        self.iter().filter(move |(_, e)| e.service.as_ref().is_some_and(uses)).map(|(id, _)| id)
    }

    fn find(&self, namespace: &str, name: &str) -> Option<ServiceId> {
        let is_it =
            |id: &ServiceId| self.get(*id).is_some_and(|e| *e.key.name == *name && *e.key.namespace == *namespace);
        self.by_key.find(hash(&self.hasher, namespace, name), is_it).copied()
    }

    /// Returns the id of a Service, and gives it one if it has none.
    pub(super) fn id(&mut self, key: &ObjectKey) -> ServiceId {
        self.find(&key.namespace, &key.name).unwrap_or_else(|| self.insert(key))
    }

    fn insert(&mut self, key: &ObjectKey) -> ServiceId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            ServiceId::new(self.entries.len() as u32 - 1)
        });
        self.entries[id.index()] = Some(ServiceEntry { key: key.clone(), service: None, slices: Vec::new(), epoch: 0 });
        let Self { by_key, entries, hasher, .. } = self;
        by_key.insert_unique(hash(hasher, &key.namespace, &key.name), id, |n| {
            entries[n.index()].as_ref().map_or(0, |e| hash(hasher, &e.key.namespace, &e.key.name))
        });
        id
    }

    fn find_slice(&self, namespace: &str, name: &str) -> Option<ServiceId> {
        let short = self.short_hash(namespace, name);
        let is_it =
            |&(s, n): &(u32, ServiceId)| s == short && self.get(n).is_some_and(|e| has_slice(e, namespace, name));
        self.by_slice.find(widen(short), is_it).map(|(_, n)| *n)
    }

    fn remove_slice(&mut self, id: ServiceId, key: &ObjectKey) -> ServiceId {
        let short = self.short_hash(&key.namespace, &key.name);
        if let Ok(found) = self.by_slice.find_entry(widen(short), |known| *known == (short, id)) {
            found.remove();
            self.slices -= 1;
        }
        if let Some(entry) = self.get_mut(id) {
            entry.slices.retain(|s| s.name != key.name);
        }
        id
    }

    fn short_hash(&self, namespace: &str, name: &str) -> u32 {
        hash(&self.hasher, namespace, name) as u32
    }
}

impl Claimants for ObjectStore {
    fn claimant(&self, id: ServiceId) -> Option<Claimant<'_>> {
        let entry = self.get(id)?;
        Some(Claimant { key: &entry.key, created: entry.service.as_ref().map(|s| s.created) })
    }
}

fn has_slice(entry: &ServiceEntry, namespace: &str, name: &str) -> bool {
    *entry.key.namespace == *namespace && entry.slices.iter().any(|s| *s.name == *name)
}

fn hash(hasher: &DefaultHashBuilder, namespace: &str, name: &str) -> u64 {
    hasher.hash_one((namespace, name))
}

/// Spreads 32 bits of a hash over 64, because the hash table uses both the upper and the lower
/// bits.
const fn widen(short: u32) -> u64 {
    (short as u64) << 32 | short as u64
}

#[cfg(test)]
mod tests {
    use dataplane_common::types::ip_family::IpFamily;

    use super::*;

    /// A list that breaks off is begun again. 256 of them in a row made a deleted object look
    /// present while an epoch had eight bits.
    #[test]
    fn deleted_object_is_swept_after_any_number_of_broken_lists() {
        let slice = |name: &str| SliceObject {
            service: name.into(),
            ports: [].into(),
            endpoints: [].into(),
            triggered: 0,
            family: IpFamily::V4,
        };
        for broken in [0, 1, 255, 256, 65_536] {
            let mut store = ObjectStore::default();
            let [kept, gone] = ["kept", "gone"].map(|name| ObjectKey::new("shop", name));
            for kind in [ObjectKind::Service, ObjectKind::Slice] {
                store.relist(kind);
            }
            for key in [&kept, &gone] {
                store.set_service(key, Some(ServiceObject::default()));
                store.set_slice(key, Some(slice(&key.name)));
            }
            for kind in [ObjectKind::Service, ObjectKind::Slice] {
                (0..broken).for_each(|_| store.relist(kind));
                // The last one is complete, and has one of the two objects.
                store.relist(kind);
            }
            store.set_service(&kept, Some(ServiceObject::default()));
            store.set_slice(&kept, Some(slice("kept")));
            let swept = [ObjectKind::Service, ObjectKind::Slice].map(|kind| store.sweep(kind).len());
            assert_eq!((swept, store.counts()), ([1, 1], (1, 1)), "after {broken} broken lists");
        }
    }
}
