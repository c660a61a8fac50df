//! The service maps in the kernel, behind the traits of the map writer.
//!
//! `open` is called once when the agent starts. Long runs of entries are written in batches.

use bytemuck::Pod;
use dataplane_host::map::{MapError, PinnedMap, SharedArray};
use dataplane_host::pins::Pins;

use super::{ArrayTable, FamilyMaps, HashTable, ServiceMaps};

/// Opens the pinned maps.
///
/// # Errors
/// A pin is missing, or the sizes of a map differ from those of its types.
pub fn open(pins: &Pins) -> Result<ServiceMaps, MapError> {
    Ok(ServiceMaps {
        services: Box::new(PinnedMap::open(pins, "services")?),
        v4: FamilyMaps {
            sources: Box::new(PinnedMap::open(pins, "source_ranges4")?),
            addresses: Box::new(PinnedMap::open(pins, "addresses4")?),
            frontends: Box::new(PinnedMap::open(pins, "frontends4")?),
        },
        v6: FamilyMaps {
            sources: Box::new(PinnedMap::open(pins, "source_ranges6")?),
            addresses: Box::new(PinnedMap::open(pins, "addresses6")?),
            frontends: Box::new(PinnedMap::open(pins, "frontends6")?),
        },
        slots: Box::new(SharedArray::open(pins, "slots")?),
        backends: Box::new(SharedArray::open(pins, "backends")?),
    })
}

/// Most entries that are written one by one: a batch allocates memory in the kernel.
const SINGLE: usize = 2;

impl<K: Pod + Send, V: Pod + Send> HashTable<K, V> for PinnedMap<K, V> {
    fn capacity(&self) -> u32 {
        self.max_entries()
    }

    fn set(&self, keys: &[K], values: &[V]) -> Result<(), (MapError, usize)> {
        if keys.len() > SINGLE {
            return self.insert_batch(keys, values);
        }
        for (i, (key, value)) in keys.iter().zip(values).enumerate() {
            self.insert(key, value).map_err(|e| (e, i))?;
        }
        Ok(())
    }

    fn remove(&self, keys: &[K]) -> Result<(), (MapError, usize)> {
        let mut at = 0;
        while at < keys.len() {
            if keys.len() - at <= SINGLE {
                Self::remove(self, &keys[at]).map_err(|e| (e, at))?;
                at += 1;
                continue;
            }
            match self.remove_batch(&keys[at..]) {
                Ok(()) => return Ok(()),
                Err((MapError::Io { source, .. }, done)) if source.raw_os_error() == Some(ENOENT) => at += done + 1,
                Err((error, done)) => return Err((error, at + done)),
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        Self::entries(self)
    }
}

/// errno of a batch that met a missing key.
const ENOENT: i32 = 2;

impl<V: Pod + Send> ArrayTable<V> for SharedArray<V> {
    fn capacity(&self) -> u32 {
        self.len()
    }

    fn set(&self, base: u32, values: &[V]) -> bool {
        values.iter().zip(base..).fold(true, |all, (value, index)| Self::set(self, index, value) && all)
    }

    fn get(&self, index: u32) -> Option<V> {
        Self::get(self, index)
    }
}
