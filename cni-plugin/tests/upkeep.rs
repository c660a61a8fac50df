//! Tests of CHECK, STATUS and GC: reported differences, readiness, and removal of leftovers, also
//! while maps or files can't be read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use common::{Answer, Node, Sandbox, call, command, socket};
use dataplane_common::types::pod::Pod;
use dataplane_host::netlink::{
    Direction, Hop, IfIndex, PROTOCOL, Route, delete_address, delete_filter, delete_neighbour, delete_route, set_down,
};
use serde_json::{Value, json};

fn check(node: &Node, sandbox: &Sandbox, result: &Value) -> Answer {
    call(&mut command("CHECK", "c1", &sandbox.path()), &node.config(&json!({ "prevResult": result })))
}

#[test]
#[ignore = "needs root"]
fn check_succeeds_on_an_intact_pod() {
    let (node, sandbox) = (Node::new(), Sandbox::new());
    let result = node.add("c1", &sandbox).ok();
    let before = node.traces();
    for _ in 0..3 {
        assert_eq!(check(&node, &sandbox, &result).ok(), Value::Null);
    }
    assert_eq!(node.traces(), before);
    node.del("c1", &sandbox.path()).ok();
    assert!(check(&node, &sandbox, &result).error().1.contains("no record"));
}

#[test]
#[ignore = "needs root"]
fn check_names_what_is_missing() {
    type Damage = fn(&Node, &Sandbox, IfIndex);
    let cases: [(&str, Damage); 8] = [
        ("the pod's eth0 has no address 10.77.0.", |_, sandbox, _| {
            let mut inside = sandbox.socket();
            let index = inside.link_by_name("eth0").unwrap().unwrap().index;
            let all = inside.addresses().unwrap();
            let four = all.iter().find(|a| a.index == index && a.network.is_ipv4()).unwrap().network;
            inside.run(&[delete_address(index, four)]).unwrap();
        }),
        ("the pod has no default route over fe80::1", |_, sandbox, _| {
            let mut inside = sandbox.socket();
            let route = *inside.routes(3).unwrap().iter().find(|r| r.destination.is_ipv6()).unwrap();
            inside.run(&[delete_route(&route)]).unwrap();
        }),
        ("the pod does not know the MAC of 169.254.1.1", |_, sandbox, _| {
            let mut inside = sandbox.socket();
            let index = inside.link_by_name("eth0").unwrap().unwrap().index;
            inside.run(&[delete_neighbour(index, "169.254.1.1".parse().unwrap())]).unwrap();
        }),
        ("the node has no route to 10.77.0.", |_, _, index| {
            let route = socket().routes(PROTOCOL).unwrap().into_iter().find(|r| r.destination.is_ipv4()).unwrap();
            assert_eq!(route, Route::new(route.destination, Hop::Device { index }));
            socket().run(&[delete_route(&route)]).unwrap();
        }),
        ("program from_pod is not attached", |_, _, index| {
            socket().run(&[delete_filter(index, Direction::Ingress)]).unwrap();
        }),
        ("map pods has no such pod", |node, _, index| {
            let empty: Pod = bytemuck::Zeroable::zeroed();
            node.table::<u32, Pod>("pods").insert(&index.0, &empty).unwrap();
        }),
        ("is down", |_, _, index| socket().run(&[set_down(index)]).unwrap()),
        ("there is no device rw", |_, _, index| {
            socket().run(&[dataplane_host::netlink::delete_link(index)]).unwrap();
        }),
    ];
    let node = Node::new();
    for (words, damage) in cases {
        let sandbox = Sandbox::new();
        let result = node.add("c1", &sandbox).ok();
        let name = result["interfaces"][0]["name"].as_str().unwrap();
        let index = socket().link_by_name(name).unwrap().unwrap().index;
        damage(&node, &sandbox, index);
        let (code, message) = check(&node, &sandbox, &result).error();
        assert!(code == 107 && message.contains(words), "{words:?}: {code} {message}");
        node.del("c1", &sandbox.path()).ok();
        node.settle();
    }
}

