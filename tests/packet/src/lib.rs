//! Loading of the kernel programs without pins and without an agent.
//!
//! The packet tests and the packet benchmark use it. It fills the program array `stages` as the
//! agent does, and opens maps by name. Objects are built by `cargo xtask build`.

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use aya::maps::Map;
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use bytemuck::Pod;
use dataplane_common::types::stage::STAGE_PROGRAMS;
use dataplane_host::map::PinnedMap;
use dataplane_host::verifier::despite_signals;

/// Returns the path of an object: `ropeway`, or `bench` with the programs of the benchmark.
#[must_use]
pub fn object(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("dataplane-ebpf/target/bpfel-unknown-none/release").join(name)
}

/// Loads an object without packet traces, and its stages into the program array.
///
/// # Errors
/// The object is missing, or the kernel refuses it.
pub fn load(name: &str) -> Result<Ebpf> {
    let path = object(name);
    let mut ebpf =
        EbpfLoader::new().override_global("AYA_LOG_LEVEL", &0_u8, true).load_file(&path).with_context(|| {
            format!("cannot load {}: build it with `cargo xtask build`, and run as root", path.display())
        })?;
    let stages: PinnedMap<u32, u32> = table(&ebpf, "stages")?;
    for (index, program) in STAGE_PROGRAMS {
        let stage: &mut SchedClassifier =
            ebpf.program_mut(program).with_context(|| format!("the object has no program {program}"))?.try_into()?;
        despite_signals(|| stage.load())?;
        stages.insert(&index, &stage.fd()?.as_fd().as_raw_fd().cast_unsigned())?;
    }
    Ok(ebpf)
}

/// Opens a map of a loaded object.
///
/// # Errors
/// The object has no such map, or keys or values have other sizes.
pub fn table<K: Pod, V: Pod>(ebpf: &Ebpf, name: &str) -> Result<PinnedMap<K, V>> {
    let Some(
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data)
        | Map::ProgramArray(data),
    ) = ebpf.map(name)
    else {
        bail!("the object has no map {name} of a known kind")
    };
    Ok(PinnedMap::from_fd(name, data.fd().as_fd().try_clone_to_owned()?)?)
}
