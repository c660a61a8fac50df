//! Brings the programs into the kernel and attaches them.
//!
//! Owns the pins of programs, maps and links and the tc filters: makes them, adopts those of a predecessor, replaces
//! programs atomically. Never detaches on a stop, never touches what lies outside the pin root or carries another
//! priority and handle, and never writes a map's entries except the node's configuration (and copies them when a map grows).
//!
//! How an agent without memory knows an object as ours: pins by lying under the pin root; tc filters by priority, handle and
//! the names of the programs; programs of this very build by the fingerprint directory beside them.

pub mod attach;
pub mod clock;
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

/// Why loading, attaching or detaching failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are named in the messages")]
pub enum LoadError {
    /// The build had no programs.
    #[error(
        "this ropeway-agent was built without eBPF programs: build it with `cargo xtask build`, or name an object file with --ebpf-object"
    )]
    NoObject,
    /// A file that is something else.
    #[error("--ebpf-object {}: not an ELF object", path.display())]
    NotAnObject { path: PathBuf },
    /// A file that can't be used.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Another process holds the node.
    #[error("{}: another agent runs on this node (or --state-dir is shared with another node's)", path.display())]
    SecondAgent { path: PathBuf },
    /// No capabilities.
    #[error("bpf(2) is not permitted: the agent needs root, or the capabilities BPF, NET_ADMIN and PERFMON")]
    NotPermitted,
    /// A probe without an answer.
    #[error("can't find out whether the kernel has {feature}: {source}")]
    Probe { feature: &'static str, source: Box<aya::programs::ProgramError> },
    /// The kernel is too old or built without.
    #[error("Linux {kernel} lacks {missing}; Ropeway needs Linux {min} or later with BPF, BPF_SYSCALL, CGROUP_BPF, NET_CLS_BPF and NET_CLS_ACT", min = probe::MINIMUM_KERNEL)]
    MissingFeatures { kernel: String, missing: String },
    /// bpffs is not there.
    #[error("--pin-root {}: not in a bpf file system: mount one with `mount -t bpf bpf /sys/fs/bpf`, or name a directory in one", pin_root.display())]
    NoBpfFs { pin_root: PathBuf },
    /// No cgroup2 at all.
    #[error(
        "no cgroup file system of version 2 is mounted: mount one with `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`, or name it with --cgroup-root"
    )]
    NoCgroup2,
    /// The flag names another directory.
    #[error("--cgroup-root {}: not in a cgroup file system of version 2", path.display())]
    NotCgroup2 { path: PathBuf },
    /// The object can't be read, or its maps can't be made.
    #[error("loading the eBPF object: {source}")]
    Object { source: Box<aya::EbpfError> },
    /// A program is missing in the object or of another kind.
    #[error("the eBPF object has no {kind} program {program}")]
    NoProgram { program: String, kind: &'static str },
    /// The verifier refused a program.
    #[error("loading program {program}: {source}")]
    Program { program: String, source: Box<aya::programs::ProgramError> },
    /// The object lacks a map that the pins must hold.
    #[error("the eBPF object has no map {map}: it was built from another version of Ropeway")]
    NoMap { map: &'static str },
    /// An operation on a pin.
    #[error("{what} {}: {source}", path.display())]
    Pin { what: &'static str, path: PathBuf, source: io::Error },
    /// A pin can't be opened.
    #[error(transparent)]
    OpenPin(#[from] PinError),
    /// A map refused.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A device or filter.
    #[error(transparent)]
    Netlink(Box<NetlinkError>),
    /// A hook refused.
    #[error("attaching {program} to {target}: {source}")]
    Attach { program: String, target: String, source: io::Error },
    /// The packet path's clock can't be read.
    #[error("reading the kernel's clock: {reason}")]
    Clock { reason: String },
}
