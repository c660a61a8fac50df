//! The programs as the packet tests and the packet benchmark load them: without pins, without an agent.

use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use aya::maps::Map;
use aya::{Ebpf, EbpfLoader};
use bytemuck::Pod;
use dataplane_host::map::Table;

/// Where `cargo xtask build` leaves an object: `ropeway`, or `bench` with the programs of the benchmark.
#[must_use]
pub fn object(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("dataplane-ebpf/target/bpfel-unknown-none/release").join(name)
}

/// Loads an object, with packet traces off.
///
/// # Errors
/// The object is missing or the kernel refuses.
pub fn load(name: &str) -> Result<Ebpf> {
    let path = object(name);
    EbpfLoader::new()
        .override_global("AYA_LOG_LEVEL", &0_u8, true)
        .load_file(&path)
        .with_context(|| format!("{}: `cargo xtask build` makes it; loading it needs root", path.display()))
}

/// Opens a map of a loaded object.
///
/// # Errors
/// There is no such map, or it has other sizes.
pub fn table<K: Pod, V: Pod>(ebpf: &Ebpf, name: &str) -> Result<Table<K, V>> {
    let Some(Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuArray(data)) = ebpf.map(name)
    else {
        bail!("the object has no hash or array map {name}")
    };
    Ok(Table::from_fd(name, data.fd().as_fd().try_clone_to_owned()?)?)
}
