//! Wrappers of bpf(2), mmap(2), getsockopt(2) and the allocator, each safe to call.
//!
//! The only module of the crate with unsafe code. Written by hand, because aya offers no batch
//! operations on maps and no descriptor-level calls without loading an object, and the plugin must
//! stay small. Layouts are prefixes of `union bpf_attr` (include/uapi/linux/bpf.h); passing the
//! size of the prefix leaves out fields that an older kernel does not know.
#![allow(unsafe_code, reason = "the only module with unsafe code; see its header")]

mod created_fd;
pub mod heap;
pub(crate) mod uapi;

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use bytemuck::{Pod, Zeroable};
pub use created_fd::{create_map, return_program};

fn bpf<T: Pod>(command: u32, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is plain data laid out as a prefix of `union bpf_attr`, and its size is
    // passed. The pointers in it come from live borrows of the callers in this module.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as libc::c_int) }
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor, so it has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn fd(f: BorrowedFd<'_>) -> u32 {
    f.as_raw_fd().cast_unsigned()
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens the pinned object at `path` (`BPF_OBJ_GET`).
///
/// # Errors
/// `ENOENT`: no such pin; `EPERM`: not privileged; `EINVAL`: a path with a zero byte, or not a pin.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(uapi::BPF_OBJ_GET, &mut ObjAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 }).map(owned)
}

/// Pins `object` at `path` (`BPF_OBJ_PIN`).
///
/// # Errors
/// `EEXIST`: something is there; `EINVAL`: not in a bpffs.
pub fn obj_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, bpf_fd: fd(object), file_flags: 0 };
    bpf(uapi::BPF_OBJ_PIN, &mut attr).map(drop)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of a link of any type atomically (`BPF_LINK_UPDATE`).
///
/// # Errors
/// `ENOLINK`: the device or cgroup of the link is gone.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link_fd: fd(link), new_prog_fd: fd(program), flags: 0, old_prog_fd: 0 };
    bpf(uapi::BPF_LINK_UPDATE, &mut attr).map(drop)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches `program` to a cgroup (`target`: its descriptor) or a network device (`target`: its
/// index) for as long as the link is open or pinned (`BPF_LINK_CREATE`).
///
/// # Errors
/// `EINVAL`: the kernel does not know this attach type; `ENODEV`: no such device; `EBADF`: no such
/// cgroup.
pub fn link_create(program: BorrowedFd<'_>, target: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    bpf(uapi::BPF_LINK_CREATE, &mut LinkCreateAttr { prog_fd: fd(program), target, attach_type, flags }).map(owned)
}

/// Most programs that a query of one hook returns; the kernel allows 64 on each.
const MAX_PROGRAMS: usize = 64;

/// All of the kernel's layout, because it writes the revision without regard to the size.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

fn query(target: u32, attach_type: u32, query_flags: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0; MAX_PROGRAMS];
    let count = MAX_PROGRAMS as u32;
    let prog_ids = ids.as_mut_ptr() as u64;
    let mut attr = QueryAttr { target, attach_type, query_flags, prog_ids, count, ..QueryAttr::zeroed() };
    bpf(uapi::BPF_PROG_QUERY, &mut attr)?;
    Ok(ids.into_iter().take(attr.count as usize).collect())
}

/// Returns the ids of the programs that run at a hook of a cgroup, inherited ones included, in the
/// order in which they run.
///
/// # Errors
/// Those of `BPF_PROG_QUERY`; `ENOSPC`: more than 64 programs.
pub fn cgroup_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    query(fd(cgroup), attach_type, uapi::BPF_F_QUERY_EFFECTIVE)
}

/// Returns the ids of the programs at a tcx hook of a device, in the order in which they run.
///
/// # Errors
/// Those of `BPF_PROG_QUERY`; `EINVAL`: the kernel has no tcx; `ENODEV`: no such device.
pub fn device_programs(index: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    query(index, attach_type, 0)
}

/// Opens a program by its id.
///
/// # Errors
/// `ENOENT`: there is none any more.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // The id, the id to start from, and flags for opening.
    bpf(uapi::BPF_PROG_GET_FD_BY_ID, &mut [id, 0, 0]).map(owned)
}

/// Detaches a link at once. Closing and unpinning detaches it only after a grace period.
///
/// # Errors
/// Those of `BPF_LINK_DETACH`; `EOPNOTSUPP`: not a kind of link that can be detached.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(uapi::BPF_LINK_DETACH, &mut fd(link)).map(drop)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct MapInfo {
    /// Type of the map, `BPF_MAP_TYPE_*`.
    pub map_type: u32,
    /// Number of the map in this kernel.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value (of one CPU's, for per-CPU maps).
    pub value_size: u32,
    /// Largest number of entries.
    pub max_entries: u32,
    /// `BPF_F_*` given at creation.
    pub map_flags: u32,
    /// Name, padded with zeros.
    pub name: [u8; 16],
}