#[test]
#[ignore = "needs root"]
fn check_requires_a_result_and_a_version() {
    let (node, sandbox) = (Node::new(), Sandbox::new());
    let result = node.add("c1", &sandbox).ok();
    let check = |changes: Value| call(&mut command("CHECK", "c1", &sandbox.path()), &node.config(&changes)).error();
    assert_eq!(check(json!({})).0, 7);
    assert_eq!(check(json!({ "cniVersion": "0.3.1", "prevResult": result })).0, 1);
    let other = json!({ "ips": [{ "address": "10.77.0.99/32" }] });
    assert!(check(json!({ "prevResult": other })).1.contains("prevResult does not have address 10.77.0.1/32"));
}

#[test]
#[ignore = "needs root"]
fn status_reports_whether_add_would_succeed() {
    let node = Node::without_agent();
    let (code, message) = node.status(&Value::Null).error();
    assert!(code == 50 && message.contains("the agent has not run"), "{code} {message}");
    drop(node);
    let node = Node::new();
    assert_eq!(node.status(&Value::Null).ok(), Value::Null);
    assert_eq!(node.status(&json!({ "ranges": null })).error().0, 50);
    assert_eq!(node.status(&json!({ "cniVersion": "1.0.0" })).error().0, 1);
    let small = json!({ "ranges": ["10.77.0.0/30", "fd00:77::/64"] });
    for pod in 0..2 {
        assert_eq!(node.status(&small).ok(), Value::Null);
        call(&mut command("ADD", &format!("c{pod}"), &Sandbox::new().path()), &node.config(&small)).ok();
    }
    let (code, message) = node.status(&small).error();
    assert!(code == 50 && message.contains("no free address in 10.77.0.0/30"), "{code} {message}");
    fs::remove_file(node.pins().program("to_pod")).unwrap();
    let (code, message) = node.status(&Value::Null).error();
    assert!(code == 51 && message.contains("to_pod"), "{code} {message}");
}

fn collect(node: &Node, valid: &[&str], changes: &Value) -> Answer {
    let list: Vec<_> = valid.iter().map(|c| json!({ "containerID": c, "ifname": "eth0" })).collect();
    let mut changes = changes.clone();
    changes["cni.dev/valid-attachments"] = list.into();
    let mut command = std::process::Command::new(common::plugin());
    call(command.env_clear().env("CNI_COMMAND", "GC"), &node.config(&changes))
}

#[test]
#[ignore = "needs root"]
fn gc_removes_unlisted_attachments_of_its_network_only() {
    let node = Node::new();
    let sandboxes: Vec<_> = (0..5).map(|_| Sandbox::new()).collect();
    for (n, sandbox) in sandboxes.iter().enumerate() {
        let network = json!({ "name": if n == 4 { "other" } else { "pods" } });
        call(&mut command("ADD", &format!("c{n}"), &sandbox.path()), &node.config(&network)).ok();
    }
    assert_eq!(collect(&node, &["c1", "c3"], &json!({})).ok(), Value::Null);
    let devices = sandboxes.iter().map(|s| s.socket().link_by_name("eth0").unwrap().is_some());
    assert_eq!(devices.collect::<Vec<_>>(), [false, true, false, true, true]);
    assert_eq!(node.names("records").len(), 9);
    assert_eq!(node.names("releasing"), [""; 0]);
    assert_eq!(node.traces()["addresses4"].len(), 3);
    assert_eq!(collect(&node, &["c1", "c3"], &json!({})).ok(), Value::Null);
    let mut config: Value = serde_json::from_str(&node.config(&Value::Null)).unwrap();
    config["cni.dev/valid-attachments"] = Value::Null;
    let mut command = std::process::Command::new(common::plugin());
    call(command.env_clear().env("CNI_COMMAND", "GC"), &config.to_string()).ok();
    assert_eq!(node.names("records").len(), 3);
    let mut command = std::process::Command::new(common::plugin());
    call(command.env_clear().env("CNI_COMMAND", "GC"), &node.config(&json!({ "name": "other" }))).ok();
    assert_eq!(node.names("records").len(), 3, "without a list nothing is known to be dead");
    let old = json!({ "name": "other", "cni.dev/attachments": [] });
    let mut command = std::process::Command::new(common::plugin());
    call(command.env_clear().env("CNI_COMMAND", "GC"), &node.config(&old)).ok();
    assert_eq!(node.names("records"), [""; 0]);
    assert_eq!(collect(&node, &[], &json!({ "cniVersion": "1.0.0" })).error().0, 1);
}

