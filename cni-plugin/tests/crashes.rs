//! Crash tests: the plugin is killed at any system call, the machine is restarted, verbs are
//! repeated in every state and run concurrently. No address is given out twice, and nothing is left
//! behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Answer, Node, Sandbox, call, command, traced};
use serde_json::{Value, json};

/// Returns the configuration of these tests: with host ports, so that every map is written.
fn config(node: &Node) -> String {
    node.config(&json!({ "runtimeConfig": { "portMappings": [
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1" },
    ] } }))
}

fn add(node: &Node, sandbox: &Sandbox) -> Answer {
    call(&mut command("ADD", "c1", &sandbox.path()), &config(node))
}

/// Checks the state after a kill: a repeated ADD succeeds, and DEL removes everything.
fn check_add_and_del_converge(node: &Node, sandbox: &Sandbox, what: &str) {
    let result = add(node, sandbox);
    assert!(result.success, "ADD after {what}: {} {}", result.json, result.log);
    sandbox.await_running();
    assert_eq!(node.names("records").len(), 3, "{what}");
    assert_eq!(node.host_ports().len(), 3, "{what}");
    check_del_removes_everything(node, &sandbox.path(), what);
}

/// Checks the state after a kill: DEL removes everything.
fn check_del_removes_everything(node: &Node, netns: &str, what: &str) {
    let del = node.del("c1", netns);
    assert!(del.success, "DEL after {what}: {} {}", del.json, del.log);
    node.settle();
    let left: Vec<_> = node.traces().into_iter().filter(|(kind, t)| *kind != "links" && !t.is_empty()).collect();
    assert_eq!(left, [], "{what}");
    assert_eq!(common::socket().links().unwrap().len(), 1, "{what}");
}

