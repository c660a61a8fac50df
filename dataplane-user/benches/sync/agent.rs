//! Measures the memory of a whole agent: the program `ropeway-agent`, with programs loaded, HTTP
//! servers and all tasks, that has listed all objects from an API server.
//!
//! The benchmark executes itself in network and mount namespaces of their own. There it is the API
//! server ([`crate::server`]), starts the agent, and reads the agent's `/proc/PID/status` when all
//! objects are in the maps.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dataplane_user::load::mounts;

use crate::{objects, server};

/// Number of agents that are measured, one after the other.
const RUNS: usize = 3;
/// Time until all objects are in the maps. It includes a restart for larger maps, or two.
const IN_SYNC: Duration = Duration::from_secs(300);
/// Time after that in which nothing changes, so that what the list needed is freed.
const REST: Duration = Duration::from_secs(10);

/// Memory of one agent in MiB.
pub(crate) struct Memory {
    /// Resident memory.
    pub(crate) rss: f64,
    /// Of that, memory that no file backs.
    pub(crate) anonymous: f64,
    /// The largest resident memory since the last restart.
    pub(crate) peak: f64,
}

/// Runs agents and returns their memory.
pub(crate) fn measure() -> Vec<Memory> {
    (0..RUNS).map(|_| measure_one()).collect()
}

fn measure_one() -> Memory {
    let mounts = mounts::parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap());
    let cgroup = mounts::cgroup2(&mounts).unwrap().join(format!("rw-bench-sync-{}", std::process::id()));
    std::fs::create_dir(&cgroup).unwrap();
    let script =
        "mount -t bpf bpf /sys/fs/bpf && ip link set lo up && ip address add 192.0.2.1/32 dev lo && exec \"$0\" \"$@\"";
    let child = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg("--agent")
        .arg(&cgroup)
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let lines: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    let ended = child.wait();
    std::fs::remove_dir(&cgroup).unwrap();
    assert!(ended.unwrap().success(), "{lines:?}");
    let mib = |name: &str| {
        let line = lines.iter().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    Memory { rss: mib("VmRSS:"), anonymous: mib("RssAnon:"), peak: mib("VmHWM:") }
}

/// Runs inside the namespaces: serves the objects to an agent, and prints its memory.
pub(crate) fn run(cgroup: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || server::serve(&listener));
    let directory = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(directory.path(), cgroup, port);
    let status = agent.in_sync();
    println!("{status}");
}

/// A running agent, killed at the end.
struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    fn start(directory: &Path, cgroup: &Path, port: u16) -> Self {
        let (kubeconfig, log) = (directory.join("kubeconfig"), directory.join("log"));
        let server = format!("http://127.0.0.1:{port}");
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ropeway-agent"))
            .args(["--source=kubernetes", "--node-name=node-1", "--node-ip=192.0.2.1", "--uplink=lo"])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--state-dir")
            .arg(directory.join("state"))
            .arg("--cgroup-root")
            .arg(cgroup)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn();
        Self { child: child.unwrap(), log }
    }

    /// Waits until all objects are in the maps and the agent rests. Returns its
    /// `/proc/PID/status`.
    fn in_sync(&mut self) -> String {
        let wanted = [
            "ropeway_synced 1".to_owned(),
            format!("ropeway_services {}", objects::SERVICES),
            format!("ropeway_map_entries{{map=\"backends\"}} {}", objects::ENDPOINTS),
        ];
        let deadline = Instant::now() + IN_SYNC;
        loop {
            let metrics = metrics().unwrap_or_default();
            if wanted.iter().all(|wanted| metrics.lines().any(|line| line == wanted)) {
                break;
            }
            let log = || std::fs::read_to_string(&self.log).unwrap();
            assert!(self.child.try_wait().unwrap().is_none() && Instant::now() < deadline, "{}\n{metrics}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(REST);
        std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Returns the agent's metrics; `None` while it does not serve them.
fn metrics() -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", 10249)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}
