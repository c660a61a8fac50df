//! Ids of Services, service ports and backends, and the allocation of the latter two.
//!
//! A released backend id rests before it is used again, and gets another generation. The allocator
//! owns both pools; the object store gives out Service ids.

use std::collections::VecDeque;
use std::time::Duration;

/// How long the id of an ended backend rests: a program that read it from a slot finishes long before.
pub const QUARANTINE: Duration = Duration::from_secs(5);

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

    /// Returns the index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Backend ids with their generations. Id 0 is never given out.
#[derive(Debug)]
pub struct BackendIds {
    /// By id, as far as ids were ever used.
    generations: Vec<u32>,
    free: VecDeque<(Duration, u32)>,
    capacity: u32,
}

impl BackendIds {
    /// For an array of `capacity` elements, of which `generations` were used before. `is_free` says which of them are free now.
    #[must_use]
    pub fn new(capacity: u32, mut generations: Vec<u32>, is_free: impl Fn(u32) -> bool, now: Duration) -> Self {
        if generations.is_empty() {
            generations.push(0);
        }
        let free = (1..generations.len() as u32).filter(|id| is_free(*id)).map(|id| (now + QUARANTINE, id)).collect();
        Self { generations, free, capacity }
    }

    /// Ids that are in use or at rest.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.generations.len() as u32 - 1
    }

    /// An id for a new backend, with [`Self::generation`].
    pub fn take(&mut self, now: Duration) -> Option<u32> {
        if let Some(&(at, id)) = self.free.front()
            && at <= now
        {
            self.free.pop_front();
            return Some(id);
        }
        let id = self.generations.len() as u32;
        (id < self.capacity).then(|| {
            self.generations.push(1);
            id
        })
    }

    /// The generation of the backend that has this id, or will have it next.
    #[must_use]
    pub fn generation(&self, id: u32) -> u32 {
        self.generations.get(id as usize).copied().unwrap_or_default()
    }

    /// The backend has ended: what remembers it must no longer match.
    pub fn release(&mut self, id: u32, now: Duration) {
        if let Some(generation) = self.generations.get_mut(id as usize) {
            *generation = generation.wrapping_add(1).max(1);
            self.free.push_back((now + QUARANTINE, id));
        }
    }

    /// When the next id has rested.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        self.free.front().map(|(at, _)| *at)
    }
}

/// Ids of service ports, and which Service owns each. Ids start at 1.
#[derive(Debug, Default)]
pub struct PortIds {
    owners: Vec<ServiceId>,
    free: Vec<u32>,
}

/// The owner of an id that is free, or that no Service has adopted after a restart.
const NOBODY: ServiceId = ServiceId::NODE;

impl PortIds {
    /// Keeps `taken` for [`Self::adopt`].
    #[must_use]
    pub fn new(taken: impl Iterator<Item = u32>) -> Self {
        let mut ids = Self { owners: vec![NOBODY], free: Vec::new() };
        let mut taken: Vec<u32> = taken.collect();
        taken.sort_unstable();
        for id in taken {
            while (ids.owners.len() as u32) < id {
                ids.free.push(ids.owners.len() as u32);
                ids.owners.push(NOBODY);
            }
            if ids.owners.len() as u32 == id {
                ids.owners.push(NOBODY);
            }
        }
        ids.free.reverse();
        ids
    }

    /// An id for a port of the Service `owner`.
    pub fn take(&mut self, owner: ServiceId) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.owners.push(NOBODY);
            self.owners.len() as u32 - 1
        });
        self.adopt(id, owner);
        id
    }

    /// Notes the owner of an id that is in use.
    pub fn adopt(&mut self, id: u32, owner: ServiceId) {
        if let Some(o) = self.owners.get_mut(id as usize) {
            *o = owner;
        }
    }

    /// The Service that owns `id`.
    #[must_use]
    pub fn owner(&self, id: u32) -> Option<ServiceId> {
        self.owners.get(id as usize).copied().filter(|o| *o != NOBODY)
    }

    /// Frees an id.
    pub fn release(&mut self, id: u32) {
        self.adopt(id, NOBODY);
        self.free.push(id);
    }

    /// How many are in use.
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
    fn an_ended_id_rests_and_comes_back_with_another_generation() {
        let mut ids = BackendIds::new(3, Vec::new(), |_| false, NOW);
        assert_eq!((ids.take(NOW), ids.take(NOW), ids.take(NOW)), (Some(1), Some(2), None));
        let before = ids.generation(1);
        ids.release(1, NOW);
        assert_eq!(ids.take(NOW), None);
        assert_eq!(ids.take(NOW + QUARANTINE), Some(1));
        assert_ne!(ids.generation(1), before);
    }

    #[test]
    fn ids_of_before_a_restart_are_not_given_out() {
        let mut ids = PortIds::new([5, 2].into_iter());
        let taken: Vec<_> = (0..4).map(|_| ids.take(ServiceId::new(7))).collect();
        assert_eq!(taken, [1, 3, 4, 6]);
        ids.adopt(5, ServiceId::new(9));
        assert_eq!((ids.owner(5), ids.owner(2), ids.used()), (Some(ServiceId::new(9)), None, 6));
    }
}
