//! Loads maps and programs once and pins them, so that the next agent adopts them.
//!
//! Pins lie in `maps`, `programs` and `loaded` of the ABI's directory. A directory in `loaded`,
//! named after the fingerprint of object and settings, marks programs that need not be loaded
//! again. New programs are pinned as `NAME+next` and renamed over the old pins after all of them
//! have passed the verifier. Attaching is the task of [`super::attach`].

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::bpf_attach_type::{
    BPF_CGROUP_INET_SOCK_RELEASE, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_CONNECT,
    BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_UDP4_RECVMSG, BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_RECVMSG,
    BPF_CGROUP_UDP6_SENDMSG,
};
use dataplane_common::types::abi;
use dataplane_common::types::stage::STAGE_PROGRAMS;
use dataplane_host::map::PinnedMap;
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use dataplane_host::verifier::despite_signals;
use tracing::{debug, info, warn};

use super::object::Object;
use super::{LoadError, resize};

/// Programs of network devices (pods and uplinks).
pub const DEVICE_PROGRAMS: [&str; 4] = ["from_pod", "to_pod", "from_uplink", "to_uplink"];

/// The program that returns the kernel's jiffies.
pub const CLOCK: &str = "clock";

/// Cgroup programs with their `enum bpf_attach_type`, in the order in which they are attached.
///
/// `getpeer` and `recvmsg` come before `connect` and `sendmsg`: a socket must not be translated
/// while the hook that shows it the frontend is missing. `release` comes first, or connections that
/// the others count would never be subtracted.
pub const SOCKET_PROGRAMS: [(&str, u32); 9] = [
    ("sock_release", BPF_CGROUP_INET_SOCK_RELEASE as u32),
    ("sock_getpeer4", BPF_CGROUP_INET4_GETPEERNAME as u32),
    ("sock_getpeer6", BPF_CGROUP_INET6_GETPEERNAME as u32),
    ("sock_recvmsg4", BPF_CGROUP_UDP4_RECVMSG as u32),
    ("sock_recvmsg6", BPF_CGROUP_UDP6_RECVMSG as u32),
    ("sock_connect4", BPF_CGROUP_INET4_CONNECT as u32),
    ("sock_connect6", BPF_CGROUP_INET6_CONNECT as u32),
    ("sock_sendmsg4", BPF_CGROUP_UDP4_SENDMSG as u32),
    ("sock_sendmsg6", BPF_CGROUP_UDP6_SENDMSG as u32),
];

/// Returns the names of all programs.
pub fn all() -> impl Iterator<Item = &'static str> {
    let stages = STAGE_PROGRAMS.map(|(_, name)| name);
    stages.into_iter().chain(DEVICE_PROGRAMS).chain(SOCKET_PROGRAMS.map(|(name, _)| name)).chain([CLOCK])
}

/// A program that was opened from its pin.
#[derive(Debug)]
pub struct Pinned {
    /// The open file descriptor.
    pub fd: OwnedFd,
    /// The program id that this kernel has assigned.
    pub id: u32,
}

/// All programs, opened from their pins.
#[derive(Debug)]
pub struct Programs {
    by_name: BTreeMap<&'static str, Pinned>,
    /// Number of map and program pins that were written; 0 if the previous agent's were adopted.
    pub operations: usize,
    /// The loaded object if tracing is on: its log messages are read from it.
    pub traced: Option<Ebpf>,
}

impl Programs {
    /// Returns the program `name`.
    ///
    /// # Errors
    /// No program has this name.
    pub fn get(&self, name: &str) -> Result<&Pinned, LoadError> {
        self.by_name.get(name).ok_or_else(|| LoadError::NoProgram { program: name.into(), kind: "pinned" })
    }

    /// Returns the ids of all programs.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.by_name.values().map(|program| program.id)
    }

    /// Opens the pins of all programs.
    ///
    /// # Errors
    /// A pin is missing or can't be used.
    pub fn open(pins: &Pins) -> Result<Self, LoadError> {
        let open = |name| {
            let path = pins.program(name);
            let fd = pins.open(&path)?;
            let id = sys::program_info(fd.as_fd()).map_err(|source| pin_error("reading", &path, source))?.id;
            Ok((name, Pinned { fd, id }))
        };
        let by_name = all().map(open).collect::<Result<_, LoadError>>()?;
        Ok(Self { by_name, operations: 0, traced: None })
    }
}

