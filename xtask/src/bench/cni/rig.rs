//! The node of the benchmark: new namespaces, pins and both plugins. Measures the time of each
//! call.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dataplane_host::netlink::{IfIndex, Socket, add_address, set_up};
use dataplane_host::netns::Netns;
use dataplane_host::pins::Pins;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::UnshareFlags;
use serde_json::json;

/// Directory of Debian's containernetworking-plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// Prefix of all names outside the namespaces; the process id follows.
pub(super) const PREFIX: &str = "rw-bench-";

/// A plugin and its configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Plugin {
    Ropeway = 0,
    Reference = 1,
    RopewayDual = 2,
}

/// The node, in the namespaces of the thread that created it and of threads started there.
pub(super) struct Rig {
    scratch: PathBuf,
    ropeway: PathBuf,
    configs: [String; 3],
    cgroup: Option<PathBuf>,
}

/// The network namespace of a pod.
pub(super) struct Sandbox {
    netns: Netns,
}

impl Sandbox {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { netns: Netns::new().context("cannot create a network namespace")? })
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_fd().as_raw_fd())
    }
}

impl Rig {
    pub(super) fn make(scratch: &Path, binaries: &Path) -> Result<Self> {
        let ropeway = binaries.join("ropeway-cni");
        ensure!(ropeway.is_file(), "{} is not built: cargo xtask build", ropeway.display());
        for name in ["ptp", "host-local"] {
            let path = Path::new(REFERENCE).join(name);
            ensure!(path.is_file(), "{} is missing: apt-get install containernetworking-plugins", path.display());
        }
        #[expect(deprecated, reason = "the flag that makes it unsafe, FILES, is not used")]
        rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS).context("cannot create namespaces")?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        if let Some(parent) = scratch.parent() {
            sweep(parent)?;
        }
        fs::create_dir_all(scratch.join("bpf"))?;
        let mut rig = Self {
            scratch: scratch.into(),
            ropeway,
            configs: [String::new(), String::new(), String::new()],
            cgroup: None,
        };
        mount("bpf", scratch.join("bpf"), "bpf", MountFlags::empty(), None)?;
        Socket::open()?.run(&[set_up(IfIndex(1)), add_address(IfIndex(1), "192.0.2.1/32".parse()?)])?;
        rig.configs = rig.configurations();
        rig.pin_by_agent(&binaries.join("ropeway-agent"))?;
        Ok(rig)
    }

    fn state(&self) -> PathBuf {
        self.scratch.join("state")
    }

    fn configurations(&self) -> [String; 3] {
        let ropeway = |ranges: &[&str]| {
            let (pins, state) = (self.scratch.join("bpf/ropeway"), self.state());
            json!({
                "cniVersion": "1.0.0", "name": "bench", "type": "ropeway-cni",
                "pinRoot": pins, "stateDir": state, "ranges": ranges, "mtu": 1500,
            })
            .to_string()
        };
        let reference = json!({
            "cniVersion": "1.0.0", "name": "reference", "type": "ptp", "mtu": 1500, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": self.scratch.join("host-local"),
                "ranges": [[{ "subnet": "10.88.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }],
            },
        });
        [ropeway(&["10.87.0.0/16"]), reference.to_string(), ropeway(&["10.87.0.0/16", "fd00:87::/64"])]
    }

    /// Runs the agent until it has pinned its maps and programs, which are all that ADD and DEL
    /// need.
    fn pin_by_agent(&mut self, agent: &Path) -> Result<()> {
        ensure!(agent.is_file(), "{} is not built", agent.display());
        let cgroups = cgroup2()?;
        sweep(&cgroups)?;
        let cgroup = cgroups.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
        self.cgroup = Some(cgroup.clone());
        let manifests = self.scratch.join("manifests");
        fs::create_dir_all(&manifests)?;
        let log = fs::File::create(self.scratch.join("agent.log"))?;
        let mut command = Command::new(agent);
        command.args(["--source", "manifests", "--node-name", "bench", "--node-ip", "192.0.2.1", "--uplink", "lo"]);
        command.args(["--pod-cidr", "10.87.0.0/16"]).arg("--manifests").arg(&manifests);
        command.arg("--pin-root").arg(self.scratch.join("bpf/ropeway")).arg("--state-dir").arg(self.state());
        command.arg("--cgroup-root").arg(&cgroup).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", agent.display()))?;
        let outcome = self.await_pins(&mut child);
        child.kill()?;
        child.wait()?;
        outcome
    }

    fn await_pins(&self, agent: &mut Child) -> Result<()> {
        let node = self.state().join("node.json");
        let pins = Pins::new(&self.scratch.join("bpf/ropeway"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !(node.exists() && pins.program("from_pod").exists() && pins.program("to_pod").exists()) {
            let ended = agent.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.scratch.join("agent.log")).unwrap_or_default();
                bail!("the agent has made no pins: {}", log.lines().last().unwrap_or("no log"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Calls a plugin. Returns the time from before its start to its end.
    pub(super) fn call(&self, plugin: Plugin, verb: &str, container: &str, sandbox: &Sandbox) -> Result<Duration> {
        let program = match plugin {
            Plugin::Ropeway | Plugin::RopewayDual => self.ropeway.clone(),
            Plugin::Reference => Path::new(REFERENCE).join("ptp"),
        };
        let mut command = Command::new(program);
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", sandbox.path()).env("CNI_PATH", REFERENCE);
        let what = format!("{} {container}", if plugin == Plugin::Reference { "ptp" } else { "ropeway-cni" });
        timed(&mut command, &self.configs[plugin as usize]).with_context(|| format!("{what}: {verb} failed"))
    }

    /// Measures the shortest call (VERSION): process, environment, input, output.
    pub(super) fn version(&self) -> Result<Duration> {
        timed(Command::new(&self.ropeway).env_clear().env("CNI_COMMAND", "VERSION"), "{}")
    }

    /// Waits until all background processes have ended, after which no pod has a device.
    pub(super) fn settle(&self) -> Result<()> {
        let releasing = self.state().join("addresses/releasing");
        let deadline = Instant::now() + Duration::from_secs(60);
        while fs::read_dir(&releasing).is_ok_and(|mut entries| entries.next().is_some()) {
            ensure!(Instant::now() < deadline, "addresses are still being released");
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let report = |what: &Path, error: &dyn std::fmt::Display| eprintln!("{}: {error}", what.display());
        let bpf = self.scratch.join("bpf");
        if let Err(error) = unmount(&bpf, UnmountFlags::DETACH) {
            report(&bpf, &error);
        }
        if let Err(error) = fs::remove_dir_all(&self.scratch) {
            report(&self.scratch, &error);
        }
        if let Some((cgroup, error)) = self.cgroup.as_ref().and_then(|c| fs::remove_dir(c).err().map(|e| (c, e))) {
            report(cgroup, &error);
        }
    }
}

fn timed(command: &mut Command, input: &str) -> Result<Duration> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn()?;
    child.stdin.take().context("standard input of the plugin is not a pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let time = start.elapsed();
    if !output.status.success() {
        bail!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    Ok(time)
}

/// Removes a leftover of a killed run: a scratch directory or an empty cgroup.
fn sweep(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // The first call works only on a cgroup, the second only on a directory with content.
            fs::remove_dir(entry.path()).or_else(|_| fs::remove_dir_all(entry.path()))?;
        }
    }
    Ok(())
}

/// Returns the CPU time of all waited-for children, in milliseconds.
pub(super) fn cpu_of_children() -> Result<f64> {
    // proc_pid_stat(5): cutime and cstime are fields 16 and 17, in ticks of 10 ms; the second field
    // may contain spaces.
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("cannot parse /proc/self/stat")?;
    let ticks: Vec<f64> = fields.split_whitespace().skip(13).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() * 10.0)
}

/// Returns the mount point of the cgroup2 file system.
fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let place = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let place = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(place))
    });
    place.context("no cgroup2 file system is mounted")
}
