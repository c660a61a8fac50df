//! A node on which tests run the plugin as a black box: the test's own thread in new network and
//! mount namespaces, a bpffs with pins like the agent's (stand-in programs, real maps), and a state
//! directory. All of it is removed with the test.
#![allow(dead_code, reason = "each suite uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::pod::{AddressInfo, POD_SLOTS, Pod, PodNetns, pod_flags};
use dataplane_common::types::service::{FrontendKey, HostPort};
use dataplane_host::map::PinnedMap;
use dataplane_host::netlink::{IfIndex, Socket, set_up};
use dataplane_host::netns::Netns;
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

/// Returns the path of the plugin: the one that `cargo xtask build` made, if xtask runs the tests.
pub(crate) fn plugin() -> PathBuf {
    let built = std::env::var_os("ROPEWAY_BIN_DIR").map(|d| PathBuf::from(d).join("ropeway-cni"));
    built.unwrap_or_else(|| env!("CARGO_BIN_EXE_ropeway-cni").into())
}

/// Opens a netlink socket in the node's namespace.
pub(crate) fn socket() -> Socket {
    Socket::open().unwrap()
}

/// Returns a command for the plugin with its environment, not yet started.
pub(crate) fn command(verb: &str, container: &str, netns: &str) -> Command {
    environment(Command::new(plugin()), verb, container, netns)
}

/// The node, in the namespaces of the thread that created it; threads spawned from there share it.
pub(crate) struct Node {
    directory: PathBuf,
}

/// A pod's network namespace, created as a runtime does.
pub(crate) struct Sandbox {
    netns: Netns,
}

/// The plugin's exit code and output.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) success: bool,
    /// Exit code; `None`: a signal ended the process.
    pub(crate) exit: Option<i32>,
    /// Standard output as JSON; null if there was none.
    pub(crate) json: Value,
    pub(crate) log: String,
}

impl Answer {
    pub(crate) fn ok(self) -> Value {
        assert!(self.success, "{} {}", self.json, self.log);
        self.json
    }

    /// Returns the error's code and message. Checks the form of the error object.
    pub(crate) fn error(&self) -> (u64, String) {
        assert!(!self.success, "{}", self.json);
        assert!(self.json["cniVersion"].is_string() && self.json["details"].is_string(), "{}", self.json);
        (self.json["code"].as_u64().unwrap(), self.json["msg"].as_str().unwrap().to_owned())
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        let node = Self::without_agent();
        node.make_pins();
        node
    }

