//! Resizes maps that only the agent writes, while programs use them.
//!
//! A map's size is fixed when it is created. A larger map is therefore created, filled with the old
//! content and pinned in place of the old one. Then the programs are loaded again and replaced one
//! by one, as after an upgrade. Until then they use the old map, which has the same content because
//! the agent writes nothing in between. If the agent dies during a resize, the old map is still
//! pinned as `NAME+before`, and the next agent restores it.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use dataplane_host::map;
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use tracing::{info, warn};

use super::LoadError;
use super::object::Object;
use super::programs::{LoadSettings, clear_marks, exists, load_object, pin_error};

/// Returns the number of entries of a pinned map, or `None` if it is not pinned.
///
/// # Errors
/// The pin can't be opened or is no map.
pub fn entries(pins: &Pins, map: &str) -> Result<Option<u32>, LoadError> {
    let path = pins.map(map);
    if !exists(&path)? {
        return Ok(None);
    }
    let fd = pins.open(&path)?;
    Ok(Some(sys::map_info(fd.as_fd()).map_err(|source| pin_error("reading", &path, source))?.max_entries))
}

/// Replaces pinned maps that are smaller than the settings ask for.
///
/// Clears the marks of loaded programs, so that the programs are loaded again with the new maps.
///
/// # Errors
/// Pins can't be changed, or the kernel has no memory for a larger map; all maps are then as
/// before.
pub(super) fn resize(pins: &Pins, object: &Object, settings: &LoadSettings<'_>) -> Result<(), LoadError> {
    let mut small = Vec::new();
    for &(map, wanted) in settings.resizable {
        put_back(pins, map)?;
        if let Some(present) = entries(pins, map)?.filter(|present| *present < wanted) {
            small.push(map);
            info!(map, from = present, to = wanted, "map resize started");
        }
    }
    if small.is_empty() {
        return Ok(());
    }
    // Without marks the programs are loaded again and get the new maps.
    clear_marks(Some(&pins.directory().join("loaded")))?;
    let resized = replace(pins, object, settings, &small);
    if resized.is_err() {
        for map in &small {
            put_back(pins, map)?;
        }
    }
    resized
}

fn replace(pins: &Pins, object: &Object, settings: &LoadSettings<'_>, maps: &[&str]) -> Result<(), LoadError> {
    for map in maps {
        let path = pins.map(map);
        // Still pinned, so that a crash leaves the old map to the next agent.
        fs::rename(&path, before(pins, map)).map_err(|source| pin_error("renaming", &path, source))?;
    }
    // Loading the object creates the maps that are not pinned.
    drop(load_object(pins, object, settings)?);
    for map in maps {
        // Only the agent writes these maps, so their contents do not change during the copy.
        let (old, new) = (pins.open(&before(pins, map))?, pins.open(&pins.map(map))?);
        map::copy(map, old.as_fd(), new.as_fd())?;
    }
    for map in maps {
        let path = before(pins, map);
        // All new maps are complete: the old ones are not needed for a restart any more.
        fs::remove_file(&path).map_err(|source| pin_error("removing", &path, source))?;
    }
    Ok(())
}

/// Restores the old map of a resize that was interrupted.
fn put_back(pins: &Pins, map: &str) -> Result<(), LoadError> {
    let path = before(pins, map);
    if !exists(&path)? {
        return Ok(());
    }
    warn!(map, "map resize was interrupted: restored the former size");
    fs::rename(&path, pins.map(map)).map_err(|source| pin_error("putting back", &path, source))
}

/// Returns the path at which the old map is pinned during a resize.
fn before(pins: &Pins, map: &str) -> PathBuf {
    pins.map(&format!("{map}+before"))
}
