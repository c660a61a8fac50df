//! Tests of pool mode: addresses come from the blocks that the agent has written to `pools.json`,
//! by the annotations of pods and namespaces, without a running agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::time::Duration;

use common::{Answer, Node, Sandbox, call};
use dataplane_host::contract::pools::{NamespacesFile, PoolEntry, PoolRequest, PoolsFile};
use dataplane_host::contract::{self, AgentFile};
use dataplane_host::store::AddressStore;
use serde_json::{Value, json};

fn entry(name: &str, cidr: &str, blocks: &[&str]) -> PoolEntry {
    PoolEntry {
        name: name.into(),
        cidr: cidr.parse().unwrap(),
        allow_fixed_addresses: name == "red",
        restricted: false,
        reserved: vec![],
        blocks: blocks.iter().map(|b| b.parse().unwrap()).collect(),
    }
}

fn pools_file() -> PoolsFile {
    PoolsFile {
        version: 1,
        node: "n1".into(),
        boot: dataplane_host::store::boot_id().unwrap(),
        default: vec!["four".into(), "six".into()],
        pools: vec![
            entry("four", "10.80.0.0/16", &["10.80.3.64/31", "10.80.9.0/26"]),
            entry("red", "10.81.0.0/16", &["10.81.0.0/26"]),
            entry("six", "fd00:80::/64", &["fd00:80::40/122"]),
        ],
    }
}

