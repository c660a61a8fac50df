//! Tests of the capabilities: addresses, MAC, name servers and traffic limits that a runtime
//! requests for one pod.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{Answer, Node, Sandbox, call, command, socket};
use dataplane_common::types::pod::{Pod, pod_flags};
use dataplane_host::netlink::{IfIndex, Neighbour, add_address};
use serde_json::{Value, json};

fn add(node: &Node, container: &str, sandbox: &Sandbox, runtime: &Value) -> Answer {
    let config = node.config(&json!({ "runtimeConfig": runtime }));
    call(&mut command("ADD", container, &sandbox.path()), &config)
}

#[test]
#[ignore = "needs root"]
fn requested_addresses_of_the_node_are_assigned() {
    let node = Node::new();
    let pods: Vec<_> = (0..4).map(|_| Sandbox::new()).collect();
    let result = add(&node, "c0", &pods[0], &json!({ "ips": ["10.77.0.50/24", "fd00:77::50"] })).ok();
    assert_eq!(result["ips"][0]["address"], "10.77.0.50/32");
    assert_eq!(result["ips"][1]["address"], "fd00:77::50/128");
    // A request for one family: the address of the other is chosen.
    let result = add(&node, "c1", &pods[1], &json!({ "ips": ["fd00:77::60"] })).ok();
    assert_eq!(result["ips"][1]["address"], "fd00:77::60/128");
    let mut by_arguments = command("ADD", "c2", &pods[2].path());
    by_arguments.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;IP=10.77.0.70;MAC=02:00:00:00:00:70");
    let result = call(&mut by_arguments, &node.config(&Value::Null)).ok();
    assert_eq!(result["ips"][0]["address"], "10.77.0.70/32");
    assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:70");
    let before = node.traces();
    for (ips, code, words) in [
        (json!(["10.77.0.50"]), 11, "address 10.77.0.50 is held by another attachment"),
        (json!(["10.99.0.1"]), 7, "address 10.99.0.1 is in none of this node's ranges"),
        (json!(["10.77.0.0"]), 7, "address 10.77.0.0 is not for pods"),
        (json!(["10.77.0.255"]), 7, "address 10.77.0.255 is not for pods"),
        (json!(["fe80::1"]), 7, "none of this node's ranges"),
        (json!(["::ffff:10.77.0.9"]), 7, "none of this node's ranges"),
        (json!(["127.0.0.1"]), 7, "none of this node's ranges"),
        (json!(["10.77.0.1", "10.77.0.2"]), 7, "more than one address of a family"),
        (json!(["/etc/passwd"]), 7, "is not an IP address"),
    ] {
        let (got, message) = add(&node, "c3", &pods[3], &json!({ "ips": ips })).error();
        assert!(got == code && message.contains(words), "{ips}: {got} {message}");
        assert_eq!(node.traces(), before, "{ips}");
    }
    // The runtime cleans up with the same arguments.
    let bad = node.config(&json!({ "runtimeConfig": { "ips": 7, "mac": 7, "bandwidth": 7, "portMappings": 7 } }));
    call(&mut command("DEL", "c0", &pods[0].path()), &bad).ok();
    node.settle();
}

