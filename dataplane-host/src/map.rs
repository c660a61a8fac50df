//! Typed handles of BPF maps: single entries, batches, per-CPU arrays and arrays in shared memory.
//!
//! Agent, plugin and command line open pinned maps by name ([`PinnedMap::open`]); the loader wraps
//! descriptors that it has just created. A handle checks at opening that the map's key and value
//! sizes are those of its types, so that no later call can hand the kernel a short buffer. Which
//! maps exist is decided in dataplane-common.

use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use bytemuck::Pod;

use crate::pins::{PinError, Pins};
use crate::sys::{self, SharedWords, uapi};

/// The reason why a map operation failed. Each variant names the map.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are named in the messages")]
pub enum MapError {
    /// The pin can't be opened.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The map's key or value size differs from the handle's types.
    #[error("map {name}: key of {key} bytes and value of {value} bytes, expected {expected_key} and {expected_value}")]
    Layout {
        name: String,
        /// The map's key size.
        key: u32,
        /// The map's value size.
        value: u32,
        expected_key: usize,
        expected_value: usize,
    },
    /// The map is full.
    #[error("map {name} is full")]
    Full { name: String },
    /// Another error of bpf(2).
    #[error("map {name}: {source}")]
    Io { name: String, source: io::Error },
}

impl MapError {
    fn new(name: &str, source: io::Error) -> Self {
        let name = name.to_owned();
        match source.raw_os_error() {
            // Hash maps return E2BIG when full, LPM tries ENOSPC (kernel/bpf/lpm_trie.c,
            // trie_update_elem).
            Some(libc::E2BIG | libc::ENOSPC) => Self::Full { name },
            _ => Self::Io { name, source },
        }
    }
}

/// A hash, array or trie map with keys `K` and values `V`.
#[derive(Debug)]
pub struct PinnedMap<K, V> {
    name: String,
    fd: OwnedFd,
    max_entries: u32,
    types: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> PinnedMap<K, V> {
    /// Opens the pinned map `name`.
    ///
    /// # Errors
    /// The pin is missing or the map has other sizes.
    pub fn open(pins: &Pins, name: &str) -> Result<Self, MapError> {
        Self::from_fd(name, pins.open(&pins.map(name))?)
    }

    /// Creates a handle from an open descriptor.
    ///
    /// # Errors
    /// The map has other sizes.
    pub fn from_fd(name: &str, fd: OwnedFd) -> Result<Self, MapError> {
        let info = sys::map_info(fd.as_fd()).map_err(|e| MapError::new(name, e))?;
        if (info.key_size as usize, info.value_size as usize) != (size_of::<K>(), size_of::<V>()) {
            return Err(MapError::Layout {
                name: name.into(),
                key: info.key_size,
                value: info.value_size,
                expected_key: size_of::<K>(),
                expected_value: size_of::<V>(),
            });
        }
        Ok(Self { name: name.into(), fd, max_entries: info.max_entries, types: PhantomData })
    }

    /// Returns the map's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of entries that the map can hold.
    #[must_use]
    pub const fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// Returns the value of `key`; `None` if the map has no such key.
    ///
    /// # Errors
    /// Those of `BPF_MAP_LOOKUP_ELEM`, except `ENOENT`.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        let mut value = V::zeroed();
        self.found(sys::lookup(self.fd.as_fd(), bytemuck::bytes_of(key), bytemuck::bytes_of_mut(&mut value)))
            .map(|found| found.then_some(value))
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// The map is full, or the kernel refused.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), MapError> {
        self.write(key, value, uapi::BPF_ANY).map_err(|e| MapError::new(&self.name, e))
    }

    /// Sets the value of `key` unless it has one. Returns whether it was set.
    ///
    /// # Errors
    /// The map is full, or the kernel refused.
    pub fn insert_new(&self, key: &K, value: &V) -> Result<bool, MapError> {
        match self.write(key, value, uapi::BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(MapError::new(&self.name, e)),
        }
    }