#[test]
#[ignore = "needs root"]
fn gc_removes_pods_whose_records_were_lost() {
    let (node, sandbox) = (Node::new(), Sandbox::new());
    let before = node.traces();
    node.add("c1", &sandbox).ok();
    node.add("c2", &Sandbox::new()).ok(); // Without its namespace: only map entries are left.
    fs::remove_dir_all(node.path("state")).unwrap();
    assert_eq!(collect(&node, &["c1"], &json!({ "ranges": ["10.99.0.0/24"] })).ok(), Value::Null);
    assert!(sandbox.socket().link_by_name("eth0").unwrap().is_some(), "not an address of ours");
    assert_eq!(collect(&node, &["c1"], &json!({})).ok(), Value::Null);
    assert_eq!(sandbox.socket().link_by_name("eth0").unwrap(), None);
    assert_eq!(node.traces(), before);
}

/// Replaces a pin by one of a map with other sizes, for as long as the value lives.
struct Unusable {
    pin: PathBuf,
    aside: PathBuf,
}

impl Unusable {
    fn map(node: &Node, name: &str) -> Self {
        let (pin, aside) = (node.pins().map(name), node.pins().map("aside"));
        fs::rename(&pin, &aside).unwrap();
        let other = dataplane_host::sys::create_map(1, 1, 1, 1, 0).unwrap();
        dataplane_host::sys::obj_pin(other.as_fd(), &pin).unwrap();
        Self { pin, aside }
    }
}

impl Drop for Unusable {
    fn drop(&mut self) {
        fs::rename(&self.aside, &self.pin).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn del_and_gc_fail_before_they_remove_anything_while_a_map_cannot_be_opened() {
    let (node, sandbox) = (Node::new(), Sandbox::new());
    let before = node.traces();
    node.add("c1", &sandbox).ok();
    let attached = node.traces();
    for name in ["pods", "addresses4", "pod_netns", "host_ports6"] {
        let unusable = Unusable::map(&node, name);
        assert_eq!(node.del("c1", &sandbox.path()).error().0, 103, "{name}");
        assert_eq!(collect(&node, &[], &json!({})).error().0, 103, "{name}");
        drop(unusable);
        assert_eq!(node.traces(), attached, "{name}");
    }
    // Only another version of the agent has run: its maps hold the pod.
    let (own, other) = (node.pins().directory().to_owned(), node.pin_root().join("0123456789abcdef"));
    fs::rename(&own, &other).unwrap();
    assert_eq!(node.del("c1", &sandbox.path()).error().0, 101);
    fs::rename(&other, &own).unwrap();
    assert_eq!(node.del("c1", &sandbox.path()).ok(), Value::Null);
    node.settle();
    assert_eq!(node.traces(), before);
}

#[test]
#[ignore = "needs root"]
fn gc_reports_that_it_cannot_read_the_node_ranges() {
    let node = Node::new();
    let of_agent = json!({ "ranges": null });
    collect(&node, &[], &of_agent).ok(); // The agent has not written the file yet.
    fs::create_dir_all(node.path("state")).unwrap();
    fs::write(node.path("state/node.json"), "rubbish").unwrap();
    let (code, message) = collect(&node, &[], &of_agent).error();
    assert_eq!(code, 108);
    assert!(message.contains("node.json"), "{message}");
}