/// Returns the kernel's information about a map.
///
/// # Errors
/// Those of `BPF_OBJ_GET_INFO_BY_FD`.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::zeroed();
    let info_len = size_of::<MapInfo>() as u32;
    let mut attr = InfoAttr { bpf_fd: fd(map), info_len, info: &raw mut info as u64 };
    bpf(uapi::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Returns type and id, with which both `struct bpf_prog_info` and `struct bpf_link_info` begin.
///
/// # Errors
/// Those of `BPF_OBJ_GET_INFO_BY_FD`.
pub fn type_and_id(object: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut info = [0_u32; 2];
    let mut attr = InfoAttr { bpf_fd: fd(object), info_len: 8, info: info.as_mut_ptr() as u64 };
    bpf(uapi::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok((info[0], info[1]))
}

/// Returns the id of the program that a link runs, from the start of `struct bpf_link_info`.
///
/// # Errors
/// Those of `BPF_OBJ_GET_INFO_BY_FD`.
pub fn link_program(link: BorrowedFd<'_>) -> io::Result<u32> {
    link_info(link).map(|info| info.program)
}

/// The start of `struct bpf_link_info`, for links of cgroups and of network devices.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct LinkInfo {
    /// Type of the link, `BPF_LINK_TYPE_*`.
    pub link_type: u32,
    /// Number of the link in this kernel.
    pub id: u32,
    /// Number of the program that it runs.
    pub program: u32,
    /// Padding, always 0.
    pub pad: u32,
    /// Fields of the link type: see [`LinkInfo::cgroup`] and [`LinkInfo::device`].
    pub words: [u32; 4],
}

impl LinkInfo {
    /// Returns a cgroup link's cgroup id (0 when the cgroup is gone) and attach type.
    #[must_use]
    pub const fn cgroup(&self) -> Option<(u64, u32)> {
        let low_first = if cfg!(target_endian = "little") { (0, 1) } else { (1, 0) };
        let id = self.words[low_first.0] as u64 | (self.words[low_first.1] as u64) << 32;
        if self.link_type == uapi::BPF_LINK_TYPE_CGROUP { Some((id, self.words[2])) } else { None }
    }

    /// Returns a tcx link's device index (0 when the device is gone) and attach type.
    #[must_use]
    pub const fn device(&self) -> Option<(u32, u32)> {
        if self.link_type == uapi::BPF_LINK_TYPE_TCX { Some((self.words[0], self.words[1])) } else { None }
    }
}

/// Returns the kernel's information about a link.
///
/// # Errors
/// Those of `BPF_OBJ_GET_INFO_BY_FD`.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::zeroed();
    let mut attr = InfoAttr { bpf_fd: fd(link), info_len: size_of::<LinkInfo>() as u32, info: &raw mut info as u64 };
    bpf(uapi::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The start of `struct bpf_prog_info`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ProgramInfo {
    /// Type of the program, `BPF_PROG_TYPE_*`.
    pub program_type: u32,
    /// Number of the program in this kernel.
    pub id: u32,
    /// Hash of its instructions.
    pub tag: [u8; 8],
    /// Bytes of machine code.
    pub jited_size: u32,
    /// Bytes of verified instructions.
    pub xlated_size: u32,
    /// Zero: not asked for.
    pub instructions: [u64; 2],
    /// Time of the load in nanoseconds after boot.
    pub load_time: u64,
    /// User id of the process that loaded it.
    pub uid: u32,
    /// Number of maps that it uses.
    pub maps: u32,
    /// Zero: not asked for.
    pub map_ids: u64,
    /// Name, padded with zeros.
    pub name: [u8; 16],
}

/// Returns the kernel's information about a program.
///
/// # Errors
/// Those of `BPF_OBJ_GET_INFO_BY_FD`.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut info = ProgramInfo::zeroed();
    let info_len = size_of::<ProgramInfo>() as u32;
    let mut attr = InfoAttr { bpf_fd: fd(program), info_len, info: &raw mut info as u64 };
    bpf(uapi::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Builds the arguments of an element operation. Callers pass buffers of the map's sizes: the
/// kernel does not check them.
fn elem(map: BorrowedFd<'_>, key: *const u8, value: u64, flags: u64) -> ElemAttr {
    ElemAttr { map_fd: fd(map), pad: 0, key: key as u64, value, flags }
}

/// Reads one element into `value`, which must have the map's value size (per-CPU maps: rounded up
/// to 8, times the possible CPUs).
///
/// # Errors
/// `ENOENT`: no such key.
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    bpf(uapi::BPF_MAP_LOOKUP_ELEM, &mut elem(map, key.as_ptr(), value.as_mut_ptr() as u64, 0)).map(drop)
}

/// Writes one element. `flags`: [`uapi::BPF_ANY`] or [`uapi::BPF_NOEXIST`].
///
/// # Errors
/// `E2BIG`: full; `EEXIST`, `ENOENT`: by the flags.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    bpf(uapi::BPF_MAP_UPDATE_ELEM, &mut elem(map, key.as_ptr(), value.as_ptr() as u64, flags)).map(drop)
}

/// Removes one element.
///
/// # Errors
/// `ENOENT`: no such key.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    bpf(uapi::BPF_MAP_DELETE_ELEM, &mut elem(map, key.as_ptr(), 0, 0)).map(drop)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn batch_attr(map: BorrowedFd<'_>, count: usize, keys: u64, values: u64) -> BatchAttr {
    BatchAttr { in_batch: 0, out_batch: 0, keys, values, count: count as u32, map_fd: fd(map), elem_flags: 0, flags: 0 }
}

