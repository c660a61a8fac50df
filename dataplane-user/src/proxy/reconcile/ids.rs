//! Ids of Services, service ports and backends, and the allocation of the latter two.
//!
//! A released backend id is not used again for five seconds, and then has another generation. The
//! allocator owns both pools; the object store gives out Service ids.

use std::collections::VecDeque;
use std::time::Duration;

/// The time that the id of an ended backend rests: a program that has read it from a slot finishes
/// long before.
const QUARANTINE: Duration = Duration::from_secs(5);

/// A Service: its index in the controller's object store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceId(u32);

impl ServiceId {
    /// The id of operations that belong to no Service: the node's addresses and garbage.
    pub const NODE: Self = Self(u32::MAX);

    /// Creates the id of an index.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Returns the index in the object store.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A service port: its key in the map `services`. 0 is never given out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServicePortId(u32);

impl ServicePortId {
    /// Creates the id of a map key.
    #[must_use]
    pub const fn new(key: u32) -> Self {
        Self(key)
    }

    /// Returns the map key.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A backend: its index in the map `backends`. 0 is never given out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BackendId(u32);

impl BackendId {
    /// Creates the id of an index.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Returns the index in the map `backends`.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Tells the backends apart that have the same id one after the other. A flow or an affinity entry
/// that remembers another generation does not match.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Generation(u32);

impl Generation {
    /// The generation of an id that is used for the first time.
    pub const FIRST: Self = Self(1);

    /// Creates the generation that an entry of `backends` contains; 0: never used.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// Returns the value for an entry of `backends`.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Returns the generation that follows; after the last one the first.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.wrapping_add(1) {
            0 => Self::FIRST,
            next => Self(next),
        }
    }
}

/// Backend ids with their generations.
#[derive(Debug)]
pub struct BackendIds {
    /// By id, for all ids that were ever used.
    generations: Vec<Generation>,
    free: VecDeque<(Duration, BackendId)>,
    capacity: u32,
}

impl BackendIds {
    /// Creates the pool of an array of `capacity` elements, of which `generations` were used
    /// before. `is_free` returns true for those that are free.
    #[must_use]
    pub fn new(
        capacity: u32,
        mut generations: Vec<Generation>,
        is_free: impl Fn(BackendId) -> bool,
        now: Duration,
    ) -> Self {
        if generations.is_empty() {
            generations.push(Generation::default());
        }
        let unused = (1..generations.len() as u32).map(BackendId).filter(|id| is_free(*id));
        let free = unused.map(|id| (now + QUARANTINE, id)).collect();
        Self { generations, free, capacity }
    }

    /// Returns the number of ids that are in use or at rest.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.generations.len() as u32 - 1
    }

    /// Returns the number of ids that are not in use. Some may be at rest.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.capacity.saturating_sub(self.generations.len() as u32) + self.free.len() as u32
    }

    /// Returns the number of ids that are in use and not at rest.
    #[cfg(test)]
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.generations.len() - 1 - self.free.len()
    }

    /// Takes an id for a new backend; its generation is [`Self::generation`].
    pub fn take(&mut self, now: Duration) -> Option<BackendId> {
        if let Some(&(at, id)) = self.free.front()
            && at <= now
        {
            self.free.pop_front();
            return Some(id);
        }
        let id = self.generations.len() as u32;
        (id < self.capacity).then(|| {
            self.generations.push(Generation::FIRST);
            BackendId(id)
        })
    }

    /// Returns the generation of the backend that has this id, or will have it next.
    #[must_use]
    pub fn generation(&self, id: BackendId) -> Generation {
        self.generations.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// Frees the id of an ended backend, and changes its generation: flows and affinity entries
    /// that remember the backend must not match the next one.
    pub fn release(&mut self, id: BackendId, now: Duration) {
        if let Some(generation) = self.generations.get_mut(id.0 as usize) {
            *generation = generation.next();
            self.free.push_back((now + QUARANTINE, id));
        }
    }

    /// Returns the time at which the next id becomes free.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        self.free.front().map(|(at, _)| *at)
    }
}