#[test]
#[ignore = "needs root"]
fn requested_ranges_must_lie_in_configured_ranges() {
    let node = Node::new();
    let pods: Vec<_> = (0..4).map(|_| Sandbox::new()).collect();
    let ranges = json!([
        [{ "subnet": "10.77.0.64/26", "rangeStart": "10.77.0.70", "rangeEnd": "10.77.0.71" }],
        [{ "subnet": "fd00:77::40/122" }],
    ]);
    let first = add(&node, "c0", &pods[0], &json!({ "ipRanges": ranges })).ok();
    assert_eq!(
        (&first["ips"][0]["address"], &first["ips"][1]["address"]),
        (&json!("10.77.0.70/32"), &json!("fd00:77::41/128"))
    );
    // A range for one family: the other is chosen from all of its range.
    let second = add(&node, "c1", &pods[1], &json!({ "ipRanges": [ranges[0]] })).ok();
    assert_eq!(
        (&second["ips"][0]["address"], &second["ips"][1]["address"]),
        (&json!("10.77.0.71/32"), &json!("fd00:77::42/128"))
    );
    let third = add(&node, "c2", &pods[2], &json!({ "ipRanges": [], "ips": ["10.77.0.80"] })).ok();
    assert_eq!(third["ips"][0]["address"], "10.77.0.80/32");
    let before = node.traces();
    for (runtime, code, words) in [
        (json!({ "ipRanges": ranges }), 100, "no free address in range 10.77.0.0/24 from 10.77.0.70 to 10.77.0.71"),
        (
            json!({ "ipRanges": ranges, "ips": ["10.77.0.90"] }),
            7,
            "ips: address 10.77.0.90 is in none of the ranges of",
        ),
        (
            json!({ "ipRanges": [[{ "subnet": "10.78.0.0/24" }]] }),
            7,
            "10.78.0.0/24 is in none of the ranges of the conf",
        ),
        (
            json!({ "ipRanges": [[{ "subnet": "10.77.0.0/16" }]] }),
            7,
            "10.77.0.0/16 is in none of the ranges of the conf",
        ),
        (json!({ "ipRanges": 7 }), 7, "runtimeConfig.ipRanges: invalid type"),
    ] {
        let (got, message) = add(&node, "c3", &pods[3], &runtime).error();
        assert!(got == code && message.contains(words), "{runtime}: {got} {message}");
        assert_eq!(node.traces(), before, "{runtime}");
    }
}

#[test]
#[ignore = "needs root"]
fn requested_ranges_are_rejected_with_agent_managed_ranges() {
    let (node, pod) = (Node::new(), Sandbox::new());
    std::fs::create_dir(node.path("state")).unwrap();
    let before = node.traces();
    let ask = |ranges: Value| {
        let changes = json!({ "ranges": null, "runtimeConfig": { "ipRanges": ranges } });
        call(command("ADD", "c1", &pod.path()).env_remove("CNI_ARGS"), &node.config(&changes))
    };
    let block = json!({ "name": "a", "cidr": "10.244.0.0/16", "allowFixedAddresses": false, "reserved": [], "blocks": ["10.244.1.0/26"] });
    let boot = dataplane_host::store::boot_id().unwrap();
    let pools = json!({ "version": 1, "boot": boot, "node": "n1", "default": ["a"], "pools": [block] });
    std::fs::write(node.path("state/pools.json"), pools.to_string()).unwrap();
    for (data, words) in [
        (r#"{"version":1,"podCIDRs":["10.244.1.0/24"]}"#, "its podCIDRs, which its agent manages"),
        (r#"{"version":1,"pools":true}"#, "its blocks of pools, which its agent manages"),
    ] {
        std::fs::write(node.path("state/node.json"), data).unwrap();
        let (code, message) = ask(json!([[{ "subnet": "10.244.1.0/26" }]])).error();
        assert!(code == 7 && message.contains(words), "{code} {message}");
        assert_eq!(node.traces(), before);
    }
    std::fs::write(node.path("state/node.json"), r#"{"version":1,"podCIDRs":["10.244.1.0/24"]}"#).unwrap();
    assert_eq!(ask(json!([])).ok()["ips"][0]["address"], "10.244.1.1/32");
}

#[test]
#[ignore = "needs root"]
fn requested_mac_is_set_at_both_ends_and_in_the_maps() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let runtime = json!({ "mac": "02:11:22:33:44:55" });
    let mac = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
    let result = add(&node, "c1", &pod, &runtime).ok();
    assert_eq!(result["interfaces"][1]["mac"], "02:11:22:33:44:55");
    assert_eq!(pod.socket().link_by_name("eth0").unwrap().unwrap().mac, mac);
    let index = socket().link_by_name(result["interfaces"][0]["name"].as_str().unwrap()).unwrap().unwrap().index;
    assert_eq!(node.table::<u32, Pod>("pods").get(&index.0).unwrap().unwrap().mac, mac);
    let address = "10.77.0.1".parse().unwrap();
    let wanted = Neighbour { index, address, mac: Some(mac), permanent: true };
    assert!(socket().neighbours().unwrap().contains(&wanted));
    let check = json!({ "prevResult": result, "runtimeConfig": runtime });
    call(&mut command("CHECK", "c1", &pod.path()), &node.config(&check)).ok();
    for bad in ["01:00:5e:00:00:01", "ee:ee:ee:ee:ee:ee", "00:00:00:00:00:00", "$(reboot)"] {
        let (code, message) = add(&node, "c2", &Sandbox::new(), &json!({ "mac": bad })).error();
        assert!(code == 7 && message.contains("runtimeConfig.mac"), "{bad}: {code} {message}");
    }
}

#[test]
#[ignore = "needs root"]
fn dns_settings_are_in_the_result() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let dns = json!({ "Servers": ["10.96.0.10"], "Searches": ["svc.cluster.local"], "Options": ["ndots:5"] });
    let changes = json!({ "runtimeConfig": { "dns": dns }, "dns": { "nameservers": ["192.0.2.53"] } });
    let result = call(&mut command("ADD", "c1", &pod.path()), &node.config(&changes)).ok();
    assert_eq!(
        result["dns"],
        json!({ "nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"], "options": ["ndots:5"] })
    );
}

