//! Runs a test as a node of its own: a process in new network, mount and cgroup namespaces with an own bpf file system.
//!
//! The test executable starts itself once more inside; everything that it makes there goes with that process, except the
//! cgroup, which this side removes.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

const INSIDE: &str = "RW_TEST_NODE_CGROUP";

/// What a test inside a node works with.
pub(crate) struct Node {
    /// The node's own cgroup.
    pub(crate) cgroup: PathBuf,
    /// An empty directory for state.
    pub(crate) state: tempfile::TempDir,
}

/// The eBPF object: built by `cargo xtask build`.
pub(crate) fn object() -> PathBuf {
    std::env::var_os("ROPEWAY_EBPF_OBJECT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane-ebpf/target/bpfel-unknown-none/release/ropeway"),
        PathBuf::from,
    )
}

/// Runs the rest of the test `name` inside a node: in the process that was started for it `Some`, outside `None`.
pub(crate) fn enter(name: &str) -> Option<Node> {
    if let Some(cgroup) = std::env::var_os(INSIDE) {
        return Some(Node { cgroup: cgroup.into(), state: tempfile::tempdir().unwrap() });
    }
    let cgroup = cgroup2().join(format!("rw-test-{}-{name}", std::process::id()));
    std::fs::create_dir(&cgroup).unwrap();
    let script = "mount -t bpf bpf /sys/fs/bpf && ip link set lo up && exec \"$0\" \"$@\"";
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, &cgroup)
        .status();
    std::fs::remove_dir(&cgroup).unwrap();
    assert!(status.as_ref().is_ok_and(ExitStatus::success), "inside the node: {status:?}");
    None
}

fn cgroup2() -> PathBuf {
    let mounts = dataplane_user::load::mounts::parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap());
    dataplane_user::load::mounts::cgroup2(&mounts).expect("no cgroup2").into()
}

/// Runs a command to success and gives what it printed.
pub(crate) fn run(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