/// Settings that decide how programs and maps are created.
#[derive(Debug)]
pub struct LoadSettings<'a> {
    /// Compile log messages into the programs.
    pub trace: bool,
    /// Maps that are never resized: name and number of entries.
    pub fixed: &'a [(&'static str, u32)],
    /// Sizes of maps that can be resized. Smaller pinned maps are replaced by larger ones; larger
    /// ones stay.
    pub resizable: &'a [(&'static str, u32)],
}

/// Loads and pins the maps and programs of `object`, or adopts the pins if they are up to date.
///
/// After a failure all new files and directories are removed; pins that existed before stay
/// unchanged.
///
/// # Errors
/// The object does not fit this ABI, the kernel rejects a map or a program, or a pin can't be
/// created.
pub fn load(pins: &Pins, object: &Object, settings: &LoadSettings<'_>) -> Result<Programs, LoadError> {
    let mark = pins.directory().join("loaded").join(object.fingerprint(settings.trace));
    let mut rollback = Rollback::default();
    for dir in ["maps", "programs", "links", "loaded"] {
        rollback.make_dir(&pins.directory().join(dir))?;
    }
    if let Err(e) = resize::resize(pins, object, settings) {
        warn!(error = %e, "map resize failed: the maps keep their sizes");
    }
    let complete = abi::MAPS.iter().all(|m| pins.map(m).exists());
    // Tracing needs the `Ebpf` value of a fresh load: the log is read through it.
    if complete && !settings.trace && mark.is_dir() {
        match Programs::open(pins) {
            Ok(programs) => {
                rollback.keep();
                check_sizes(pins, settings.fixed)?;
                let operations = link_stages(pins, &programs)?;
                debug!("the pinned programs are those of this build");
                return Ok(Programs { operations, ..programs });
            }
            Err(e) => warn!(error = %e, "a pinned program is damaged: loading all programs again"),
        }
    }
    // Loading may fail half-way: register the files that it would leave behind.
    let new_maps = abi::MAPS.iter().filter(|m| !pins.map(m).exists()).count();
    for map in abi::MAPS {
        rollback.expect_file(pins.map(map));
    }
    let mut ebpf = load_object(pins, object, settings)?;
    check_sizes(pins, settings.fixed)?;
    // Pinned under temporary names, because the verifier may still reject the last program.
    let mut verified = Vec::new();
    for name in all() {
        verify(&mut ebpf, name)?;
        let path = pins.program(name);
        let next = path.with_file_name(format!("{name}+next"));
        remove_file(&next)?;
        rollback.expect_file(next.clone());
        let program = ebpf.program_mut(name).ok_or_else(|| no_program(name))?;
        program.pin(&next).map_err(|e| pin_error("pinning", &next, io::Error::other(e)))?;
        verified.push((next, path));
    }
    // From here on old and new programs work with these maps, so nothing is rolled back.
    rollback.keep();
    // The old mark goes first: an agent that is killed between the renames must load again.
    clear_marks(mark.parent())?;
    for (next, path) in &verified {
        fs::rename(next, path).map_err(|source| pin_error("replacing", path, source))?;
    }
    let programs = Programs::open(pins)?;
    let operations = new_maps + verified.len() + link_stages(pins, &programs)?;
    // Last, because the mark promises that all of the above is complete.
    make_dir(&mark)?;
    info!(programs = verified.len(), new_maps, "programs loaded");
    Ok(Programs { operations, traced: settings.trace.then_some(ebpf), ..programs })
}

/// Fills the tail-call array `stages`. Called before any packet program is attached.
///
/// The array is pinned, which keeps the stage programs loaded without an agent.
fn link_stages(pins: &Pins, programs: &Programs) -> Result<usize, LoadError> {
    // A program array is read as program ids and written as descriptors.
    let stages = PinnedMap::<u32, u32>::open(pins, "stages")?;
    let mut operations = 0;
    for (index, name) in STAGE_PROGRAMS {
        let program = programs.get(name)?;
        if stages.get(&index)? != Some(program.id) {
            stages.insert(&index, &program.fd.as_raw_fd().cast_unsigned())?;
            operations += 1;
        }
    }
    Ok(operations)
}

pub(super) fn load_object(pins: &Pins, object: &Object, settings: &LoadSettings<'_>) -> Result<Ebpf, LoadError> {
    // The level is read-only data: with 0 the verifier removes the log messages as dead code.
    let level = if settings.trace { aya_log::Level::Trace as u8 } else { 0 };
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, true);
    for map in abi::MAPS {
        loader.map_pin_path(map, pins.map(map));
    }
    for &(map, size) in settings.fixed.iter().chain(settings.resizable) {
        loader.map_max_entries(map, size);
    }
    let ebpf = loader.load(object.bytes()).map_err(|source| LoadError::Object { source: Box::new(source) })?;
    match abi::MAPS.iter().find(|map| ebpf.map(map).is_none()) {
        Some(map) => Err(LoadError::NoMap { map }),
        None => Ok(ebpf),
    }
}

