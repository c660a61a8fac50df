//! Copies pod entries from the maps of another ABI into this agent's maps, during an upgrade.
//!
//! Only the plugin writes pod entries, and it has written them to the maps of the old ABI. The
//! agent copies them before its programs replace the old ones, so that running pods stay reachable.
//! Entries are copied if their types have kept their sizes; otherwise a warning says that the pods
//! must be recreated. Flows and affinity are not copied. The old maps are never changed.

use std::os::fd::AsFd;
use std::path::Path;

use bytemuck::Pod as Plain;
use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::pod::{AddressInfo, Pod, PodNetns, address_kind, pod_flags};
use dataplane_common::types::service::{FrontendKey, HostPort};
use dataplane_host::map::{MapError, PinnedMap};
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use tracing::{info, warn};

use super::LoadError;
use super::attach::others;
use super::programs::{exists, pin_error};

/// Copies the pods' entries from all other ABIs and returns the number of copied entries.
///
/// # Errors
/// This agent's maps can't be written, or the old ones can't be read.
pub fn migrate_maps(pins: &Pins) -> Result<usize, LoadError> {
    let mut total = 0;
    for dir in others(pins) {
        let maps = dir.join("maps");
        if !exists(&maps)? {
            continue;
        }
        let migrated = copy::<u32, Pod>(pins, &maps, "pods", |p| p.flags & pod_flags::PRESENT != 0)?
            + copy::<V4, AddressInfo>(pins, &maps, "addresses4", |a| a.kind == address_kind::POD)?
            + copy::<V6, AddressInfo>(pins, &maps, "addresses6", |a| a.kind == address_kind::POD)?
            + copy::<u64, PodNetns>(pins, &maps, "pod_netns", |_| true)?
            + copy::<FrontendKey<V4>, HostPort<V4>>(pins, &maps, "host_ports4", |_| true)?
            + copy::<FrontendKey<V6>, HostPort<V6>>(pins, &maps, "host_ports6", |_| true)?;
        info!(from = %dir.display(), entries = migrated, "pod entries copied from the maps of another version");
        total += migrated;
    }
    Ok(total)
}

fn copy<K: Plain, V: Plain>(
    pins: &Pins,
    from: &Path,
    name: &str,
    wanted: impl Fn(&V) -> bool,
) -> Result<usize, LoadError> {
    let path = from.join(name);
    if !exists(&path)? {
        return Ok(0);
    }
    let fd = sys::obj_get(&path).map_err(|source| pin_error("opening", &path, source))?;
    let old = match PinnedMap::<K, V>::from_fd(name, fd) {
        Ok(old) => old,
        Err(e @ MapError::Layout { .. }) => {
            warn!(error = %e, "cannot copy the pods of another version: recreate all pods of this node");
            return Ok(0);
        }
        Err(e) => return Err(e.into()),
    };
    let new = PinnedMap::<K, V>::open(pins, name)?;
    // In an array every key exists, so only the value tells if an entry is in use.
    let is_array = sys::map_info(new.as_fd()).map_err(|source| pin_error("reading", &path, source))?.map_type == ARRAY;
    let mut count = 0;
    for (key, value) in old.entries()?.iter().filter(|(_, value)| wanted(value)) {
        // Entries that this version's plugin has written meanwhile are newer and stay.
        let free = !is_array || new.get(key)?.is_none_or(|present| !wanted(&present));
        let written =
            free && if is_array { new.insert(key, value).map(|()| true)? } else { new.insert_new(key, value)? };
        count += usize::from(written);
    }
    Ok(count)
}

/// `BPF_MAP_TYPE_ARRAY`, in which every element exists from the start.
const ARRAY: u32 = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
