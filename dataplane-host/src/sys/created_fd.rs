//! Creates maps and programs without aya, for tests and benchmarks.
//!
//! The product loads its objects with aya in the agent; nothing here is pinned.

use std::io;
use std::os::fd::OwnedFd;

use bytemuck::{Pod, Zeroable};

use super::{bpf, owned, uapi};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// Makes an unpinned map without BTF.
///
/// # Errors
/// Those of `BPF_MAP_CREATE`.
pub fn create_map(
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..7].copy_from_slice(b"ropeway");
    let mut attr =
        CreateAttr { map_type, key_size, value_size, max_entries, map_flags, inner_map_fd: 0, numa_node: 0, name };
    bpf(uapi::BPF_MAP_CREATE, &mut attr).map(owned)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ProgLoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    name: [u8; 16],
}

/// Loads a classifier that returns `verdict` and does nothing else.
///
/// # Errors
/// Those of `BPF_PROG_LOAD`.
pub fn return_program(name: &str, verdict: i32) -> io::Result<OwnedFd> {
    // r0 = verdict; exit
    let instructions = [0xb7 | u64::from(verdict.cast_unsigned()) << 32, 0x95];
    let mut full_name = [0; 16];
    for (to, from) in full_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    let mut attr = ProgLoadAttr {
        prog_type: uapi::BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        name: full_name,
    };
    bpf(uapi::BPF_PROG_LOAD, &mut attr).map(owned)
}
