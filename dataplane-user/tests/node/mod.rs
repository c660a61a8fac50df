//! Runs a test as a node of its own: a process in new network, mount and cgroup namespaces with an own bpf file system.
//!
//! The test executable starts itself once more inside; everything that it makes there goes with that process, except the
//! cgroup, which this side removes.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const INSIDE: &str = "RW_TEST_NODE_CGROUP";

/// What a test inside a node works with.
pub(crate) struct Node {
    /// The node's own cgroup.
    pub(crate) cgroup: PathBuf,
    /// An empty directory for state.
    pub(crate) state: tempfile::TempDir,
}

static OBJECT: OnceLock<PathBuf> = OnceLock::new();

/// The eBPF object, as it was when the test began.
pub(crate) fn object() -> &'static Path {
    OBJECT.get().unwrap()
}

/// Where `cargo xtask build` puts the eBPF object.
fn built_object() -> PathBuf {
    std::env::var_os("ROPEWAY_EBPF_OBJECT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane-ebpf/target/bpfel-unknown-none/release/ropeway"),
        PathBuf::from,
    )
}

/// Runs the rest of the test `name` inside a node: in the process that was started for it `Some`, outside `None`.
pub(crate) fn enter(name: &str) -> Option<Node> {
    if let Some(cgroup) = std::env::var_os(INSIDE) {
        let node = Node { cgroup: cgroup.into(), state: tempfile::tempdir().unwrap() };
        let copy = node.state.path().join("ropeway.bpf.o");
        std::fs::copy(built_object(), &copy).unwrap();
        OBJECT.set(copy).unwrap();
        return Some(node);
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

/// Asks until the answer is there, for at most ten seconds.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within ten seconds");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The status code and body of a path on one of the agent's ports.
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A running agent, killed when the test ends.
pub(crate) struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts an agent on the manifests of `state/manifests`.
    pub(crate) fn start(node: &Node, flags: &[&str]) -> Self {
        let manifests = node.state.path().join("manifests");
        std::fs::create_dir_all(&manifests).unwrap();
        let log = node.state.path().join("agent.log");
        let child = Command::new(env!("CARGO_BIN_EXE_ropeway-agent"))
            .args(["--node-name=n1", "--log-level=debug"])
            .args(flags)
            .env("ROPEWAY_SOURCE", "manifests")
            .env("ROPEWAY_MANIFESTS", manifests)
            .env("ROPEWAY_STATE_DIR", node.state.path().join("lib"))
            .env("ROPEWAY_CGROUP_ROOT", &node.cgroup)
            .env("ROPEWAY_EBPF_OBJECT_FILE", object())
            .env("ROPEWAY_MAX_FLOWS", "1024")
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Waits until the maps are complete and the node is in order.
    pub(crate) fn ready(mut self) -> Self {
        until("the agent is ready", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the agent ended with {status}:\n{}", self.log());
            }
            let well = |port, path| get(port, path).filter(|(code, _)| *code == 200);
            well(10256, "/healthz").and(well(10249, "/readyz"))
        });
        self
    }

    /// What its process has in memory and in no file, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for its end; gives the exit code and the log.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let status = until("the agent ends", || self.child.try_wait().unwrap());
        (status.code(), self.log())
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn terminate(self) -> (Option<i32>, String) {
        run(&format!("kill -TERM {}", self.child.id()));
        self.end()
    }
}

/// A counter of the agent's metrics.
pub(crate) fn metric(name: &str) -> u64 {
    let (_, text) = get(10249, "/metrics").unwrap();
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let ended = self.child.kill().and_then(|()| self.child.wait());
            if let Err(e) = ended {
                eprintln!("the agent is left: {e}");
            }
        }
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

impl Node {
    /// Writes a manifest.
    pub(crate) fn manifest(&self, name: &str, text: &str) {
        let dir = self.state.path().join("manifests");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), text).unwrap();
    }

    /// Runs the command line; gives success and what it said.
    pub(crate) fn ropeway(&self, arguments: &[&str]) -> (bool, String) {
        let out = Command::new(env!("CARGO_BIN_EXE_ropeway"))
            .arg(format!("--state-dir={}", self.state.path().join("lib").display()))
            .args(arguments)
            .output()
            .unwrap();
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    }
}
