//! Maps of the kinds and flags that the programs declare, large enough for the benchmark.
//!
//! They are not pinned, so they disappear with the process.

use std::os::fd::OwnedFd;

use bytemuck::Pod;
use dataplane_common::types::address::{Prefix, V4, V6};
use dataplane_common::types::pod::AddressInfo;
use dataplane_common::types::service::{Backend, Frontend, FrontendKey, ServiceName, Slot, SourceRange};
use dataplane_host::map::{PinnedMap, SharedArray};
use dataplane_host::sys::create_map;
use dataplane_user::proxy::apply::{FamilyMaps, ServiceMaps};

const HASH: u32 = 1;
const LPM_TRIE: u32 = 11;
const ARRAY: u32 = 2;
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1024;
const HASH_ENTRIES: u32 = 131_072;
const ARRAY_ENTRIES: u32 = 262_144;

pub(crate) struct Maps {
    pub services: OwnedFd,
    pub frontends4: OwnedFd,
    frontends6: OwnedFd,
    sources4: OwnedFd,
    sources6: OwnedFd,
    pub addresses4: OwnedFd,
    addresses6: OwnedFd,
    slots: OwnedFd,
    backends: OwnedFd,
}

fn hash<K, V>() -> OwnedFd {
    create_map(HASH, size_of::<K>() as u32, size_of::<V>() as u32, HASH_ENTRIES, NO_PREALLOC).unwrap()
}

fn trie<K>() -> OwnedFd {
    create_map(LPM_TRIE, size_of::<K>() as u32, 4, 65_536, NO_PREALLOC).unwrap()
}

fn array<V>() -> OwnedFd {
    create_map(ARRAY, 4, size_of::<V>() as u32, ARRAY_ENTRIES, MMAPABLE).unwrap()
}

impl Maps {
    pub(crate) fn create() -> Self {
        Self {
            services: hash::<u32, ServiceName>(),
            frontends4: hash::<FrontendKey<V4>, Frontend>(),
            frontends6: hash::<FrontendKey<V6>, Frontend>(),
            sources4: trie::<Prefix<SourceRange<V4>>>(),
            sources6: trie::<Prefix<SourceRange<V6>>>(),
            addresses4: hash::<V4, AddressInfo>(),
            addresses6: hash::<V6, AddressInfo>(),
            slots: array::<Slot>(),
            backends: array::<Backend>(),
        }
    }

    pub(crate) fn tables(&self) -> ServiceMaps {
        ServiceMaps {
            services: Box::new(table::<u32, ServiceName>("services", &self.services)),
            v4: FamilyMaps {
                sources: Box::new(table::<Prefix<SourceRange<V4>>, u32>("source_ranges4", &self.sources4)),
                addresses: Box::new(table::<V4, AddressInfo>("addresses4", &self.addresses4)),
                frontends: Box::new(table::<FrontendKey<V4>, Frontend>("frontends4", &self.frontends4)),
            },
            v6: FamilyMaps {
                sources: Box::new(table::<Prefix<SourceRange<V6>>, u32>("source_ranges6", &self.sources6)),
                addresses: Box::new(table::<V6, AddressInfo>("addresses6", &self.addresses6)),
                frontends: Box::new(table::<FrontendKey<V6>, Frontend>("frontends6", &self.frontends6)),
            },
            slots: Box::new(self.slots()),
            backends: Box::new(self.backends()),
        }
    }

    /// Maps the array into memory, as the agent does.
    pub(crate) fn slots(&self) -> SharedArray<Slot> {
        SharedArray::from_fd("slots", self.slots.try_clone().unwrap()).unwrap()
    }

    /// Maps the array into memory, as the agent does.
    pub(crate) fn backends(&self) -> SharedArray<Backend> {
        SharedArray::from_fd("backends", self.backends.try_clone().unwrap()).unwrap()
    }
}

pub(crate) fn table<K: Pod, V: Pod>(name: &str, fd: &OwnedFd) -> PinnedMap<K, V> {
    PinnedMap::from_fd(name, fd.try_clone().unwrap()).unwrap()
}
