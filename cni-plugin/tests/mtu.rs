//! Tests that running pods follow the node's MTU, after every verb of the plugin.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Answer, Node, Sandbox, call, command, socket};
use dataplane_host::netlink::set_mtu;
use dataplane_host::store::{AddressStore, AttachmentClaim, AttachmentId};
use serde_json::{Value, json};

fn id(container: &str) -> AttachmentId {
    AttachmentId { container: container.into(), ifname: "eth0".into() }
}

/// Returns the MTUs of a pod's ends: the host's and the pod's.
fn ends(container: &str, sandbox: &Sandbox) -> (u32, u32) {
    let host = socket().link_by_name(&id(container).host_ifname()).unwrap().unwrap();
    (host.mtu, sandbox.mtu())
}

/// A call of a runtime.
type Verb<'a> = &'a dyn Fn() -> Answer;

fn add(node: &Node, container: &str, sandbox: &Sandbox, changes: &Value) -> Answer {
    call(&mut command("ADD", container, &sandbox.path()), &node.config(changes))
}

#[test]
#[ignore = "needs root"]
fn running_pods_follow_the_node_mtu_unless_they_set_one() {
    let node = Node::new();
    let [kept, own, tuned, inhabited, late] = [(); 5].map(|()| Sandbox::new());
    for (name, sandbox) in [("c1", &kept), ("c2", &own), ("c3", &tuned), ("c5", &late)] {
        sandbox.keep(name);
    }
    node.says_mtu(1500);
    let result = add(&node, "c1", &kept, &Value::Null).ok();
    add(&node, "c2", &own, &json!({ "mtu": 1450 })).ok();
    add(&node, "c3", &tuned, &Value::Null).ok();
    add(&node, "c4", &inhabited, &Value::Null).ok();
    // This namespace has no name, but a process lives in it.
    let mut inhabitant = Command::new("cat");
    let mut inhabitant = inhabited.within(|| inhabitant.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let mut inside = tuned.socket();
    let index = inside.link_by_name("eth0").unwrap().unwrap().index;
    inside.run(&[set_mtu(index, 1300)]).unwrap();
    assert!(node.brought(1500).is_empty());

    let check =
        |node: &Node| call(&mut command("CHECK", "c1", &kept.path()), &node.config(&json!({ "prevResult": result })));
    let none = json!({ "ranges": null });
    let verbs: [(u32, Verb<'_>); 5] = [
        (1400, &|| node.status(&Value::Null)),
        (9000, &|| node.status(&none)), // fails, because it finds no addresses
        (1280, &|| check(&node)),
        (1500, &|| node.del("c9", "")),
        (1420, &|| add(&node, "c5", &late, &Value::Null)),
    ];
    let mut before = 1500;
    for (mtu, verb) in verbs {
        node.says_mtu(mtu);
        assert_eq!(ends("c1", &kept), (before, before));
        let answer = verb();
        assert!(answer.success || answer.json["code"] == 50, "{}", answer.json);
        let told = format!("has MTU {before}, the node's is {mtu}: it is changed after this call");
        assert_eq!(answer.log.contains(&told), mtu == 1280, "CHECK tells it and does not fail: {}", answer.log);
        assert_eq!(node.brought(mtu), [""; 0]);
        assert_eq!(ends("c1", &kept), (mtu, mtu));
        assert_eq!(ends("c2", &own), (1450, 1450), "its configuration says so");
        assert_eq!(ends("c3", &tuned), (1500, 1300), "a plugin behind this one, or the pod, has set it");
        assert_eq!(ends("c4", &inhabited), (mtu, mtu));
        assert_eq!(check(&node).log, "");
        before = mtu;
    }
    drop(inhabitant.stdin.take());
    inhabitant.wait().unwrap();

    node.says_mtu(1200);
    node.status(&json!({ "mtu": 1500 })).ok();
    assert_eq!(ends("c1", &kept), (1420, 1420), "a call with a configured MTU changes no other pod");
    assert_eq!(node.status(&Value::Null).error().0, 50);
    assert!(node.brought(1200).is_empty());
    assert_eq!(ends("c1", &kept), (1420, 1420), "IPv6 can't live with that");
}

#[test]
#[ignore = "needs root"]
fn failed_pod_is_retried_and_does_not_delay_others() {
    let node = Node::new();
    let [busy, lost, other] = [(); 3].map(|()| Sandbox::new());
    node.says_mtu(1500);
    for (name, sandbox) in [("c1", &busy), ("c2", &lost), ("c3", &other)] {
        add(&node, name, sandbox, &Value::Null).ok();
    }
    busy.keep("c1");
    other.keep("c3");
    let store = AddressStore::open(&node.path("state")).unwrap();
    let claim = store.lock(Duration::from_secs(1)).unwrap().claim(&id("c1")).unwrap();
    assert!(matches!(claim, AttachmentClaim::Owned(_)));
    node.says_mtu(1400);
    node.status(&Value::Null).ok();
    let failed = node.brought(1400).join("; ");
    assert!(failed.contains("container c1: another call works on it"), "{failed}");
    assert!(failed.contains("container c2: namespace of"), "nothing leads there: {failed}");
    assert_eq!(ends("c3", &other), (1400, 1400));
    assert_eq!((ends("c1", &busy), ends("c2", &lost)), ((1500, 1500), (1500, 1500)));

    drop(claim);
    lost.keep("c2");
    let answer = node.status(&Value::Null);
    assert!(answer.success && answer.log.contains("container c2: namespace of"), "{}", answer.log);
    while !node.brought(1400).is_empty() {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!([("c1", &busy), ("c2", &lost)].map(|(name, pod)| ends(name, pod)), [(1400, 1400); 2]);
}

/// A pod that is deleted meanwhile, and one whose device is gone, are no errors.
#[test]
#[ignore = "needs root"]
fn deleted_pods_are_no_failure() {
    let (node, sandbox) = (Node::new(), Sandbox::new());
    node.says_mtu(1500);
    add(&node, "c1", &sandbox, &Value::Null).ok();
    drop(sandbox);
    let gone = || socket().link_by_name(&id("c1").host_ifname()).unwrap().is_none();
    while !gone() {
        std::thread::sleep(Duration::from_millis(2));
    }
    node.says_mtu(1400);
    node.status(&Value::Null).ok();
    assert!(node.brought(1400).is_empty());
}