    /// Removes `key`. Returns whether the map had it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, key: &K) -> Result<bool, MapError> {
        self.found(sys::delete(self.fd.as_fd(), bytemuck::bytes_of(key)))
    }

    /// Sets many values in one system call. An error comes with the number of values set before it.
    ///
    /// # Errors
    /// The map is full, or the kernel refused.
    pub fn insert_batch(&self, keys: &[K], values: &[V]) -> Result<(), (MapError, usize)> {
        let count = keys.len().min(values.len());
        if count == 0 {
            return Ok(());
        }
        sys::update_batch(self.fd.as_fd(), count, bytemuck::cast_slice(keys), bytemuck::cast_slice(values))
            .map_err(|(e, n)| (MapError::new(&self.name, e), n))
    }

    /// Removes many keys in one system call. An error comes with the number of keys removed before
    /// it.
    ///
    /// # Errors
    /// A key is not there (`ENOENT`), or the kernel refused.
    pub fn remove_batch(&self, keys: &[K]) -> Result<(), (MapError, usize)> {
        if keys.is_empty() {
            return Ok(());
        }
        sys::delete_batch(self.fd.as_fd(), keys.len(), bytemuck::cast_slice(keys))
            .map_err(|(e, n)| (MapError::new(&self.name, e), n))
    }

    /// Returns all entries of a hash map or LPM trie. Entries added or removed during the call may
    /// be missing or present.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        let mut all = Vec::new();
        self.for_each(|key, value| all.push((key, value)))?;
        Ok(all)
    }

    /// Calls `each` with every entry of a hash map or LPM trie, holding one batch in memory.
    /// Entries added or removed during the call may be missing or present.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn for_each(&self, mut each: impl FnMut(K, V)) -> Result<(), MapError> {
        in_batches(&self.name, self.fd.as_fd(), |keys, values, _| {
            let values = values.chunks_exact(size_of::<V>()).map(bytemuck::pod_read_unaligned);
            keys.chunks_exact(size_of::<K>())
                .map(bytemuck::pod_read_unaligned)
                .zip(values)
                .for_each(|(k, v)| each(k, v));
            Ok(())
        })
    }

    fn write(&self, key: &K, value: &V, flags: u64) -> io::Result<()> {
        sys::update(self.fd.as_fd(), bytemuck::bytes_of(key), bytemuck::bytes_of(value), flags)
    }

    fn found(&self, result: io::Result<()>) -> Result<bool, MapError> {
        match result {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(MapError::new(&self.name, e)),
        }
    }
}

impl<K, V> AsFd for PinnedMap<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Counts the entries of a hash map of any types. Entries added or removed during the call may or
/// may not be counted.
///
/// # Errors
/// The pin is missing or the kernel refused.
pub fn count(pins: &Pins, name: &str) -> Result<usize, MapError> {
    let mut total = 0;
    in_batches(name, pins.open(&pins.map(name))?.as_fd(), |_, _, count| {
        total += count;
        Ok(())
    })?;
    Ok(total)
}

/// Copies all entries of a map into one with the same types.
///
/// # Errors
/// The other map has other sizes or is full, or the kernel refused.
pub fn copy(name: &str, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), MapError> {
    let [old, new] = [from, to].map(|fd| sys::map_info(fd).map_err(|e| MapError::new(name, e)));
    let (old, new) = (old?, new?);
    if (old.map_type, old.key_size, old.value_size) != (new.map_type, new.key_size, new.value_size) {
        return Err(MapError::Layout {
            name: name.into(),
            key: new.key_size,
            value: new.value_size,
            expected_key: old.key_size as usize,
            expected_value: old.value_size as usize,
        });
    }
    in_batches(name, from, |keys, values, count| {
        sys::update_batch(to, count, keys, values).map_err(|(e, _)| MapError::new(name, e))
    })
}