/// Ids of service ports, and which Service owns each. Ids start at 1.
#[derive(Debug, Default)]
pub struct PortIds {
    owners: Vec<ServiceId>,
    free: Vec<ServicePortId>,
}

/// The owner of an id that is free, or that no Service has adopted after a restart.
const NO_OWNER: ServiceId = ServiceId::NODE;

impl PortIds {
    /// Keeps `taken` for [`Self::adopt`].
    #[must_use]
    pub fn new(taken: impl Iterator<Item = ServicePortId>) -> Self {
        let mut ids = Self { owners: vec![NO_OWNER], free: Vec::new() };
        let mut taken: Vec<u32> = taken.map(ServicePortId::get).collect();
        taken.sort_unstable();
        for id in taken {
            while (ids.owners.len() as u32) < id {
                ids.free.push(ServicePortId(ids.owners.len() as u32));
                ids.owners.push(NO_OWNER);
            }
            if ids.owners.len() as u32 == id {
                ids.owners.push(NO_OWNER);
            }
        }
        ids.free.reverse();
        ids
    }

    /// Takes an id for a port of the Service `owner`.
    pub fn take(&mut self, owner: ServiceId) -> ServicePortId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.owners.push(NO_OWNER);
            ServicePortId(self.owners.len() as u32 - 1)
        });
        self.adopt(id, owner);
        id
    }

    /// Notes the owner of an id that is in use.
    pub fn adopt(&mut self, id: ServicePortId, owner: ServiceId) {
        if let Some(o) = self.owners.get_mut(id.0 as usize) {
            *o = owner;
        }
    }

    /// Returns the Service that owns `id`.
    #[must_use]
    pub fn owner(&self, id: ServicePortId) -> Option<ServiceId> {
        self.owners.get(id.0 as usize).copied().filter(|o| *o != NO_OWNER)
    }

    /// Frees an id.
    pub fn release(&mut self, id: ServicePortId) {
        self.adopt(id, NO_OWNER);
        self.free.push(id);
    }

    /// Returns the number of ids in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.owners.len().saturating_sub(1) - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn released_id_is_reused_after_the_quarantine_with_another_generation() {
        let mut ids = BackendIds::new(3, Vec::new(), |_| false, NOW);
        let (first, second) = (BackendId::new(1), BackendId::new(2));
        assert_eq!((ids.take(NOW), ids.take(NOW), ids.take(NOW)), (Some(first), Some(second), None));
        let before = ids.generation(first);
        ids.release(first, NOW);
        assert_eq!(ids.take(NOW), None);
        assert_eq!(ids.take(NOW + QUARANTINE), Some(first));
        assert_ne!(ids.generation(first), before);
    }

    /// The time is that of invariant I2 in ARCHITECTURE.md, not the constant.
    #[test]
    fn released_backend_id_rests_for_five_seconds() {
        let mut ids = BackendIds::new(2, Vec::new(), |_| false, NOW);
        let id = ids.take(NOW).unwrap();
        ids.release(id, NOW);
        assert_eq!(ids.take(NOW + Duration::from_millis(4999)), None);
        assert_eq!(ids.take(NOW + Duration::from_secs(5)), Some(id));
    }

    /// 0 stands for an id that was never used, so the generation after the last one is the first.
    #[test]
    fn generation_wraps_to_the_first() {
        assert_eq!(Generation::new(u32::MAX - 1).next(), Generation::new(u32::MAX));
        assert_eq!(Generation::new(u32::MAX).next(), Generation::FIRST);
    }

    #[test]
    fn ids_in_use_before_a_restart_are_not_allocated() {
        let mut ids = PortIds::new([5, 2].map(ServicePortId::new).into_iter());
        let taken: Vec<_> = (0..4).map(|_| ids.take(ServiceId::new(7)).get()).collect();
        assert_eq!(taken, [1, 3, 4, 6]);
        ids.adopt(ServicePortId::new(5), ServiceId::new(9));
        assert_eq!(
            (ids.owner(ServicePortId::new(5)), ids.owner(ServicePortId::new(2)), ids.used()),
            (Some(ServiceId::new(9)), None, 6)
        );
    }
}
