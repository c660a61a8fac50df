//! Tests of a disk that fails: a verb whose data may not be on the disk gives an error.
//!
//! strace makes fsync(2) fail, because no file system of a test does it at a chosen call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;

use common::{Answer, Node, Sandbox, call, traced};
use serde_json::{Value, json};

/// Runs a verb whose `n`th fsync(2) of each thread fails. Returns `None` if no call has failed.
fn with_failing_fsync(node: &Node, verb: &str, sandbox: &Sandbox, changes: &Value, n: usize) -> Option<Answer> {
    let log = node.path("fsync.strace");
    let flags = ["-o".into(), log.display().to_string(), "-e".into(), format!("inject=fsync:error=EIO:when={n}")];
    let answer = call(&mut traced(verb, &sandbox.path(), &flags), &node.config(changes));
    fs::read_to_string(&log).unwrap().contains("(INJECTED)").then_some(answer)
}

/// Expects an error that names the disk's.
#[track_caller]
fn expect_io_error(answer: &Answer, what: &str) {
    assert!(!answer.success, "{what}: {}", answer.json);
    let (code, message) = answer.error();
    assert!(code == 5 && message.contains("Input/output error"), "{what}: {code} {message}");
}

#[test]
#[ignore = "needs root"]
fn add_whose_record_is_not_on_the_disk_fails() {
    let node = Node::new();
    // The first pod creates the directories of the store, which are synced too.
    let first = Sandbox::new();
    node.add("first", &first).ok();
    let before = node.traces();
    let mut failed = 0;
    for n in 1.. {
        let sandbox = Sandbox::new();
        let Some(answer) = with_failing_fsync(&node, "ADD", &sandbox, &Value::Null, n) else {
            node.del("c1", &sandbox.path()).ok();
            break;
        };
        expect_io_error(&answer, &format!("ADD with fsync {n} failing"));
        assert_eq!(sandbox.socket().link_by_name("eth0").unwrap(), None, "rolled back");
        node.del("c1", &sandbox.path()).ok();
        node.settle();
        assert_eq!(node.traces(), before, "fsync {n}");
        failed += 1;
    }
    assert_eq!(failed, 2, "the content of the record, and its names");
}

#[test]
#[ignore = "needs root"]
fn del_whose_mark_is_not_on_the_disk_fails_and_is_repeated() {
    let node = Node::new();
    let first = Sandbox::new();
    node.add("first", &first).ok();
    let before = node.traces();
    let sandbox = Sandbox::new();
    node.add("c1", &sandbox).ok();
    let present = node.traces()["pods"].clone();
    let answer = with_failing_fsync(&node, "DEL", &sandbox, &Value::Null, 1).expect("DEL syncs its mark");
    expect_io_error(&answer, "DEL");
    assert_eq!(node.traces()["pods"], present, "the pod can send until its mark is on the disk");
    node.del("c1", &sandbox.path()).ok();
    node.settle();
    assert_eq!(node.traces(), before);
}

#[test]
#[ignore = "needs root"]
fn gc_whose_marks_are_not_on_the_disk_fails_and_is_repeated() {
    let node = Node::new();
    let before = node.traces();
    let sandbox = Sandbox::new();
    node.add("c1", &sandbox).ok();
    let nothing_is_valid = json!({ "cni.dev/valid-attachments": [] });
    let answer = with_failing_fsync(&node, "GC", &sandbox, &nothing_is_valid, 1).expect("GC syncs its marks");
    expect_io_error(&answer, "GC");
    call(&mut common::command("GC", "c1", &sandbox.path()), &node.config(&nothing_is_valid)).ok();
    node.settle();
    let left: Vec<_> = node.traces().into_iter().filter(|(kind, t)| before[kind] != *t).collect();
    assert_eq!(left, []);
}
