//! Attaches the programs: pinned links for cgroup and tcx hooks, tc filters for pods and old
//! kernels.
//!
//! Every function compares with what is attached and changes only the difference. A hook always
//! keeps a program while it is changed. All functions return the number of operations, which is 0
//! if everything was right. Also removes hooks of devices that are no longer uplinks, and the pins
//! of other ABIs. Pods' filters are created by the plugin; this module only replaces their
//! programs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya_obj::generated::BPF_F_BEFORE;
use aya_obj::generated::bpf_attach_type::{BPF_TCX_EGRESS, BPF_TCX_INGRESS};
use dataplane_common::types::pod::{Pod, pod_flags};
use dataplane_host::map::PinnedMap;
use dataplane_host::netlink::{
    Direction, IfIndex, Link, NetlinkError, Socket, add_clsact, delete_filter, replace_filter,
};
use dataplane_host::pins::Pins;
use dataplane_host::sys::{self, LinkInfo};
use tracing::{info, warn};

use super::LoadError;
use super::programs::{Pinned, Programs, SOCKET_PROGRAMS, pin_error, pin_over, remove_file};
use crate::config::UplinkAttach;

/// Hooks of an uplink: program, direction, and the `enum bpf_attach_type` for tcx.
pub const UPLINK_HOOKS: [(&str, Direction, u32); 2] = [
    ("from_uplink", Direction::Ingress, BPF_TCX_INGRESS as u32),
    ("to_uplink", Direction::Egress, BPF_TCX_EGRESS as u32),
];

/// Hooks of a pod's device: program and direction.
pub const POD_HOOKS: [(&str, Direction); 2] = [("from_pod", Direction::Ingress), ("to_pod", Direction::Egress)];

/// `BPF_F_BEFORE` without a relative program: runs before all other programs of the hook.
const FIRST: u32 = BPF_F_BEFORE;

/// Returns the name of the pin of an uplink's link.
///
/// Dots become colons: bpffs allows no dot in a name, and device names contain no colon.
#[must_use]
pub fn uplink_pin(program: &str, device: &str) -> String {
    format!("{program}-{}", device.replace('.', ":"))
}

/// Returns the program and device of an uplink's pin; the reverse of [`uplink_pin`].
#[must_use]
pub fn parse_uplink_pin(name: &str) -> Option<(&'static str, String)> {
    let (program, device) = name.split_once('-')?;
    let hook = UPLINK_HOOKS.iter().find(|(p, ..)| *p == program)?;
    (!device.contains('+')).then(|| (hook.0, device.replace(':', ".")))
}

/// Attaches the socket programs to a cgroup and its descendants.
///
/// # Errors
/// The cgroup can't be opened, or the kernel rejected the attachment.
pub fn cgroup(pins: &Pins, programs: &Programs, root: &Path) -> Result<usize, LoadError> {
    let dir = File::open(root).map_err(|source| LoadError::File { path: root.into(), source })?;
    // The kernel identifies a cgroup by its inode number, also in the information on a link.
    let id = dir.metadata().map_err(|source| LoadError::File { path: root.into(), source })?.ino();
    let target = dir.as_raw_fd().cast_unsigned();
    let mut operations = 0;
    for (name, attach_type) in SOCKET_PROGRAMS {
        let program = programs.get(name)?;
        let here = |info: &LinkInfo| info.cgroup() == Some((id, attach_type));
        let create = || {
            sys::link_create(program.fd.as_fd(), target, attach_type, 0).map_err(|source| LoadError::Attach {
                program: name.into(),
                target: root.display().to_string(),
                source,
            })
        };
        operations += place(pins, name, program, here, create)?;
    }
    Ok(operations)
}

/// The uplink attachments that are right.
#[derive(Debug, Default)]
pub struct UplinkAttachments {
    /// Number of operations so far.
    pub operations: usize,
    /// Pins of tcx links.
    linked: BTreeSet<String>,
    /// Devices with filters.
    filtered: BTreeSet<IfIndex>,
}

impl UplinkAttachments {
    /// Detaches the uplink programs from all other devices and removes the other kind of attachment
    /// from these. Called last, so that a device always has programs. Returns the number of
    /// operations.
    ///
    /// # Errors
    /// The kernel rejected a listing or a removal.
    pub fn detach_others(&self, pins: &Pins, socket: &mut Socket) -> Result<usize, LoadError> {
        Ok(drop_links(pins, &self.linked)? + drop_filters(&self.filtered, socket)?)
    }
}

