//! Maps and programs: loaded once, pinned, adopted by the next agent.

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
use dataplane_host::map::Table;
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use dataplane_host::verifier::despite_signals;
use tracing::{debug, info, warn};

use super::object::Object;
use super::{LoadError, resize};

/// The programs of network devices.
pub const DEVICE_PROGRAMS: [&str; 4] = ["from_pod", "to_pod", "from_uplink", "to_uplink"];

/// The program that reads the kernel's clock.
pub const CLOCK: &str = "clock";

/// The programs of the cgroup with their `enum bpf_attach_type`; the views come before the translations, so that no socket
/// is translated that would not be shown the frontend, and the end before both, so that none is counted for ever.
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

/// The names of all programs.
pub fn all() -> impl Iterator<Item = &'static str> {
    let stages = STAGE_PROGRAMS.map(|(_, name)| name);
    stages.into_iter().chain(DEVICE_PROGRAMS).chain(SOCKET_PROGRAMS.map(|(name, _)| name)).chain([CLOCK])
}

/// A pinned program.
#[derive(Debug)]
pub struct Pinned {
    /// Its descriptor.
    pub fd: OwnedFd,
    /// Its number in this kernel.
    pub id: u32,
}

/// All programs, pinned.
#[derive(Debug)]
pub struct Programs {
    by_name: BTreeMap<&'static str, Pinned>,
    /// How many pins of maps and programs were written: 0 when the predecessor's were right.
    pub operations: usize,
    /// With tracing: the object, whose log is read from it.
    pub traced: Option<Ebpf>,
}

impl Programs {
    /// The program `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> Result<&Pinned, LoadError> {
        self.by_name.get(name).ok_or_else(|| LoadError::NoProgram { program: name.into(), kind: "pinned" })
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

/// What decides how programs and maps are made.
#[derive(Debug)]
pub struct LoadSettings<'a> {
    /// Programs with log messages.
    pub trace: bool,
    /// Sizes of maps that keep the size with which they are made.
    pub fixed: &'a [(&'static str, u32)],
    /// Sizes of maps that grow: those that are smaller are replaced by larger ones, those that are larger stay.
    pub growing: &'a [(&'static str, u32)],
}

/// Sees to it that the maps and programs of `object` are pinned, and does nothing if they are.
///
/// What was made before a failure is removed again; pins that were there stay as they were.
///
/// # Errors
/// The object does not fit, the kernel refuses a map or a program, a pin can't be made.
pub fn load(pins: &Pins, object: &Object, settings: &LoadSettings<'_>) -> Result<Programs, LoadError> {
    let mark = pins.directory().join("loaded").join(object.fingerprint(settings.trace));
    let mut undo = Undo::default();
    for dir in ["maps", "programs", "links", "loaded"] {
        undo.make_dir(&pins.directory().join(dir))?;
    }
    if let Err(e) = resize::resize(pins, object, settings) {
        warn!(error = %e, "maps keep their sizes");
    }
    let complete = abi::MAPS.iter().all(|m| pins.map(m).exists());
    if complete && !settings.trace && mark.is_dir() {
        match Programs::open(pins) {
            Ok(programs) => {
                undo.keep();
                check_sizes(pins, settings.fixed)?;
                let operations = link_stages(pins, &programs)?;
                debug!("the pinned programs are those of this build");
                return Ok(Programs { operations, ..programs });
            }
            Err(e) => warn!(error = %e, "a pinned program is damaged: loading all programs again"),
        }
    }
    let new_maps = abi::MAPS.iter().filter(|m| !pins.map(m).exists()).count();
    for map in abi::MAPS {
        undo.expect_file(pins.map(map));
    }
    let mut ebpf = load_object(pins, object, settings)?;
    check_sizes(pins, settings.fixed)?;
    let mut verified = Vec::new();
    for name in all() {
        verify(&mut ebpf, name)?;
        let path = pins.program(name);
        let next = path.with_file_name(format!("{name}+next"));
        remove_file(&next)?;
        undo.expect_file(next.clone());
        let program = ebpf.program_mut(name).ok_or_else(|| no_program(name))?;
        program.pin(&next).map_err(|e| pin_error("pinning", &next, io::Error::other(e)))?;
        verified.push((next, path));
    }
    // From here on both old and new programs work with these maps: nothing needs to be undone.
    undo.keep();
    clear_marks(mark.parent())?;
    for (next, path) in &verified {
        fs::rename(next, path).map_err(|source| pin_error("replacing", path, source))?;
    }
    let programs = Programs::open(pins)?;
    let operations = new_maps + verified.len() + link_stages(pins, &programs)?;
    make_dir(&mark)?;
    info!(programs = verified.len(), new_maps, "programs loaded");
    Ok(Programs { operations, traced: settings.trace.then_some(ebpf), ..programs })
}

