//! Tests of the plugin in chains with the reference plugins (Debian's package
//! containernetworking-plugins). The tests call them as a runtime does: each gets the result of the
//! one before it, CHECK and DEL get the last result, and DEL runs in reverse order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Answer, Node, Sandbox, call, environment, socket};
use dataplane_host::netlink::{IfIndex, add_address};
use serde_json::{Value, json};

const REFERENCE: &str = "/usr/lib/cni";

/// A network configuration list and a pod namespace.
struct Chain {
    node: Node,
    pod: Sandbox,
    version: &'static str,
    plugins: Vec<Value>,
}

impl Chain {
    fn new(version: &'static str, plugins: &[Value]) -> Self {
        let node = Node::new();
        let ours = |plugin: &Value| {
            let whole: Value = serde_json::from_str(&node.config(plugin)).unwrap();
            if plugin["type"] == "ropeway-cni" { whole } else { plugin.clone() }
        };
        let plugins = plugins.iter().map(ours).collect();
        Self { node, pod: Sandbox::new(), version, plugins }
    }

    fn call(&self, verb: &str, plugin: &Value, result: &Value) -> Answer {
        let mut config = plugin.clone();
        config["cniVersion"] = self.version.into();
        config["name"] = "pods".into();
        if !result.is_null() {
            config["prevResult"] = result.clone();
        }
        let mut command = environment(Command::new(program(plugin)), verb, "c1", &self.pod.path());
        command.env("PATH", "/usr/sbin:/usr/bin").env("CNI_PATH", REFERENCE);
        command.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0");
        call(&mut command, &config.to_string())
    }

    /// Runs ADD of all plugins. Returns the last result, or the plugin that failed and its answer.
    fn add(&self) -> Result<Value, (Value, Answer)> {
        self.plugins.iter().try_fold(Value::Null, |result, plugin| {
            let answer = self.call("ADD", plugin, &result);
            if answer.success { Ok(answer.json) } else { Err((plugin["type"].clone(), answer)) }
        })
    }

    fn check(&self, result: &Value) {
        for plugin in &self.plugins {
            assert_eq!(self.call("CHECK", plugin, result).ok(), Value::Null);
        }
    }

    fn del(&self, result: &Value) {
        for plugin in self.plugins.iter().rev() {
            self.call("DEL", plugin, result).ok();
        }
        self.node.settle();
    }
}

fn program(plugin: &Value) -> PathBuf {
    match plugin["type"].as_str().unwrap() {
        "ropeway-cni" => common::plugin(),
        name => {
            let path = Path::new(REFERENCE).join(name);
            assert!(path.is_file(), "{}: apt-get install containernetworking-plugins", path.display());
            path
        }
    }
}

fn ours() -> Value {
    json!({ "type": "ropeway-cni" })
}

/// Returns the NAT rules of both families.
fn rules() -> String {
    let list = |program| {
        let output = Command::new(program).args(["-t", "nat", "-S"]).output().expect(program);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    list("iptables") + &list("ip6tables")
}

/// Returns a configuration of `tuning` for eth0; it saves the old settings beside the node's files.
fn tuning(node: &Node, settings: &Value) -> Value {
    let mut plugin = settings.clone();
    plugin["type"] = "tuning".into();
    plugin["dataDir"] = node.path("tuning").to_str().unwrap().into();
    plugin
}

#[test]
#[ignore = "needs root"]
fn tuning_and_portmap_run_after_the_plugin() {
    let ports = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
    let portmap = json!({ "type": "portmap", "snat": true, "runtimeConfig": { "portMappings": ports } });
    let mut chain = Chain::new("1.0.0", &[ours()]);
    let settings = json!({ "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1" }, "mtu": 1400 });
    chain.plugins.extend([tuning(&chain.node, &settings), portmap]);
    socket().run(&[add_address(IfIndex(1), "192.0.2.1/32".parse().unwrap())]).unwrap();
    let before = chain.node.traces();
    let result = chain.add().unwrap();
    assert_eq!(result["ips"][0], json!({ "address": "10.77.0.1/32", "gateway": "169.254.1.1", "interface": 1 }));
    assert_eq!(result["interfaces"][1]["sandbox"], chain.pod.path());
    assert_eq!(chain.pod.socket().link_by_name("eth0").unwrap().unwrap().mtu, 1400);
    let made = rules();
    for destination in ["10.77.0.1:80", "[fd00:77::1]:80"] {
        assert!(made.contains(&format!("--dport 8080 -j DNAT --to-destination {destination}")), "{made}");
    }
    // CHECK of portmap 1.1 looks for the rules of one family among those of both, so it is not
    // called.
    let portmap = chain.plugins.pop().unwrap();
    chain.check(&result);
    chain.plugins.push(portmap);
    let listener = chain.pod.within(|| TcpListener::bind("0.0.0.0:80").unwrap());
    TcpStream::connect("192.0.2.1:8080").unwrap().write_all(b"hello").unwrap();
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    for _ in 0..2 {
        chain.del(&result);
        assert_eq!(chain.node.traces(), before);
    }
    assert!(!rules().contains("8080"), "{}", rules());
}

#[test]
#[ignore = "needs root"]
fn plugin_runs_after_another_and_extends_its_result() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        // Without settings, tuning parses the result and prints it again.
        let chain = Chain::new(version, &[json!({ "type": "loopback" }), ours(), json!({ "type": "tuning" })]);
        let before = chain.node.traces();
        let result = chain.add().unwrap();
        let names: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|i| i["name"].clone()).collect();
        assert_eq!((names.len(), &names[0], &names[2]), (3, &json!("lo"), &json!("eth0")), "{result}");
        let ips: Vec<_> =
            result["ips"].as_array().unwrap().iter().map(|ip| (&ip["address"], &ip["interface"])).collect();
        for (address, interface) in [("127.0.0.1/8", 0), ("10.77.0.1/32", 2), ("fd00:77::1/128", 2)] {
            assert!(ips.contains(&(&json!(address), &json!(interface))), "{version}: {address}: {result}");
        }
        if version >= "0.4.0" {
            chain.check(&result);
        }
        chain.del(&result);
        assert_eq!(chain.node.traces(), before, "{version}");
    }
}

#[test]
#[ignore = "needs root"]
fn check_reports_a_mac_changed_by_a_later_plugin() {
    let mut chain = Chain::new("1.0.0", &[ours()]);
    let before = chain.node.traces();
    chain.plugins.push(tuning(&chain.node, &json!({ "mac": "02:00:00:00:00:99" })));
    let result = chain.add().unwrap();
    let (code, message) = chain.call("CHECK", &chain.plugins[0], &result).error();
    assert!(code == 107 && message.contains("eth0 has another MAC"), "{code} {message}");
    chain.del(&result);
    assert_eq!(chain.node.traces(), before);
}

#[test]
#[ignore = "needs root"]
fn del_cleans_up_after_a_later_plugin_failed() {
    for failing in [
        json!({ "type": "tuning", "sysctl": { "net.there.is.none": "1" } }),
        json!({ "type": "bandwidth", "egressRate": 8_000_000, "egressBurst": 8_000_000 }),
    ] {
        let chain = Chain::new("1.0.0", &[ours(), failing]);
        let before = chain.node.traces();
        let (failed, answer) = chain.add().unwrap_err();
        assert_ne!(failed, "ropeway-cni", "{answer:?}");
        // After a failed ADD the runtime has no result.
        chain.del(&Value::Null);
        assert_eq!(chain.node.traces(), before, "{failed}");
    }
}