fn node() -> Node {
    let node = Node::new();
    let state = node.path("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("node.json"), r#"{"version":1,"node":"n1","podCIDRs":[],"mtu":1400,"pools":true}"#).unwrap();
    let chosen =
        [("team".into(), PoolRequest { ipv4_pools: Some(vec!["red".into()]), ..PoolRequest::default() })].into();
    let namespaces = NamespacesFile { version: 1, chosen, plain: vec!["default".into()], ..NamespacesFile::default() };
    contract::write(&state, &namespaces).unwrap();
    contract::write(&state, &pools_file()).unwrap();
    node
}

/// Runs ADD of a pod with annotations.
fn add(node: &Node, container: &str, sandbox: &Sandbox, namespace: &str, annotations: &Value) -> Answer {
    let runtime = json!({ "io.kubernetes.cri.pod-annotations": annotations });
    let config = node.config(&json!({ "ranges": null, "runtimeConfig": runtime }));
    let mut command = common::command("ADD", container, &sandbox.path());
    command.env("CNI_ARGS", format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web-0"));
    call(&mut command, &config)
}

fn addresses(answer: Answer) -> Vec<String> {
    let result = answer.ok();
    result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "needs root"]
fn pods_get_addresses_from_requested_pools() {
    let node = node();
    let sandboxes: Vec<Sandbox> = (0..5).map(|_| Sandbox::new()).collect();
    let fixed = json!({ "ropeway.dev/ipAddrs": "[\"10.81.0.9\"]" });
    let red = json!({ "ropeway.dev/ipv4pools": "[\"red\"]" });
    for (n, (namespace, annotations, expected)) in [
        ("default", Value::Null, "10.80.3.64/32"),
        ("default", json!({ "other": "x" }), "10.80.3.65/32"),
        ("default", Value::Null, "10.80.9.0/32"),
        ("team", fixed, "10.81.0.9/32"),
        ("default", red, "10.81.0.10/32"),
    ]
    .into_iter()
    .enumerate()
    {
        let got = addresses(add(&node, &format!("c{n}"), &sandboxes[n], namespace, &annotations));
        assert_eq!(got, [expected.to_owned(), format!("fd00:80::{:x}/128", 0x40 + n)], "pod {n}");
    }
    for (n, sandbox) in sandboxes.iter().enumerate() {
        let config = node.config(&json!({ "ranges": null }));
        call(&mut common::command("DEL", &format!("c{n}"), &sandbox.path()), &config).ok();
    }
    node.settle();
    assert!(node.names("records").is_empty());
}

#[test]
#[ignore = "needs root"]
fn invalid_annotations_are_rejected_without_traces() {
    let (node, sandbox) = (node(), Sandbox::new());
    let holder = Sandbox::new();
    add(&node, "c0", &holder, "default", &json!({ "ropeway.dev/ipAddrs": "[\"10.81.0.9\"]" })).ok();
    let before = node.traces();
    for (namespace, annotations, code, words) in [
        ("default", json!({ "ropeway.dev/ipAddrs": "[\"10.80.9.7\"]" }), 7, "pool four does not allow fixed addresses"),
        ("default", json!({ "ropeway.dev/ipAddrs": "[\"192.0.2.1\"]" }), 7, "in none of the pools"),
        ("default", json!({ "ropeway.dev/ipAddrs": "[\"10.81.0.9\"]" }), 11, "10.81.0.9 is held by another attachment"),
        ("default", json!({ "ropeway.dev/ipAddrs": "[\"10.81.0.99\"]" }), 11, "in no block of this node"),
        ("default", json!({ "ropeway.dev/ipv4pools": "[\"../../x\"]" }), 7, "cannot be the name of a pool"),
        ("default", json!({ "ropeway.dev/ipv4pools": "[\"blue\"]" }), 11, "pool blue: there is none of that name"),
        ("unseen", Value::Null, 11, "has not yet seen namespace unseen"),
        ("../../etc", Value::Null, 11, "has not yet seen namespace ..,"),
    ] {
        let (got, message) = add(&node, "c1", &sandbox, namespace, &annotations).error();
        assert!(got == code && message.contains(words), "{got} {message}");
        assert_eq!(node.traces(), before, "{message}");
    }
}

#[test]
#[ignore = "needs root"]
fn block_returned_by_the_agent_is_not_used() {
    let (node, sandbox) = (node(), Sandbox::new());
    let state = node.path("state");
    let store = AddressStore::open(&state).unwrap();
    let locked = store.lock(Duration::from_secs(5)).unwrap();
    std::thread::scope(|scope| {
        // The plugin reads the file once before it waits for the lock; then the block is removed.
        let adding = scope.spawn(|| add(&node, "c1", &sandbox, "default", &Value::Null));
        let waiting = || fs::read_to_string("/proc/locks").unwrap().lines().any(|line| line.contains("-> FLOCK"));
        while !waiting() && !adding.is_finished() {
            std::thread::yield_now();
        }
        assert!(!adding.is_finished());
        let mut file = pools_file();
        file.pools[0].blocks.remove(0);
        contract::write(&state, &file).unwrap();
        drop(locked);
        assert_eq!(addresses(adding.join().unwrap())[0], "10.80.9.0/32");
    });
}

#[test]
#[ignore = "needs root"]
fn status_fails_without_free_addresses_in_blocks() {
    let node = node();
    let config = node.config(&json!({ "ranges": null }));
    let status = || call(&mut common::command("STATUS", "", ""), &config);
    status().ok();
    let mut file = pools_file();
    file.pools[0].blocks = vec!["10.80.3.64/32".parse().unwrap()];
    contract::write(&node.path("state"), &file).unwrap();
    let sandbox = Sandbox::new();
    add(&node, "c1", &sandbox, "default", &Value::Null).ok();
    let (code, message) = status().error();
    assert!(code == 50 && message.contains("no free address in 10.80.3.64/32"), "{code} {message}");
    let second = Sandbox::new();
    let (code, message) = add(&node, "c2", &second, "default", &Value::Null).error();
    assert!(code == 11 && message.contains("the agent claims another block"), "{code} {message}");
    file.pools[0].blocks.clear();
    contract::write(&node.path("state"), &file).unwrap();
    let (code, message) = status().error();
    assert!(code == 50 && message.contains("this node has no block of four"), "{code} {message}");
    fs::remove_file(node.path("state").join(PoolsFile::NAME)).unwrap();
    let (_, message) = status().error();
    assert!(message.contains("pools.json"), "{message}");
}