    /// A node on which the agent has never run.
    pub(crate) fn without_agent() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        #[expect(deprecated, reason = "the flag that makes it unsafe, FILES, is not used")]
        rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS)
            .expect("these tests make network and mount namespaces: run them as root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        // A private mount: the machine's would keep the files of tests.
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
        fs::create_dir("/run/netns").unwrap();
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("rw-cni-{}-{n}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        fs::create_dir(directory.join("bpf")).unwrap();
        mount("bpf", directory.join("bpf"), "bpf", MountFlags::empty(), None).unwrap();
        let node = Self { directory };
        socket().run(&[set_up(IfIndex(1))]).unwrap();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn pin_root(&self) -> PathBuf {
        self.path("bpf/ropeway")
    }

    pub(crate) fn pins(&self) -> Pins {
        Pins::new(&self.pin_root())
    }

    fn make_pins(&self) {
        const HASH: u32 = 1;
        const ARRAY: u32 = 2;
        let pins = self.pins();
        for directory in ["maps", "programs", "links"] {
            fs::create_dir_all(pins.directory().join(directory)).unwrap();
        }
        for (name, kind, key, value, entries) in [
            ("pods", ARRAY, 4, size_of::<Pod>(), POD_SLOTS),
            ("addresses4", HASH, size_of::<V4>(), size_of::<AddressInfo>(), 4096),
            ("addresses6", HASH, size_of::<V6>(), size_of::<AddressInfo>(), 4096),
            ("pod_netns", HASH, 8, size_of::<PodNetns>(), 4096),
            ("host_ports4", HASH, size_of::<FrontendKey<V4>>(), size_of::<HostPort<V4>>(), 4096),
            ("host_ports6", HASH, size_of::<FrontendKey<V6>>(), size_of::<HostPort<V6>>(), 4096),
        ] {
            let map = sys::create_map(kind, key as u32, value as u32, entries, 0).unwrap();
            sys::obj_pin(map.as_fd(), &pins.map(name)).unwrap();
        }
        for name in ["from_pod", "to_pod"] {
            let program = sys::return_program(name, 0).unwrap();
            sys::obj_pin(program.as_fd(), &pins.program(name)).unwrap();
        }
    }

    pub(crate) fn table<K: bytemuck::Pod, V: bytemuck::Pod>(&self, name: &str) -> PinnedMap<K, V> {
        PinnedMap::open(&self.pins(), name).unwrap()
    }

    /// Returns the configuration of this node's network, with fields changed or (by null) removed.
    pub(crate) fn config(&self, changes: &Value) -> String {
        let mut config = json!({
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "ropeway-cni",
            "pinRoot": self.pin_root(),
            "stateDir": self.path("state"),
            "ranges": ["10.77.0.0/24", "fd00:77::/64"],
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        if let Some(fields) = config.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        config.to_string()
    }

    /// Lists the entries of both host port maps as `17 0.0.0.0:53 -> 10.77.0.1:5353`, where 17 is
    /// the protocol.
    pub(crate) fn host_ports(&self) -> Vec<String> {
        fn show<A: Into<IpAddr> + Copy>((key, to): &(FrontendKey<A>, HostPort<A>)) -> String {
            let (from, to) = (SocketAddr::new(key.addr.into(), key.port), SocketAddr::new(to.addr.into(), to.port));
            format!("{} {from} -> {to}", key.proto)
        }
        let four = self.table::<FrontendKey<V4>, HostPort<V4>>("host_ports4").entries().unwrap();
        let six = self.table::<FrontendKey<V6>, HostPort<V6>>("host_ports6").entries().unwrap();
        let mut all: Vec<_> = four.iter().map(show).chain(six.iter().map(show)).collect();
        all.sort();
        all
    }

    pub(crate) fn add(&self, container: &str, sandbox: &Sandbox) -> Answer {
        call(&mut command("ADD", container, &sandbox.path()), &self.config(&Value::Null))
    }

    pub(crate) fn del(&self, container: &str, netns: &str) -> Answer {
        call(&mut command("DEL", container, netns), &self.config(&Value::Null))
    }

    /// Writes the node's MTU to `node.json`, as the agent does.
    pub(crate) fn says_mtu(&self, mtu: u32) {
        let text = json!({ "version": 1, "node": "n1", "podCIDRs": [], "mtu": mtu }).to_string();
        let next = self.path("next.json");
        fs::write(&next, text).unwrap();
        fs::create_dir_all(self.path("state")).unwrap();
        fs::rename(next, self.path("state/node.json")).unwrap();
    }

    /// Runs STATUS, as a runtime does every few seconds.
    pub(crate) fn status(&self, changes: &Value) -> Answer {
        call(Command::new(plugin()).env_clear().env("CNI_COMMAND", "STATUS"), &self.config(changes))
    }

    /// Waits until the plugin has changed running pods to an MTU. Returns the errors of pods that
    /// could not be changed.
    pub(crate) fn brought(&self, mtu: u32) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(self.path("state/pod-mtu.json")).unwrap_or_default();
            let journal: Value = serde_json::from_str(&text).unwrap_or_default();
            let failed: Vec<String> = serde_json::from_value(journal["failed"].clone()).unwrap_or_default();
            if journal["mtu"] == mtu && (journal["done"] == true || !failed.is_empty()) {
                return failed;
            }
            assert!(Instant::now() < deadline, "not brought to {mtu}: {text}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until no background removal is running.
    pub(crate) fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.names("releasing").is_empty() {
            assert!(Instant::now() < deadline, "still releasing: {:?}", self.names("releasing"));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lists the names in a directory of the address store.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let path = self.path("state/addresses").join(directory);
        let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Collects everything that a verb could leave behind: devices, routes, map entries, files.
    pub(crate) fn traces(&self) -> BTreeMap<&'static str, Vec<String>> {
        let mut socket = socket();
        let show = |items: Vec<String>| {
            let mut items = items;
            items.sort();
            items
        };
        let links = socket.links().unwrap().into_iter().map(|l| format!("{} {}", l.index, l.name)).collect();
        let routes = socket.routes(82).unwrap().iter().map(|r| format!("{r:?}")).collect();
        let mut traces = BTreeMap::from([
            ("links", show(links)),
            ("routes", show(routes)),
            ("records", self.names("records")),
            ("temporary", self.names("temporary")),
            ("releasing", self.names("releasing")),
            ("damaged", self.names("damaged")),
        ]);
        if self.pins().map("pods").exists() {
            let pods = self.table::<u32, Pod>("pods").entries().unwrap();
            let present = pods.iter().filter(|(_, p)| p.flags & pod_flags::PRESENT != 0);
            traces.insert("pods", show(present.map(|(i, p)| format!("{i} {p:?}")).collect()));
            let text = |e: Vec<(V4, AddressInfo)>| e.iter().map(|e| format!("{e:?}")).collect();
            traces.insert("addresses4", show(text(self.table("addresses4").entries().unwrap())));
            let text = |e: Vec<(V6, AddressInfo)>| e.iter().map(|e| format!("{e:?}")).collect();
            traces.insert("addresses6", show(text(self.table("addresses6").entries().unwrap())));
            let text = |e: Vec<(u64, PodNetns)>| e.iter().map(|e| format!("{e:?}")).collect();
            traces.insert("host_ports", self.host_ports());
            traces.insert("pod_netns", show(text(self.table("pod_netns").entries().unwrap())));
        }
        traces
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails in tests that mount nothing here.
        rustix::mount::unmount(self.directory.join("state"), rustix::mount::UnmountFlags::DETACH).unwrap_or_default();
        rustix::mount::unmount(self.directory.join("bpf"), rustix::mount::UnmountFlags::DETACH).unwrap();
        // The last call's background process may still be running.
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(e) = fs::remove_dir_all(&self.directory) {
            assert!(Instant::now() < deadline, "{}: {e}", self.directory.display());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { netns: Netns::new().unwrap() }
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_fd().as_raw_fd())
    }

    /// Gives the namespace a name where runtimes do; the name is removed with the node.
    pub(crate) fn keep(&self, name: &str) {
        let kept = Path::new("/run/netns");
        fs::write(kept.join(name), "").unwrap();
        mount_bind(self.path(), kept.join(name)).unwrap();
    }

    /// Waits until the kernel reports the pod's device as running, which it does some time after
    /// the device is up (`net/core/link_watch.c`).
    pub(crate) fn await_running(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.socket().link_by_name("eth0").unwrap().unwrap().running {
            assert!(Instant::now() < deadline, "the pod's device is not running after 10 s");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns the MTU of the pod's device.
    pub(crate) fn mtu(&self) -> u32 {
        self.socket().link_by_name("eth0").unwrap().unwrap().mtu
    }

    pub(crate) fn within<R>(&self, f: impl FnOnce() -> R) -> R {
        self.netns.within(&Netns::current().unwrap(), f).unwrap()
    }

    pub(crate) fn socket(&self) -> Socket {
        self.within(|| Socket::open().unwrap())
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn environment(mut command: Command, verb: &str, container: &str, netns: &str) -> Command {
    command
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env("CNI_ARGS", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0");
    command
}

/// Returns a command that runs a verb under strace, with its threads and children.
pub(crate) fn traced(verb: &str, netns: &str, flags: &[String]) -> Command {
    assert!(have("strace"), "this test needs strace: apt-get install strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq"]).args(flags).arg(plugin());
    let mut command = environment(strace, verb, "c1", netns);
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command
}

pub(crate) fn call(command: &mut Command, input: &(impl AsRef<[u8]> + ?Sized)) -> Answer {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The plugin may exit before it has read its whole input.
    drop(child.stdin.take().unwrap().write_all(input.as_ref()));
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let json = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect(&text) };
    let (success, exit) = (output.status.success(), output.status.code());
    Answer { success, exit, json, log: String::from_utf8(output.stderr).unwrap() }
}

/// Returns whether a program is in the path.
pub(crate) fn have(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|d| d.join(program).is_file())
}
