//! The plugin called by the reference client: `cnitool` of github.com/containernetworking/cni, over its libcni.
//!
//! Uses `ROPEWAY_CNITOOL`, or `cnitool` from the path, or builds it with Go. Where there is none of these it says so and
//! proves nothing; the suites beside it need no Go.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Node, Sandbox, plugin};
use rustix::mount::{MountFlags, mount};
use serde_json::{Value, json};

const CNITOOL: &str = "github.com/containernetworking/cni/cnitool@v1.3.0";

fn cnitool() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ROPEWAY_CNITOOL") {
        return Some(path.into());
    }
    if common::have("cnitool") {
        return Some("cnitool".into());
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = directory.join("cnitool");
    if !built.exists() {
        let mut go = Command::new("go");
        let status = go.args(["install", CNITOOL]).env("GOBIN", directory).env("CGO_ENABLED", "0").status().ok()?;
        assert!(status.success(), "go install {CNITOOL}: {status}");
    }
    Some(built)
}

#[test]
#[ignore = "needs root"]
fn the_reference_client_drives_every_verb() {
    let Some(cnitool) = cnitool() else {
        eprintln!("neither cnitool nor go is there: the reference client was not tried");
        return;
    };
    let node = Node::new();
    // libcni keeps results here.
    mount("tmpfs", "/var/lib", "tmpfs", MountFlags::empty(), None).unwrap();
    let list = json!({
        "cniVersion": "1.1.0",
        "name": "pods",
        "plugins": [serde_json::from_str::<Value>(&node.config(&json!({ "cniVersion": null, "name": null }))).unwrap()],
    });
    fs::create_dir(node.path("net.d")).unwrap();
    fs::write(node.path("net.d/10-pods.conflist"), list.to_string()).unwrap();
    let sandbox = Sandbox::new();
    let run = |verb: &str| {
        let mut command = Command::new(&cnitool);
        command.env("NETCONFPATH", node.path("net.d")).env("CNI_PATH", plugin().parent().unwrap());
        let output = command.args([verb, "pods", &sandbox.path()]).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    };
    let ok = |verb: &str| {
        let (success, text) = run(verb);
        assert!(success, "{verb}: {text}");
        text
    };
    ok("status");
    let before = node.traces();
    let result: Value = serde_json::from_str(&ok("add")).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.77.0.1/32");
    assert!(sandbox.socket().link_by_name("eth0").unwrap().unwrap().running);
    ok("check");
    // The client deletes what it has in its cache, then asks for the rest.
    ok("gc");
    // Its DEL answers before the kernel has removed the device.
    node.settle();
    assert_eq!(sandbox.socket().link_by_name("eth0").unwrap(), None);
    let (success, text) = run("check");
    assert!(!success, "{text}");
    ok("add");
    ok("del");
    ok("del");
    node.settle();
    assert_eq!(node.traces(), before);
}