/// Sees to it that the packet programs find the programs of the steps in the array `stages`, before any of them is attached. As a pinned map the
/// array keeps them without an agent.
fn link_stages(pins: &Pins, programs: &Programs) -> Result<usize, LoadError> {
    // read as program ids, written as descriptors
    let stages = Table::<u32, u32>::open(pins, "stages")?;
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
    // Read-only data: with 0 the verifier leaves the log messages out of the programs.
    let level = if settings.trace { aya_log::Level::Trace as u8 } else { 0 };
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, true);
    for map in abi::MAPS {
        loader.map_pin_path(map, pins.map(map));
    }
    for &(map, size) in settings.fixed.iter().chain(settings.growing) {
        loader.map_max_entries(map, size);
    }
    let ebpf = loader.load(object.bytes()).map_err(|source| LoadError::Object { source: Box::new(source) })?;
    match abi::MAPS.iter().find(|map| ebpf.map(map).is_none()) {
        Some(map) => Err(LoadError::NoMap { map }),
        None => Ok(ebpf),
    }
}

/// Has the kernel's verifier judge a program.
fn verify(ebpf: &mut Ebpf, name: &str) -> Result<(), LoadError> {
    let loaded = match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(p)) => despite_signals(|| p.load()),
        Some(Program::CgroupSockAddr(p)) => despite_signals(|| p.load()),
        Some(Program::CgroupSock(p)) => despite_signals(|| p.load()),
        _ => return Err(no_program(name)),
    };
    loaded.map_err(|source| LoadError::Program { program: name.into(), source: Box::new(source) })
}

/// A map keeps its size for as long as it lives; says so when another one was asked for.
fn check_sizes(pins: &Pins, sizes: &[(&'static str, u32)]) -> Result<(), LoadError> {
    for &(map, wanted) in sizes {
        if let Some(size) = resize::entries(pins, map)?.filter(|size| *size != wanted) {
            warn!(map, size, wanted, "the map of a predecessor keeps its size until `ropeway uninstall`");
        }
    }
    Ok(())
}

pub(super) fn clear_marks(dir: Option<&Path>) -> Result<(), LoadError> {
    let Some(dir) = dir else { return Ok(()) };
    let entries = fs::read_dir(dir).map_err(|source| pin_error("reading", dir, source))?;
    for path in entries.filter_map(Result::ok).map(|e| e.path()) {
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

pub(super) fn remove_file(path: &Path) -> Result<(), LoadError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(pin_error("removing", path, source)),
        _ => Ok(()),
    }
}

fn make_dir(path: &Path) -> Result<(), LoadError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| pin_error("making", path, source))
}

/// Pins `object` at `path` in place of whatever is pinned there: at all times there is one.
pub(super) fn pin_over(object: BorrowedFd<'_>, path: &Path) -> Result<(), LoadError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let next = path.with_file_name(format!("{name}+next"));
    remove_file(&next)?;
    sys::obj_pin(object, &next).map_err(|source| pin_error("pinning", &next, source))?;
    fs::rename(&next, path).map_err(|source| pin_error("replacing", path, source))
}

/// Removes what was made if the work ends early.
#[derive(Default)]
struct Undo {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Undo {
    fn make_dir(&mut self, path: &Path) -> Result<(), LoadError> {
        let missing: Vec<_> = path.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect();
        self.dirs.extend(missing.into_iter().rev());
        make_dir(path)
    }

    /// A file that is to be removed unless it is there already.
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

impl Drop for Undo {
    fn drop(&mut self) {
        let failed = |path: &Path, result: io::Result<()>| match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => warn!(path = %path.display(), error = %e, "can't undo"),
            _ => {}
        };
        for path in &self.files {
            failed(path, fs::remove_file(path));
        }
        for path in self.dirs.iter().rev() {
            failed(path, fs::remove_dir(path));
        }
    }
}