/// Writes `count` elements. An error comes with the number written.
///
/// # Errors
/// As [`update`].
pub(crate) fn update_batch(
    map: BorrowedFd<'_>,
    count: usize,
    keys: &[u8],
    values: &[u8],
) -> Result<(), (io::Error, usize)> {
    let mut attr = batch_attr(map, count, keys.as_ptr() as u64, values.as_ptr() as u64);
    bpf(uapi::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop).map_err(|e| (e, attr.count as usize))
}

/// Removes `count` elements. An error comes with the number removed.
///
/// # Errors
/// `ENOENT`: the element at that place does not exist.
pub(crate) fn delete_batch(map: BorrowedFd<'_>, count: usize, keys: &[u8]) -> Result<(), (io::Error, usize)> {
    let mut attr = batch_attr(map, count, keys.as_ptr() as u64, 0);
    bpf(uapi::BPF_MAP_DELETE_BATCH, &mut attr).map(drop).map_err(|e| (e, attr.count as usize))
}

/// Reads up to `count` elements of a hash map. `position` is the kernel's cursor: `None` at first.
/// Returns the number read and whether the end was reached.
///
/// # Errors
/// `ENOSPC`: a bucket holds more than `count`.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    position: &mut Option<[u8; 64]>,
    count: usize,
    keys: &mut [u8],
    values: &mut [u8],
) -> io::Result<(usize, bool)> {
    let mut out = [0_u8; 64];
    let mut attr = batch_attr(map, count, keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64);
    attr.in_batch = position.as_ref().map_or(0, |p| p.as_ptr() as u64);
    attr.out_batch = out.as_mut_ptr() as u64;
    let last = match bpf(uapi::BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => false,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
        Err(e) => return Err(e),
    };
    *position = Some(out);
    Ok((attr.count as usize, last))
}

/// The memory of a mmap-able array, shared with the programs that read it while we write.
#[derive(Debug)]
pub struct SharedWords {
    start: NonNull<AtomicU32>,
    words: usize,
    bytes: usize,
}

// SAFETY: the memory is only reached as atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the whole of an array that was made with `BPF_F_MMAPABLE`. Elements lie `value_size`
    /// rounded up to 8 apart.
    ///
    /// # Errors
    /// `EPERM`: the map is frozen; `ENOTSUPP`: not mmap-able.
    pub fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        let info = map_info(map)?;
        let bytes = (info.value_size as usize).next_multiple_of(8) * info.max_entries as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the kernel checks descriptor
        // and size.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(p.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        Ok(Self { start, words: bytes / 4, bytes })
    }

    /// Returns the memory as 32-bit words. The programs see the store of one word as atomic, but
    /// not that of several.
    #[must_use]
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: `start` is page-aligned, maps `words` words, all bit patterns are valid, and it
        // lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, of the same length, which is no longer borrowed.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Returns the cookie of the network namespace in which a socket was opened (`SO_NETNS_COOKIE`,
/// Linux 5.14).
///
/// # Errors
/// Those of getsockopt(2).
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
    // SAFETY: the option is a u64, and the length given is that of `cookie`, which lives across the
    // call.
    let r = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut cookie).cast(), &raw mut length) };
    if r == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
