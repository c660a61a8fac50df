//! Runs a test as a node: a process in new network and mount namespaces, with a bpf file system and
//! a cgroup for it alone.
//!
//! The test executable starts itself once more inside. All that it creates there disappears with
//! that process, except the cgroup, which the outer process removes. Used by all tests of this
//! crate that need root.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const INSIDE: &str = "RW_TEST_NODE_CGROUP";

/// The environment of a test inside a node.
pub(crate) struct Node {
    /// Cgroup of the node.
    pub(crate) cgroup: PathBuf,
    /// Directory for manifests, state and logs; empty at the start.
    pub(crate) state: tempfile::TempDir,
}

static OBJECT: OnceLock<PathBuf> = OnceLock::new();

/// Returns the path of the eBPF object, copied when the test began.
pub(crate) fn object() -> &'static Path {
    OBJECT.get().unwrap()
}

/// Returns the path at which `cargo xtask build` puts the eBPF object.
fn built_object() -> PathBuf {
    std::env::var_os("ROPEWAY_EBPF_OBJECT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane-ebpf/target/bpfel-unknown-none/release/ropeway"),
        PathBuf::from,
    )
}

/// Runs the rest of the test `name` inside a node. Returns `Some` in the process inside, and `None`
/// outside after that process has ended.
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
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, &cgroup)
        .stderr(Stdio::inherit())
        .output();
    std::fs::remove_dir(&cgroup).unwrap();
    let output = output.expect("cannot start unshare");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(output.status.success(), "inside the node: {}", output.status);
    // A name that matches no test runs none and succeeds.
    assert!(text.contains("test result: ok. 1 passed"), "no test is called {name}");
    None
}

fn cgroup2() -> PathBuf {
    let mounts = dataplane_user::load::mounts::parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap());
    dataplane_user::load::mounts::cgroup2(&mounts).expect("no cgroup2").into()
}

/// Runs a shell command, which must succeed, and returns its standard output.
pub(crate) fn run(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Polls until `ask` returns a value, for at most ten seconds.
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

/// Requests a path from one of the agent's ports. Returns status code and body.
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A running agent, which is killed when this value is dropped.
pub(crate) struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts an agent with the manifests in `state/manifests`.
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

    /// Waits until `/healthz` and `/readyz` return 200.
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

    /// Returns the anonymous memory of the process in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the process ends. Returns the exit code and the log.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let status = until("the agent ends", || self.child.try_wait().unwrap());
        (status.code(), self.log())
    }

    /// Sends SIGTERM and waits until the process ends.
    pub(crate) fn terminate(self) -> (Option<i32>, String) {
        run(&format!("kill -TERM {}", self.child.id()));
        self.end()
    }
}

/// Returns a counter or gauge of the agent's metrics.
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
                eprintln!("cannot kill the agent: {e}");
            }
        }
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

impl Node {
    /// Writes a manifest into the agent's directory.
    pub(crate) fn manifest(&self, name: &str, text: &str) {
        let dir = self.state.path().join("manifests");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), text).unwrap();
    }

    /// Runs `ropeway` with these arguments. Returns true on success, and its output.
    pub(crate) fn ropeway(&self, arguments: &[&str]) -> (bool, String) {
        let out = Command::new(env!("CARGO_BIN_EXE_ropeway"))
            .arg(format!("--state-dir={}", self.state.path().join("lib").display()))
            .args(arguments)
            .output()
            .unwrap();
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    }
}
