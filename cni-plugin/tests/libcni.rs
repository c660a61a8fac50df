//! Tests of the plugin with the reference client: `cnitool` of github.com/containernetworking/cni,
//! over its libcni.
//!
//! Uses `ROPEWAY_CNITOOL`, or `cnitool` from the path, or builds it with Go. Without any of these
//! the tests fail; `cargo xtask test` then leaves them out and says so in its summary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Node, Sandbox, plugin};
use rustix::mount::{MountFlags, mount};
use serde_json::{Value, json};

const CNITOOL: &str = "github.com/containernetworking/cni/cnitool@v1.3.0";

fn cnitool() -> PathBuf {
    if let Some(path) = std::env::var_os("ROPEWAY_CNITOOL") {
        return path.into();
    }
    if common::have("cnitool") {
        return "cnitool".into();
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = directory.join("cnitool");
    if !built.exists() {
        let mut go = Command::new("go");
        let status = go.args(["install", CNITOOL]).env("GOBIN", directory).env("CGO_ENABLED", "0").status();
        let status = status.expect("no reference client: install Go or cnitool, or set ROPEWAY_CNITOOL");
        assert!(status.success(), "go install {CNITOOL}: {status}");
    }
    built
}

/// The client, a configuration list of one plugin that offers capabilities, and a pod.
struct Client {
    cnitool: PathBuf,
    node: Node,
    sandbox: Sandbox,
}

impl Client {
    fn new(capabilities: &Value) -> Self {
        let cnitool = cnitool();
        let node = Node::new();
        // libcni keeps results here.
        mount("tmpfs", "/var/lib", "tmpfs", MountFlags::empty(), None).unwrap();
        let fields = json!({ "cniVersion": null, "name": null, "capabilities": capabilities });
        let plugin: Value = serde_json::from_str(&node.config(&fields)).unwrap();
        let list = json!({ "cniVersion": "1.1.0", "name": "pods", "plugins": [plugin] });
        fs::create_dir(node.path("net.d")).unwrap();
        fs::write(node.path("net.d/10-pods.conflist"), list.to_string()).unwrap();
        Self { cnitool, node, sandbox: Sandbox::new() }
    }

    /// Runs a verb. Returns whether it succeeded, and its output.
    fn run(&self, verb: &str, arguments: &Value) -> (bool, String) {
        let mut command = Command::new(&self.cnitool);
        command.env("NETCONFPATH", self.node.path("net.d")).env("CNI_PATH", plugin().parent().unwrap());
        command.env("CAP_ARGS", arguments.to_string());
        let output = command.args([verb, "pods", &self.sandbox.path()]).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    }

    fn ok(&self, verb: &str, arguments: &Value) -> String {
        let (success, text) = self.run(verb, arguments);
        assert!(success, "{verb}: {text}");
        text
    }
}

#[test]
#[ignore = "needs root"]
fn reference_client_runs_every_verb() {
    let nothing = json!({});
    let client = Client::new(&nothing);
    let (node, sandbox) = (&client.node, &client.sandbox);
    let ok = |verb: &str| client.ok(verb, &nothing);
    ok("status");
    let before = node.traces();
    let result: Value = serde_json::from_str(&ok("add")).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.77.0.1/32");
    sandbox.await_running();
    ok("check");
    // The client calls DEL for the attachments in its cache, then GC.
    ok("gc");
    // DEL answers before the kernel has removed the device.
    node.settle();
    assert_eq!(sandbox.socket().link_by_name("eth0").unwrap(), None);
    let (success, text) = client.run("check", &nothing);
    assert!(!success, "{text}");
    ok("add");
    ok("del");
    ok("del");
    node.settle();
    assert_eq!(node.traces(), before);
}

#[test]
#[ignore = "needs root"]
fn reference_client_passes_runtime_config() {
    let offered = json!({ "ips": true, "mac": true, "portMappings": true, "dns": true, "ipRanges": true });
    let client = Client::new(&offered);
    let before = client.node.traces();
    let arguments = json!({
        "ips": ["10.77.0.66"],
        "mac": "02:00:00:00:00:66",
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        "dns": { "Servers": ["10.96.0.10"], "Searches": ["svc.cluster.local"], "Options": ["ndots:5"] },
        "ipRanges": [[{ "subnet": "10.77.0.64/26" }], [{ "subnet": "fd00:77::/64", "rangeStart": "fd00:77::7" }]],
    });
    let result: Value = serde_json::from_str(&client.ok("add", &arguments)).unwrap();
    assert_eq!(
        (&result["ips"][0]["address"], &result["ips"][1]["address"]),
        (&json!("10.77.0.66/32"), &json!("fd00:77::7/128"))
    );
    assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:66");
    let dns = json!({ "nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"], "options": ["ndots:5"] });
    assert_eq!(result["dns"], dns);
    assert_eq!(client.node.host_ports(), ["6 0.0.0.0:8080 -> 10.77.0.66:80", "6 [::]:8080 -> [fd00:77::7]:80"]);
    client.ok("check", &arguments);
    client.ok("del", &arguments);
    client.node.settle();
    assert_eq!(client.node.traces(), before);
    // The client prints the plugin's code and message.
    let (success, text) = client.run("add", &json!({ "ipRanges": [[{ "subnet": "10.99.0.0/24" }]] }));
    assert!(!success && text.contains("10.99.0.0/24 is in none of the ranges of the configuration"), "{text}");
    // The client passes no arguments to a plugin that does not offer the capability.
    drop(client);
    let client = Client::new(&json!({ "mac": true }));
    let result: Value = serde_json::from_str(&client.ok("add", &arguments)).unwrap();
    assert_eq!((&result["ips"][0]["address"], &result["dns"]), (&json!("10.77.0.1/32"), &Value::Null));
    assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:66");
}
