//! Resizes maps that only the agent writes, while programs use them.
//!
//! The size of a map is fixed when it is created. So a larger map is created, filled with the content and pinned in place
//! of the old one; then the programs are loaded again and replaced one by one, as for another build. Until then they use
//! the old map, which has the same content, because nothing else is written in between. If the agent dies in between, the
//! old map is still pinned under another name, and the next agent restores it.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use dataplane_host::map;
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use tracing::{info, warn};

use super::LoadError;
use super::object::Object;
use super::programs::{LoadSettings, clear_marks, load_object, pin_error};

/// Entries of a pinned map; `None`: there is none.
///
/// # Errors
/// The pin is damaged.
pub fn entries(pins: &Pins, map: &str) -> Result<Option<u32>, LoadError> {
    let path = pins.map(map);
    if !path.exists() {
        return Ok(None);
    }
    let fd = pins.open(&path)?;
    Ok(Some(sys::map_info(fd.as_fd()).map_err(|source| pin_error("reading", &path, source))?.max_entries))
}

/// Makes the pinned maps that are smaller than they should be larger. The programs must then be loaded again, and no mark says that they need not.
///
/// # Errors
/// Pins can't be changed, or the kernel has no memory for a larger map; all maps are then as before.
pub(super) fn resize(pins: &Pins, object: &Object, settings: &LoadSettings<'_>) -> Result<(), LoadError> {
    let mut small = Vec::new();
    for &(map, wanted) in settings.growing {
        put_back(pins, map)?;
        if let Some(present) = entries(pins, map)?.filter(|present| *present < wanted) {
            small.push(map);
            info!(map, from = present, to = wanted, "map resize started");
        }
    }
    if small.is_empty() {
        return Ok(());
    }
    clear_marks(Some(&pins.directory().join("loaded")))?;
    let grown = replace(pins, object, settings, &small);
    if grown.is_err() {
        for map in &small {
            put_back(pins, map)?;
        }
    }
    grown
}

fn replace(pins: &Pins, object: &Object, settings: &LoadSettings<'_>, maps: &[&str]) -> Result<(), LoadError> {
    for map in maps {
        let path = pins.map(map);
        fs::rename(&path, before(pins, map)).map_err(|source| pin_error("renaming", &path, source))?;
    }
    // makes what is not pinned
    drop(load_object(pins, object, settings)?);
    for map in maps {
        let (old, new) = (pins.open(&before(pins, map))?, pins.open(&pins.map(map))?);
        map::copy(map, old.as_fd(), new.as_fd())?;
    }
    for map in maps {
        let path = before(pins, map);
        fs::remove_file(&path).map_err(|source| pin_error("removing", &path, source))?;
    }
    Ok(())
}

/// Undoes what was begun for a map and not finished.
fn put_back(pins: &Pins, map: &str) -> Result<(), LoadError> {
    let path = before(pins, map);
    if !path.exists() {
        return Ok(());
    }
    warn!(map, "map resize was interrupted: restored the former size");
    fs::rename(&path, pins.map(map)).map_err(|source| pin_error("putting back", &path, source))
}

/// Where the map of before is pinned meanwhile.
fn before(pins: &Pins, map: &str) -> PathBuf {
    pins.map(&format!("{map}+before"))
}