/// Calls `each` with keys, values and their number, batch by batch. A batch that does not fit
/// doubles the buffer.
fn in_batches(
    name: &str,
    map: BorrowedFd<'_>,
    mut each: impl FnMut(&[u8], &[u8], usize) -> Result<(), MapError>,
) -> Result<(), MapError> {
    let info = sys::map_info(map).map_err(|e| MapError::new(name, e))?;
    let key_size = info.key_size as usize;
    let value_size = match info.map_type {
        uapi::BPF_MAP_TYPE_PERCPU_ARRAY => {
            (info.value_size as usize).next_multiple_of(8) * possible_cpus().map_err(|e| MapError::new(name, e))?
        }
        _ => info.value_size as usize,
    };
    let mut size = 4096;
    let mut position = None;
    loop {
        let (mut keys, mut values) = (vec![0; size * key_size], vec![0; size * value_size]);
        match sys::lookup_batch(map, &mut position, size, &mut keys, &mut values) {
            Ok((count, last)) => {
                each(&keys[..count * key_size], &values[..count * value_size], count)?;
                if last {
                    return Ok(());
                }
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && size < 1 << 20 => size *= 2,
            Err(e) => return Err(MapError::new(name, e)),
        }
    }
}

/// A per-CPU array with values `V` of a multiple of 8 bytes.
#[derive(Debug)]
pub struct PerCpuMap<V> {
    table: PinnedMap<u32, V>,
    cpus: usize,
}

impl<V: Pod> PerCpuMap<V> {
    /// Opens the pinned map `name`.
    ///
    /// # Errors
    /// The pin is missing or the map has other sizes.
    pub fn open(pins: &Pins, name: &str) -> Result<Self, MapError> {
        let cpus = possible_cpus().map_err(|e| MapError::new(name, e))?;
        Ok(Self { table: PinnedMap::open(pins, name)?, cpus })
    }

    /// Returns the value at `index` of every possible CPU.
    ///
    /// # Errors
    /// The kernel refused, or `index` is beyond the end.
    pub fn get(&self, index: u32) -> Result<Vec<V>, MapError> {
        let mut values = vec![V::zeroed(); self.cpus];
        sys::lookup(self.table.fd.as_fd(), bytemuck::bytes_of(&index), bytemuck::cast_slice_mut(&mut values))
            .map_err(|e| MapError::new(&self.table.name, e))?;
        Ok(values)
    }
}

/// An array map that is mapped into this process: reads and writes need no system call.
#[derive(Debug)]
pub struct SharedArray<V> {
    memory: SharedWords,
    len: u32,
    types: PhantomData<V>,
}

impl<V: Pod> SharedArray<V> {
    const WORDS: usize = size_of::<V>() / 4;
    const STRIDE: usize = size_of::<V>().next_multiple_of(8) / 4;

    /// Opens the pinned map `name`.
    ///
    /// # Errors
    /// The pin is missing, the map has other sizes or is not mmap-able.
    pub fn open(pins: &Pins, name: &str) -> Result<Self, MapError> {
        Self::from_fd(name, pins.open(&pins.map(name))?)
    }

    /// Creates a handle from an open descriptor.
    ///
    /// # Errors
    /// The map has other sizes or is not mmap-able.
    pub fn from_fd(name: &str, fd: OwnedFd) -> Result<Self, MapError> {
        const { assert!(size_of::<V>().is_multiple_of(4)) };
        let table = PinnedMap::<u32, V>::from_fd(name, fd)?;
        let memory = SharedWords::map(table.as_fd()).map_err(|e| MapError::new(name, e))?;
        Ok(Self { memory, len: table.max_entries(), types: PhantomData })
    }

    /// Returns the number of elements.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Returns whether the array has no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the element at `index`; `None` beyond the end.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<V> {
        let mut value = V::zeroed();
        let words = self.memory.words().get(index as usize * Self::STRIDE..)?.get(..Self::WORDS)?;
        for (to, from) in bytemuck::bytes_of_mut(&mut value).chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&from.load(Ordering::Relaxed).to_ne_bytes());
        }
        Some(value)
    }

    /// Sets the element at `index`, one 32-bit word at a time. Returns whether the array has that
    /// index. A program that reads at the same time may see a mixture of old and new words: publish
    /// an element only after it is complete, and change at most one word of a published element.
    pub fn set(&self, index: u32, value: &V) -> bool {
        let words = self.memory.words().get(index as usize * Self::STRIDE..).and_then(|w| w.get(..Self::WORDS));
        let Some(words) = words else { return false };
        for (from, to) in bytemuck::bytes_of(value).chunks_exact(4).zip(words) {
            let mut word = [0; 4];
            word.copy_from_slice(from);
            to.store(u32::from_ne_bytes(word), Ordering::Release);
        }
        true
    }
}

/// Returns the number of possible CPUs. Per-CPU maps have a value for each, online or not.
fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|n| n.parse::<usize>().ok());
    last.map(|n| n + 1).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("possible CPUs: {text:?}")))
}