/// Measures the throughput of a connection in bytes a second, after the burst.
fn throughput(from: &(impl Fn() -> TcpStream + Sync), listener: &TcpListener) -> f64 {
    const SKIP: Duration = Duration::from_millis(300);
    const MEASURE: Duration = Duration::from_secs(2);
    std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let stream = from();
        scope.spawn(move || {
            let mut stream = stream;
            let block = vec![0; 64 << 10];
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) && stream.write_all(&block).is_ok() {}
        });
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 256 << 10];
        let start = Instant::now();
        while start.elapsed() < SKIP {
            assert!(stream.read(&mut buffer).unwrap() > 0);
        }
        let (start, mut bytes) = (Instant::now(), 0_u32);
        while start.elapsed() < MEASURE {
            bytes += u32::try_from(stream.read(&mut buffer).unwrap()).unwrap();
        }
        let rate = f64::from(bytes) / start.elapsed().as_secs_f64();
        drop((stop, stream));
        rate
    })
}

#[test]
#[ignore = "needs root"]
fn bandwidth_is_limited_in_both_directions() {
    let (node, pod) = (Node::new(), Sandbox::new());
    socket().run(&[add_address(IfIndex(1), "192.0.2.1/32".parse().unwrap())]).unwrap();
    let runtime =
        json!({ "bandwidth": { "ingressRate": 80_000_000, "egressRate": 40_000_000, "egressBurst": 2_147_483_647 } });
    let result = add(&node, "c1", &pod, &runtime).ok();
    let name = result["interfaces"][0]["name"].as_str().unwrap();
    let index = socket().link_by_name(name).unwrap().unwrap().index;
    let flags = node.table::<u32, Pod>("pods").get(&index.0).unwrap().unwrap().flags;
    assert_eq!(flags, pod_flags::PRESENT | pod_flags::SHAPED);
    let check = |runtime: &Value| {
        let changes = json!({ "prevResult": result, "runtimeConfig": runtime });
        call(&mut command("CHECK", "c1", &pod.path()), &node.config(&changes))
    };
    check(&runtime).ok();
    let message = check(&json!({ "bandwidth": { "ingressRate": 8000, "egressRate": 8000 } })).error().1;
    assert!(message.contains("is not limited to 1000 bytes a second") && message.contains("eth0 is not"), "{message}");

    let inside = pod.within(|| TcpListener::bind("10.77.0.1:80").unwrap());
    let received = throughput(&|| TcpStream::connect("10.77.0.1:80").unwrap(), &inside);
    let outside = TcpListener::bind("192.0.2.1:80").unwrap();
    let sent = throughput(&|| pod.within(|| TcpStream::connect("192.0.2.1:80").unwrap()), &outside);
    println!("received {received:.0} of 10000000, sent {sent:.0} of 5000000 bytes a second");
    // The limit counts headers; at least 95 % of it is payload.
    assert!((0.85..=1.02).contains(&(received / 10e6)), "received {received}");
    assert!((0.85..=1.02).contains(&(sent / 5e6)), "sent {sent}");

    let other = Sandbox::new();
    let (code, message) = add(&node, "c2", &other, &json!({ "bandwidth": { "ingressRate": 7 } })).error();
    assert!(code == 7 && message.contains("runtimeConfig.bandwidth: ingressRate of 7 bits"), "{code} {message}");
}
