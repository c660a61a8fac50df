//! The first process of a node: mounts the node's view of the machine, then keeps container runtime
//! and kubelet running and reaps orphaned processes.
//!
//! It runs in the node's namespaces, so its mounts are not visible outside.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{WaitOptions, chdir, pivot_root, wait};

use super::cgroups::{self, Hierarchy};
use super::layout::Layout;
use super::node::{self, CONTAINERD_CONFIG, KUBELET_FLAGS, inside};
use super::step::wait_for;

const RUNTIME_SOCKET: &str = "/run/containerd/containerd.sock";
/// Pause between the end of a program and its next start: a program that fails at once must not use
/// up a processor.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Runs the node. Returns only if the node cannot be set up.
pub(super) fn run(layout: &Layout, name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes()).context("cannot set the host name")?;
    let logs = ["containerd", "kubelet"].map(|program| (program, layout.log(&format!("{program}-{name}"))));
    let mut outputs = BTreeMap::new();
    for (program, path) in logs {
        outputs.insert(program, File::options().create(true).append(true).open(path)?);
    }
    let hierarchies = cgroups::hierarchies()?;
    file_system(layout, &layout.node_root(name), &hierarchies)?;
    let mut node = Supervisor { layout: layout.clone(), outputs, running: BTreeMap::new() };
    node.start("containerd")?;
    wait_for("container runtime", 60, || Ok(UnixStream::connect(RUNTIME_SOCKET).map(drop)?))?;
    node.start("kubelet")?;
    node.watch()
}

/// Makes `root` the root of this process, with all mounts of a node.
fn file_system(layout: &Layout, root: &Path, hierarchies: &[Hierarchy]) -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make the mounts private")?;
    let at = |path: &str| inside(root, Path::new(path));
    bind(root, root)?;
    bind(Path::new("/usr"), &at("/usr"))?;
    mount_remount(at("/usr"), MountFlags::BIND | MountFlags::RDONLY, "").context("cannot mount /usr read-only")?;
    mount_bind_recursive("/dev", at("/dev")).context("cannot mount /dev")?;
    for directory in node::shared_directories(layout) {
        bind(&directory, &inside(root, &directory))?;
    }
    special("proc", &at("/proc"), "")?;
    boot_id(root)?;
    special("sysfs", &at("/sys"), "")?;
    special("bpf", &at("/sys/fs/bpf"), "")?;
    special("tmpfs", &at("/run"), "mode=755")?;
    special("tmpfs", &at("/sys/fs/cgroup"), "mode=755")?;
    for hierarchy in hierarchies {
        let layout = inside(root, &hierarchy.mount);
        fs::create_dir_all(&layout)?;
        special(&hierarchy.kind, &layout, &hierarchy.options)?;
    }
    chdir(root).context("cannot enter the node's directory")?;
    pivot_root(".", ".").context("cannot change the root (pivot_root)")?;
    unmount(".", UnmountFlags::DETACH).context("cannot unmount the machine's root")?;
    chdir("/").context("cannot enter /")?;
    fs::create_dir_all("/run/netns")?;
    // Kubelet and container runtime pass mounts to each other.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .context("cannot make the mounts shared")
}

/// Gives each start of a node a new boot id; the machine's kernel keeps its own.
fn boot_id(root: &Path) -> Result<()> {
    let random = Path::new("/proc/sys/kernel/random");
    let own = inside(root, Path::new("/etc/boot_id"));
    fs::write(&own, fs::read(random.join("uuid"))?).with_context(|| format!("cannot write {}", own.display()))?;
    bind(&own, &inside(root, &random.join("boot_id")))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount_bind(from, to).with_context(|| format!("cannot bind {} to {}", from.display(), to.display()))
}

fn special(kind: &str, at: &Path, options: &str) -> Result<()> {
    let options = std::ffi::CString::new(options)?;
    let data = (!options.is_empty()).then_some(options.as_c_str());
    mount(kind, at, kind, MountFlags::empty(), data).with_context(|| format!("cannot mount {kind} at {}", at.display()))
}

struct Supervisor {
    layout: Layout,
    outputs: BTreeMap<&'static str, File>,
    running: BTreeMap<i32, &'static str>,
}

impl Supervisor {
    fn start(&mut self, program: &'static str) -> Result<()> {
        let output = self.outputs.get(program).with_context(|| format!("no log is open for {program}"))?;
        let mut command = Command::new(self.layout.bin(program));
        match program {
            "kubelet" => command.args(fs::read_to_string(KUBELET_FLAGS)?.lines()),
            _ => command.args(["--config", CONTAINERD_CONFIG]),
        };
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.layout.cache().join("bin").display());
        command.env_clear().env("PATH", path).env("HOME", "/root");
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let pid = i32::try_from(child.id())?;
        fs::write(format!("/run/{program}.pid"), pid.to_string())?;
        self.running.insert(pid, program);
        Ok(())
    }

    /// Restarts the programs that end; reaps all other children, which are orphans.
    fn watch(&mut self) -> Result<()> {
        loop {
            let ended = wait(WaitOptions::empty()).context("cannot wait for a child process")?;
            let Some((pid, status)) = ended else { continue };
            if let Some(program) = self.running.remove(&pid.as_raw_nonzero().get()) {
                eprintln!("{program} ended ({status:?}): restarting it");
                std::thread::sleep(RESTART_PAUSE);
                self.start(program)?;
            }
        }
    }
}