/// Loads a program, which runs the kernel's verifier.
fn verify(ebpf: &mut Ebpf, name: &str) -> Result<(), LoadError> {
    let loaded = match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(p)) => despite_signals(|| p.load()),
        Some(Program::CgroupSockAddr(p)) => despite_signals(|| p.load()),
        Some(Program::CgroupSock(p)) => despite_signals(|| p.load()),
        _ => return Err(no_program(name)),
    };
    loaded.map_err(|source| LoadError::Program { program: name.into(), source: Box::new(source) })
}

/// Warns of maps that have another size than the settings ask for: a map's size can't be changed.
fn check_sizes(pins: &Pins, sizes: &[(&'static str, u32)]) -> Result<(), LoadError> {
    for &(map, wanted) in sizes {
        if let Some(size) = resize::entries(pins, map)?.filter(|size| *size != wanted) {
            warn!(map, size, wanted, "an existing map keeps its size until `ropeway uninstall`");
        }
    }
    Ok(())
}

pub(super) fn clear_marks(dir: Option<&Path>) -> Result<(), LoadError> {
    let Some(dir) = dir else { return Ok(()) };
    let entries = fs::read_dir(dir).map_err(|source| pin_error("reading", dir, source))?;
    for entry in entries {
        let path = entry.map_err(|source| pin_error("reading", dir, source))?.path();
        fs::remove_dir(&path).map_err(|source| pin_error("removing", &path, source))?;
    }
    Ok(())
}

fn no_program(name: &str) -> LoadError {
    let kind = match name {
        "sock_release" => "cgroup/sock_release",
        _ if name.starts_with("sock_") => "cgroup/sock_addr",
        _ => "classifier",
    };
    LoadError::NoProgram { program: name.into(), kind }
}

pub(super) fn pin_error(what: &'static str, path: &Path, source: io::Error) -> LoadError {
    LoadError::Pin { what, path: path.into(), source }
}

/// Returns whether there is a pin.
///
/// # Errors
/// The directory can't be read.
pub(super) fn exists(path: &Path) -> Result<bool, LoadError> {
    path.try_exists().map_err(|source| pin_error("reading", path, source))
}

pub(super) fn remove_file(path: &Path) -> Result<(), LoadError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(pin_error("removing", path, source)),
        _ => Ok(()),
    }
}

fn make_dir(path: &Path) -> Result<(), LoadError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| pin_error("making", path, source))
}

/// Pins `object` at `path`. The rename replaces an existing pin atomically.
pub(super) fn pin_over(object: BorrowedFd<'_>, path: &Path) -> Result<(), LoadError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let next = path.with_file_name(format!("{name}+next"));
    remove_file(&next)?;
    // BPF_OBJ_PIN rejects an existing name, but rename(2) replaces one.
    sys::obj_pin(object, &next).map_err(|source| pin_error("pinning", &next, source))?;
    fs::rename(&next, path).map_err(|source| pin_error("replacing", path, source))
}

/// Removes new files and directories when it is dropped, unless `keep` was called.
#[derive(Default)]
struct Rollback {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Rollback {
    fn make_dir(&mut self, path: &Path) -> Result<(), LoadError> {
        // With all missing ancestors, so that a rollback removes the pin root as well.
        let missing: Vec<_> = path.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect();
        self.dirs.extend(missing.into_iter().rev());
        make_dir(path)
    }

    /// Registers a file that is about to be created. An existing file is never removed.
    fn expect_file(&mut self, path: PathBuf) {
        if !path.exists() {
            self.files.push(path);
        }
    }

    fn keep(&mut self) {
        self.files.clear();
        self.dirs.clear();
    }
}

impl Drop for Rollback {
    fn drop(&mut self) {
        let failed = |path: &Path, result: io::Result<()>| match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                warn!(path = %path.display(), error = %e, "rollback failed: remove this path by hand");
            }
            _ => {}
        };
        // Files before directories, inner directories before outer ones.
        for path in &self.files {
            failed(path, fs::remove_file(path));
        }
        for path in self.dirs.iter().rev() {
            failed(path, fs::remove_dir(path));
        }
    }
}