/// Attaches the uplink programs to `devices`.
///
/// # Errors
/// The kernel rejected an attachment; the devices before that one are attached.
pub fn uplinks(
    pins: &Pins,
    programs: &Programs,
    devices: &[Link],
    how: UplinkAttach,
    socket: &mut Socket,
) -> Result<UplinkAttachments, LoadError> {
    let mut attached = UplinkAttachments::default();
    for device in devices {
        let tcx = match how {
            UplinkAttach::Clsact => None,
            UplinkAttach::Auto | UplinkAttach::Tcx => match by_tcx(pins, programs, device) {
                Ok(n) => Some(n),
                // EINVAL: the kernel is older than 6.6 and has no tcx. A clsact filter does the
                // same.
                Err(LoadError::Attach { source, .. })
                    if how == UplinkAttach::Auto && source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    None
                }
                Err(e) => return Err(e),
            },
        };
        if let Some(n) = tcx {
            attached.operations += n;
            attached.linked.extend(UPLINK_HOOKS.map(|(program, ..)| uplink_pin(program, &device.name)));
        } else {
            let hooks = UPLINK_HOOKS.map(|(p, d, _)| (p, d));
            attached.operations += by_filter(programs, device.index, &hooks, socket)?;
            attached.filtered.insert(device.index);
        }
    }
    Ok(attached)
}

fn by_tcx(pins: &Pins, programs: &Programs, device: &Link) -> Result<usize, LoadError> {
    let mut operations = 0;
    for (name, _, attach_type) in UPLINK_HOOKS {
        let program = programs.get(name)?;
        let here = |info: &LinkInfo| info.device() == Some((device.index.0, attach_type));
        let create = || {
            sys::link_create(program.fd.as_fd(), device.index.0, attach_type, FIRST)
                .map_err(|source| LoadError::Attach { program: name.into(), target: device.name.clone(), source })
        };
        operations += place(pins, &uplink_pin(name, &device.name), program, here, create)?;
    }
    Ok(operations)
}

/// Ensures that the pinned link `name` runs `program` on the hook that `here` recognizes.
///
/// A link of another ABI on that hook is adopted: its program is replaced and its pin is moved.
fn place(
    pins: &Pins,
    name: &str,
    program: &Pinned,
    here: impl Fn(&LinkInfo) -> bool,
    create: impl FnOnce() -> Result<OwnedFd, LoadError>,
) -> Result<usize, LoadError> {
    let own = pins.link(name);
    // A link of another ABI on the same hook is adopted: a second one would run both programs.
    for path in std::iter::once(own.clone()).chain(others(pins).map(|dir| dir.join("links").join(name))) {
        let link = match sys::obj_get(&path) {
            Ok(link) => link,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(pin_error("opening", &path, source)),
        };
        let info = sys::link_info(link.as_fd()).map_err(|source| pin_error("reading", &path, source))?;
        if !here(&info) {
            continue;
        }
        let mut operations = 0;
        if info.program != program.id {
            sys::link_update(link.as_fd(), program.fd.as_fd())
                // An update replaces the program atomically, so no packet or socket passes
                // unhandled.
                .map_err(|source| pin_error("updating", &path, source))?;
            operations += 1;
        }
        if path != own {
            pin_over(link.as_fd(), &own)?;
            remove_file(&path)?;
            operations += 1;
        }
        return Ok(operations);
    }
    // The new link is attached before the pin, the last reference to a dead or misplaced one, goes.
    let link = create()?;
    pin_over(link.as_fd(), &own)?;
    info!(link = name, "program attached");
    Ok(1)
}

/// Ensures that our filters on a device run the programs of `hooks`.
///
/// # Errors
/// The kernel rejected a listing or a change.
pub fn by_filter(
    programs: &Programs,
    index: IfIndex,
    hooks: &[(&str, Direction)],
    socket: &mut Socket,
) -> Result<usize, LoadError> {
    let present = socket.filters(index)?;
    let mut requests = Vec::new();
    for &(name, direction) in hooks {
        let program = programs.get(name)?;
        let right = |f: &&_| runs(f, direction) && f.program == Some(program.id);
        if !present.iter().any(|f| right(&f)) {
            requests.push(replace_filter(index, direction, name, program.fd.as_fd()));
        }
    }
    let operations = requests.len();
    if operations > 0 {
        requests.insert(0, add_clsact(index));
        for (i, e) in socket.run_each(&requests) {
            // The qdisc (request 0) may exist already.
            if i > 0 || e.refusal() != Some(libc::EEXIST) {
                return Err(e.into());
            }
        }
    }
    Ok(operations)
}

fn runs(filter: &dataplane_host::netlink::Filter, direction: Direction) -> bool {
    filter.is_ours() && filter.direction == direction
}