/// Counts the system calls of a verb by name, without those with which every process starts.
fn calls(node: &Node, verb: &str, netns: &str, input: &str) -> BTreeMap<String, usize> {
    let log = node.path(&format!("{verb}.strace"));
    let flags = ["-o".into(), log.display().to_string()];
    call(&mut traced(verb, netns, &flags), input).ok();
    let text = fs::read_to_string(&log).unwrap();
    let start = text.find("read(0").unwrap();
    let mut calls = BTreeMap::new();
    for line in text[start..].lines() {
        // "<process> <name>(<arguments>"
        let name = line.split_once('(').and_then(|(call, _)| call.split_whitespace().last()).unwrap_or_default();
        if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}

/// Runs a verb that is killed at its `n`th call of a name.
fn kill_at(verb: &str, netns: &str, input: &str, name: &str, n: usize) {
    let inject = format!("inject={name}:signal=SIGKILL:when={n}");
    let flags = ["-o", "/dev/null", "-e", "trace=all", "-e", &inject].map(str::to_owned);
    let mut command = traced(verb, netns, &flags);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // The plugin may have been killed before it read its input.
    drop(std::io::Write::write_all(&mut pipe, input.as_bytes()));
    drop(pipe);
    child.wait().unwrap();
}

#[test]
#[ignore = "needs root"]
fn add_killed_at_any_system_call_is_repeated_or_undone() {
    let node = Node::new();
    let first = Sandbox::new();
    let calls = calls(&node, "ADD", &first.path(), &config(&node));
    check_del_removes_everything(&node, &first.path(), "ADD");
    assert!(["linkat", "fsync", "sendto", "bpf", "flock"].iter().all(|c| calls.contains_key(*c)), "{calls:?}");
    for (name, count) in calls {
        for n in 1..=count {
            let sandbox = Sandbox::new();
            kill_at("ADD", &sandbox.path(), &config(&node), &name, n);
            let what = format!("ADD was killed at {name} {n}");
            if n % 2 == 0 {
                check_add_and_del_converge(&node, &sandbox, &what);
            } else {
                check_del_removes_everything(&node, &sandbox.path(), &what);
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn del_killed_at_any_system_call_is_repeated() {
    let node = Node::new();
    let first = Sandbox::new();
    add(&node, &first).ok();
    let calls = calls(&node, "DEL", &first.path(), &config(&node));
    node.settle();
    assert!(["linkat", "fsync", "bpf", "flock"].iter().all(|c| calls.contains_key(*c)), "{calls:?}");
    for (name, count) in calls {
        for n in 1..=count {
            let sandbox = Sandbox::new();
            add(&node, &sandbox).ok();
            kill_at("DEL", &sandbox.path(), &config(&node), &name, n);
            let what = format!("DEL was killed at {name} {n}");
            if n % 2 == 0 {
                check_add_and_del_converge(&node, &sandbox, &what);
            } else {
                check_del_removes_everything(&node, &sandbox.path(), &what);
            }
        }
    }
}

/// Returns the MTU of the host's end of the only pod.
fn host_mtu() -> u32 {
    common::socket().links().unwrap().into_iter().find(|link| link.name.starts_with("rw")).unwrap().mtu
}

#[test]
#[ignore = "needs root"]
fn interrupted_mtu_change_is_completed_by_the_next_verb() {
    let (node, sandbox) = (Node::new(), Sandbox::new());
    sandbox.keep("c1");
    node.says_mtu(1500);
    add(&node, &sandbox).ok();
    assert!(node.brought(1500).is_empty());
    let turn = |mtu| if mtu == 1500 { 1400 } else { 1500 };
    node.says_mtu(1400);
    let calls = calls(&node, "STATUS", "", &node.config(&Value::Null));
    assert!(node.brought(1400).is_empty());
    assert!(["setns", "sendto", "flock", "pwrite64"].iter().all(|c| calls.contains_key(*c)), "{calls:?}");
    let mut mtu = 1400;
    for (name, count) in calls {
        for n in 1..=count {
            mtu = turn(mtu);
            node.says_mtu(mtu);
            kill_at("STATUS", "", &node.config(&Value::Null), &name, n);
            assert!(sandbox.mtu() <= host_mtu(), "STATUS was killed at {name} {n}");
            node.status(&Value::Null).ok();
            // The child of the killed call may still be running, and its lock keeps other processes
            // out.
            if node.brought(mtu) != [""; 0] {
                node.status(&Value::Null).ok();
            }
            assert_eq!((sandbox.mtu(), host_mtu()), (mtu, mtu), "STATUS was killed at {name} {n}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn gc_killed_at_any_system_call_is_finished_by_the_next_verb() {
    let node = Node::new();
    let collect = node.config(&json!({ "cni.dev/valid-attachments": [] }));
    let first = Sandbox::new();
    add(&node, &first).ok();
    let calls = calls(&node, "GC", &first.path(), &collect);
    assert!(["linkat", "fsync", "sendto", "bpf"].iter().all(|c| calls.contains_key(*c)), "{calls:?}");
    for (name, count) in calls {
        for n in 1..=count {
            let sandbox = Sandbox::new();
            add(&node, &sandbox).ok();
            kill_at("GC", &sandbox.path(), &collect, &name, n);
            let what = format!("GC was killed at {name} {n}");
            if n % 2 == 0 {
                check_add_and_del_converge(&node, &sandbox, &what);
            } else {
                check_del_removes_everything(&node, &sandbox.path(), &what);
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn add_killed_at_random_moments_is_repeated() {
    let node = Node::new();
    for round in 0..40_u64 {
        let sandbox = Sandbox::new();
        let mut child = command("ADD", "c1", &sandbox.path());
        let child = child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        drop(std::io::Write::write_all(&mut input, config(&node).as_bytes()));
        drop(input);
        std::thread::sleep(Duration::from_micros(round * 97 % 4000));
        child.kill().unwrap();
        child.wait().unwrap();
        check_add_and_del_converge(&node, &sandbox, &format!("kill in round {round}"));
    }
}

#[test]
#[ignore = "needs root"]
fn del_succeeds_ten_times_in_every_state() {
    type Prepare = fn(&Node, &mut Option<Sandbox>);
    let states: [(&str, Prepare); 9] = [
        ("after ADD", |_, _| {}),
        ("without a network namespace", |_, sandbox| *sandbox = None),
        ("without a device", |node, _| {
            let link = common::socket().links().unwrap().into_iter().find(|l| l.name.starts_with("rw")).unwrap();
            common::socket().run(&[dataplane_host::netlink::delete_link(link.index)]).unwrap();
            assert!(!node.names("records").is_empty());
        }),
        ("without a store", |node, _| fs::remove_dir_all(node.path("state")).unwrap()),
        ("without pins", |node, _| fs::remove_dir_all(node.pins().directory()).unwrap()),
        ("with a damaged record", |node, _| {
            let name = node.names("records").into_iter().find(|n| n.starts_with("attachment-")).unwrap();
            fs::write(node.path("state/addresses/records").join(name), "rubbish").unwrap();
        }),
        ("with half the names", |node, _| {
            fs::remove_file(node.path("state/addresses/records/10.77.0.1")).unwrap();
        }),
        ("in another boot", |node, _| {
            fs::write(node.path("state/addresses/lock"), "another boot").unwrap();
        }),
        ("when it never was added", |node, sandbox| {
            node.del("c1", &sandbox.as_ref().unwrap().path()).ok();
            node.settle();
        }),
    ];
    for (state, prepare) in states {
        let node = Node::new();
        let mut sandbox = Some(Sandbox::new());
        add(&node, sandbox.as_ref().unwrap()).ok();
        prepare(&node, &mut sandbox);
        let netns = sandbox.as_ref().map_or(String::new(), Sandbox::path);
        for time in 1..=10 {
            let del = node.del("c1", &netns);
            assert!(del.success && del.json.is_null(), "{state}, time {time}: {} {}", del.json, del.log);
        }
        node.settle();
        let gone = |left: &mut Option<Sandbox>| {
            left.as_ref().is_none_or(|s| s.socket().link_by_name("eth0").unwrap().is_none())
        };
        assert!(gone(&mut sandbox), "{state}");
        let names = node.names("records");
        assert!(names.is_empty() || state == "with a damaged record", "{state}: {names:?}");
        assert_eq!(common::socket().links().unwrap().len(), 1, "{state}");
        if node.pins().map("pods").exists() {
            let left: Vec<_> = ["pods", "addresses4", "addresses6", "pod_netns", "host_ports"]
                .into_iter()
                .filter(|map| !node.traces()[map].is_empty())
                .collect();
            assert_eq!(left, [""; 0], "{state}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn del_answers_early_and_add_waits_for_the_device_removal() {
    let (node, sandbox) = (Node::new(), Sandbox::new());
    let first = node.add("c1", &sandbox).ok();
    for _ in 0..5 {
        node.del("c1", &sandbox.path()).ok();
        let again = node.add("c1", &sandbox).ok();
        assert_eq!(again["interfaces"], first["interfaces"]);
        sandbox.await_running();
    }
    check_del_removes_everything(&node, &sandbox.path(), "ADD right after DEL");
}

#[test]
#[ignore = "needs root"]
fn reboot_keeps_addresses_of_unreleased_pods() {
    let node = Node::new();
    for pod in 0..5 {
        node.add(&format!("c{pod}"), &Sandbox::new()).ok(); // The namespace goes, and with it the devices.
    }
    let store = |boot: &str| dataplane_host::store::AddressStore::open_in_boot(&node.path("state"), boot).unwrap();
    let records = |boot: &str| store(boot).lock(Duration::from_secs(5)).unwrap().attachments().unwrap().len();
    assert_eq!(records("the next boot"), 5);
    let result = node.add("c9", &Sandbox::new()).ok();
    assert_eq!(result["ips"][0]["address"], "10.77.0.6/32");
    for pod in [0, 1, 2, 3, 4, 9] {
        node.del(&format!("c{pod}"), "").ok();
    }
    node.settle();
    assert_eq!(node.names("records"), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn concurrent_calls_leave_no_traces() {
    // ROPEWAY_SOAK=256x100 makes a soak test of it.
    let soak = std::env::var("ROPEWAY_SOAK").unwrap_or_else(|_| "64x3".into());
    let (pods, rounds) = soak.split_once('x').unwrap();
    let (pods, rounds): (usize, usize) = (pods.parse().unwrap(), rounds.parse().unwrap());
    let node = Node::new();
    let changes = json!({ "ranges": ["10.77.0.0/20", "fd00:77::/64"] });
    let before = node.traces();
    for round in 0..rounds {
        let sandboxes: Vec<_> = (0..pods).map(|_| Sandbox::new()).collect();
        let config = node.config(&changes);
        let all = |verb: &'static str| -> Vec<Value> {
            std::thread::scope(|scope| {
                let one = |(n, sandbox): (usize, &Sandbox)| {
                    let (container, path, config) = (format!("c{round}-{n}"), sandbox.path(), config.clone());
                    scope.spawn(move || call(&mut command(verb, &container, &path), &config).ok())
                };
                let threads: Vec<_> = sandboxes.iter().enumerate().map(one).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            })
        };
        let results = all("ADD");
        let mut addresses = HashSet::new();
        for result in &results {
            for ip in result["ips"].as_array().unwrap() {
                assert!(addresses.insert(ip["address"].as_str().unwrap().to_owned()), "{ip} twice");
            }
        }
        assert_eq!(addresses.len(), 2 * pods);
        assert_eq!(node.names("records").len(), 3 * pods);
        for sandbox in &sandboxes {
            sandbox.await_running();
        }
        all("DEL");
        node.settle();
        assert_eq!(node.traces(), before);
    }
}

/// Changes the node's MTU all the time, under one pod that stays and many that come and go.
fn change_mtu_until(node: &Node, changes: &Value, steady: &Sandbox, start: Instant, end: Duration) {
    for mtu in [1400, 1500].into_iter().cycle() {
        node.says_mtu(mtu);
        node.status(changes).ok();
        // Other pods may be missing, locked or deleted meanwhile.
        let failed = node.brought(mtu);
        assert!(failed.iter().all(|error| !error.contains("steady")), "{failed:?}");
        assert_eq!(steady.mtu(), mtu);
        if start.elapsed() > end {
            return;
        }
    }
}

/// Threads add and delete pods, each at its own pace. `ROPEWAY_CHURN=256x300` makes it a soak test:
/// 256 threads for 300 seconds.
#[test]
#[ignore = "needs root"]
fn churn_gives_no_address_twice_or_before_its_cool_down() {
    let churn = std::env::var("ROPEWAY_CHURN").unwrap_or_else(|_| "32x5".into());
    let (workers, seconds) = churn.split_once('x').unwrap();
    let (workers, end) = (workers.parse::<usize>().unwrap(), Duration::from_secs(seconds.parse().unwrap()));
    let node = Node::new();
    let changes = json!({ "ranges": ["10.77.0.0/16", "fd00:77::/64"] });
    let config = node.config(&changes);
    let cycle = |container: &str, seen: &mut dyn FnMut(&Value)| {
        let sandbox = Sandbox::new();
        seen(&persist("ADD", container, &sandbox.path(), &config));
        sandbox.await_running();
        sandbox
    };
    let delete = |container: &str, sandbox: &Sandbox| {
        persist("DEL", container, &sandbox.path(), &config);
    };
    // The first pod creates the files that stay.
    let first = cycle("first", &mut |_| {});
    delete("first", &first);
    node.settle();
    let steady = Sandbox::new();
    steady.keep("steady");
    persist("ADD", "steady", &steady.path(), &config);
    let (traces, size) = (node.traces(), store_size(&node));
    let start = Instant::now();
    // Each address: in use, or the time since which it is free.
    let uses = std::sync::Mutex::new(std::collections::HashMap::<String, Option<Instant>>::new());
    let cycles: usize = std::thread::scope(|scope| {
        let worker = |w: usize| {
            let (uses, cycle, delete) = (&uses, &cycle, &delete);
            move || {
                let mut cycles = 0;
                while start.elapsed() < end {
                    let (container, mut mine) = (format!("c{w}-{cycles}"), Vec::new());
                    let sandbox = cycle(&container, &mut |result| {
                        for ip in result["ips"].as_array().unwrap() {
                            let address = ip["address"].as_str().unwrap().to_owned();
                            match uses.lock().unwrap().insert(address.clone(), None) {
                                Some(None) => panic!("{address} is given to two"),
                                Some(Some(free)) => {
                                    assert!(free.elapsed() > Duration::from_secs(29), "{address}: too soon");
                                }
                                None => {}
                            }
                            mine.push(address);
                        }
                    });
                    for address in mine {
                        uses.lock().unwrap().insert(address, Some(Instant::now()));
                    }
                    delete(&container, &sandbox);
                    cycles += 1;
                }
                cycles
            }
        };
        scope.spawn(|| change_mtu_until(&node, &changes, &steady, start, end));
        let threads: Vec<_> = (0..workers).map(|w| scope.spawn(worker(w))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    node.settle();
    assert!(cycles >= workers, "{cycles} pods came and went");
    println!("{cycles} pods, {workers} at once, in {:?}", start.elapsed());
    assert_eq!(node.traces(), traces);
    assert_eq!(store_size(&node), size, "files and bytes of the store");
}

/// Runs a verb as a runtime does: an answer with code 11 (the store's lock was not free within the
/// deadline on a busy machine) is tried again.
fn persist(verb: &str, container: &str, netns: &str, config: &str) -> Value {
    for _ in 0..30 {
        let answer = call(&mut command(verb, container, netns), config);
        if answer.success || answer.json["code"] != 11 {
            return answer.ok();
        }
    }
    panic!("{verb} of {container} was refused 30 times");
}

/// Returns the number of files in the store and their size in bytes.
fn store_size(node: &Node) -> (usize, u64) {
    let mut size = (0, 0);
    for directory in ["", "records", "temporary", "releasing", "damaged"] {
        for entry in fs::read_dir(node.path("state/addresses").join(directory)).unwrap() {
            let meta = entry.unwrap().metadata().unwrap();
            if meta.is_file() {
                size = (size.0 + 1, size.1 + meta.len());
            }
        }
    }
    size
}

#[test]
#[ignore = "needs root"]
fn held_lock_is_reported_after_the_deadline() {
    let (node, sandbox) = (Node::new(), Sandbox::new());
    node.add("c0", &Sandbox::new()).ok();
    let store = dataplane_host::store::AddressStore::open(&node.path("state")).unwrap();
    let held = store.lock(Duration::from_secs(5)).unwrap();
    let start = Instant::now();
    let (code, message) = node.add("c1", &sandbox).error();
    assert!(code == 11 && message.contains("not free within 10 s"), "{code} {message}");
    assert!(start.elapsed() < Duration::from_secs(15));
    drop(held);
    node.add("c1", &sandbox).ok();
}
