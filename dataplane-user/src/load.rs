//! Loads the eBPF programs into the kernel, pins them and attaches them.
//!
//! Called by the agent at start and by `ropeway uninstall`. Owns the pins of programs, maps and
//! links, and the tc filters: creates them, adopts those of a previous agent and replaces programs
//! atomically. Stopping the agent detaches nothing. This module never touches objects outside the
//! pin root or filters with another priority and handle. Of map contents it writes only the stage
//! array and the copies that a map resize or an upgrade needs.
//!
//! The agent recognizes pinned objects by their path below the pin root, tc filters by priority,
//! handle and program name, and programs of this build by the fingerprint directory beside the
//! pins.

pub mod attach;
pub mod clock;
pub mod foreign;
pub mod lock;
pub mod migrate;
pub mod mounts;
pub mod object;
pub mod probe;
pub mod programs;
pub mod resize;
pub mod sizes;

use std::io;
use std::path::PathBuf;

use dataplane_host::map::MapError;
use dataplane_host::netlink::NetlinkError;
use dataplane_host::pins::PinError;

/// The reason why loading, attaching or detaching failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are named in the messages")]
pub enum LoadError {
    /// The build had no eBPF object and --ebpf-object names none.
    #[error(
        "this ropeway-agent was built without eBPF programs: build it with `cargo xtask build`, or name an object file with --ebpf-object"
    )]
    NoObject,
    /// `--ebpf-object` names a file that is not ELF.
    #[error("--ebpf-object {}: not an ELF object", path.display())]
    NotAnObject { path: PathBuf },
    /// A file or directory that can't be opened, created or read.
    #[error("cannot access {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// `--state-dir` names a directory with files of other programs only.
    #[error("--state-dir {}: {}", path.display(), dataplane_host::contract::NOT_A_STATE_DIR)]
    NotStateDir { path: PathBuf },
    /// Another process holds the lock file of the state directory.
    #[error("{}: another agent runs on this node (or --state-dir is shared with another node's)", path.display())]
    SecondAgent { path: PathBuf },
    /// The process lacks the capabilities that bpf(2) asks for.
    #[error("bpf(2) is not permitted: the agent needs root, or the capabilities BPF, NET_ADMIN and PERFMON")]
    NotPermitted,
    /// A feature probe failed for another reason than a missing feature.
    #[error("cannot probe the kernel for {feature}: {source}")]
    Probe { feature: &'static str, source: Box<aya::programs::ProgramError> },
    /// The kernel is too old, or was built without a needed option.
    #[error("Linux {kernel} lacks {missing}; Ropeway needs Linux {min} or later with BPF, BPF_SYSCALL, CGROUP_BPF, NET_CLS_BPF and NET_CLS_ACT", min = probe::MINIMUM_KERNEL)]
    MissingFeatures { kernel: String, missing: String },
    /// The pin root is not in a bpf file system.
    #[error("--pin-root {}: not in a bpf file system: mount one with `mount -t bpf bpf /sys/fs/bpf`, or name a directory in one", pin_root.display())]
    NoBpfFs { pin_root: PathBuf },
    /// No cgroup2 file system is mounted.
    #[error(
        "no cgroup file system of version 2 is mounted: mount one with `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`, or name it with --cgroup-root"
    )]
    NoCgroup2,
    /// `--cgroup-root` names a directory outside a cgroup2 file system.
    #[error("--cgroup-root {}: not in a cgroup file system of version 2", path.display())]
    NotCgroup2 { path: PathBuf },
    /// The object can't be parsed, or one of its maps can't be created.
    #[error("cannot load the eBPF object: {source}")]
    Object { source: Box<aya::EbpfError> },
    /// A program is missing in the object, or has another program type.
    #[error("the eBPF object has no {kind} program {program}")]
    NoProgram { program: String, kind: &'static str },
    /// The verifier rejected a program.
    #[error("cannot load program {program}: {source}")]
    Program { program: String, source: Box<aya::programs::ProgramError> },
    /// The object lacks a map of this ABI.
    #[error("the eBPF object has no map {map}: it was built from another version of Ropeway")]
    NoMap { map: &'static str },
    /// An operation on a pin failed; `what` is the verb for the message.
    #[error("{what} {}: {source}", path.display())]
    Pin { what: &'static str, path: PathBuf, source: io::Error },
    /// A pin can't be opened, or holds another kind of object.
    #[error(transparent)]
    OpenPin(#[from] PinError),
    /// A map operation failed.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A netlink request about a device or a filter failed.
    #[error(transparent)]
    Netlink(Box<NetlinkError>),
    /// The kernel rejected an attachment.
    #[error("cannot attach program {program} to {target}: {source}")]
    Attach { program: String, target: String, source: io::Error },
    /// The program that reads the packet path's clock can't be run.
    #[error("cannot read the kernel's clock: {reason}")]
    Clock { reason: String },
}