/// Ensures that the pods' devices run `programs`, each replaced atomically.
///
/// A pod's device is recognized by an entry in `pods`, or by filters of ours with the names of the
/// pod programs. The plugin has created both.
///
/// # Errors
/// The kernel rejected a listing. A pod that can't be changed is logged and keeps its old programs,
/// which work with the same maps.
pub fn pods(pins: &Pins, programs: &Programs, socket: &mut Socket) -> Result<usize, LoadError> {
    let entries = PinnedMap::<u32, Pod>::open(pins, "pods")?;
    let mut operations = 0;
    for link in socket.links()? {
        // Pods have veths. Skipping all other devices saves a listing of their filters.
        if link.kind.as_deref() != Some("veth") {
            continue;
        }
        let known = link.index.0 < entries.max_entries()
            && entries.get(&link.index.0)?.is_some_and(|pod| pod.flags & pod_flags::PRESENT != 0);
        let ours = socket.filters(link.index)?;
        let has = |(name, direction): &(&str, Direction)| {
            ours.iter().any(|f| runs(f, *direction) && f.name.as_deref().is_some_and(|n| n.starts_with(name)))
        };
        let hooks: Vec<_> = POD_HOOKS.into_iter().filter(|hook| known || has(hook)).collect();
        match by_filter(programs, link.index, &hooks, socket) {
            Ok(n) => operations += n,
            // The pod was deleted after the listing.
            Err(e) if gone(&e) => {}
            Err(e) => {
                warn!(device = link.name, error = %e, "cannot replace the programs of a pod: it keeps the old ones");
            }
        }
    }
    Ok(operations)
}

fn gone(error: &LoadError) -> bool {
    matches!(error, LoadError::Netlink(e) if e.is_missing())
}

/// Unpins the links of uplinks that are not in `wanted`, which detaches them.
fn drop_links(pins: &Pins, wanted: &BTreeSet<String>) -> Result<usize, LoadError> {
    let dir = pins.directory().join("links");
    let entries = fs::read_dir(&dir).map_err(|source| pin_error("reading", &dir, source))?;
    let mut operations = 0;
    for entry in entries {
        let entry = entry.map_err(|source| pin_error("reading", &dir, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if parse_uplink_pin(&name).is_some() && !wanted.contains(&name) {
            detach(&dir.join(&name))?;
            info!(link = name, "program detached: its device is no uplink any more");
            operations += 1;
        }
    }
    Ok(operations)
}

/// Detaches a pinned link at once, before the kernel drops the last reference, and removes the pin.
///
/// # Errors
/// The link can't be opened or detached.
pub fn detach(path: &Path) -> Result<(), LoadError> {
    let link = sys::obj_get(path).map_err(|source| pin_error("opening", path, source))?;
    sys::link_detach(link.as_fd()).map_err(|source| pin_error("detaching", path, source))?;
    remove_file(path)
}

/// Removes our uplink filters from devices that are not in `wanted`.
fn drop_filters(wanted: &BTreeSet<IfIndex>, socket: &mut Socket) -> Result<usize, LoadError> {
    remove_filters(socket, |index, name| !wanted.contains(&index) && name.contains("_uplink"))
}

/// Removes those of our filters for which `which` returns true, given device index and program
/// name.
///
/// # Errors
/// The kernel rejected a listing or a removal.
pub fn remove_filters(socket: &mut Socket, which: impl Fn(IfIndex, &str) -> bool) -> Result<usize, LoadError> {
    let mut operations = 0;
    for link in socket.links()? {
        for filter in socket.filters(link.index)? {
            if filter.is_ours() && which(link.index, filter.name.as_deref().unwrap_or_default()) {
                // A filter that another program has just removed is counted as removed.
                match socket.run(&[delete_filter(link.index, filter.direction)]) {
                    Err(e) if !e.is_missing() => return Err(e.into()),
                    _ => operations += 1,
                }
            }
        }
    }
    Ok(operations)
}

/// Returns the directories of other ABIs below the same pin root.
pub(super) fn others(pins: &Pins) -> impl Iterator<Item = PathBuf> {
    let (root, own) = (pins.root().to_owned(), pins.directory().to_owned());
    pins.abis().into_iter().map(move |abi| root.join(abi)).filter(move |dir| *dir != own)
}

/// Returns true if programs of another ABI are attached, or may be, because their links can't be
/// listed. Ours must not replace them before the pods are copied into our maps.
#[must_use]
pub fn has_predecessor(pins: &Pins) -> bool {
    others(pins).any(|dir| match fs::read_dir(dir.join("links")) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    })
}

/// Removes the pins of other ABIs, after our programs have replaced theirs.
///
/// # Errors
/// A pin can't be removed.
pub fn remove_predecessors(pins: &Pins) -> Result<usize, LoadError> {
    let mut count = 0;
    for dir in others(pins) {
        fs::remove_dir_all(&dir).map_err(|source| pin_error("removing", &dir, source))?;
        info!(path = %dir.display(), "removed the pins of another version");
        count += 1;
    }
    Ok(count)
}

impl From<NetlinkError> for LoadError {
    fn from(e: NetlinkError) -> Self {
        Self::Netlink(Box::new(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplink_pin_names_are_parsed_as_they_are_built() {
        for device in ["eth0", "eth0.100", "br-lan", "wlp0s20f3-x"] {
            let name = uplink_pin("from_uplink", device);
            assert!(!name.contains('.'), "{name}");
            assert_eq!(parse_uplink_pin(&name), Some(("from_uplink", device.to_owned())));
        }
        for other in ["sock_connect4", "from_pod-x", "to_uplink-eth0+next", "to_uplink"] {
            assert_eq!(parse_uplink_pin(other), None, "{other}");
        }
    }
}
