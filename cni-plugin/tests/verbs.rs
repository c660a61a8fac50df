//! Tests of each verb: the result of a successful call, the error of a failed one, and that a
//! failed one leaves no traces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::{Node, Sandbox, call};
use dataplane_common::types::pod::{AddressInfo, Pod, PodNetns, address_kind, pod_flags};
use dataplane_common::types::{abi, address};
use dataplane_host::netlink::{Direction, Hop, IfIndex, Neighbour, PROTOCOL, Route, add_address};
use serde_json::{Value, json};

const HOST_MAC: [u8; 6] = [0xee; 6];

#[test]
#[ignore = "needs root"]
fn add_connects_the_pod_and_del_removes_everything() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let before = node.traces();
    let result = node.add("c1", &pod).ok();
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["ips"][0], json!({ "address": "10.77.0.1/32", "gateway": "169.254.1.1", "interface": 1 }));
    assert_eq!(result["ips"][1], json!({ "address": "fd00:77::1/128", "gateway": "fe80::1", "interface": 1 }));
    assert_eq!(result["interfaces"][1]["sandbox"], pod.path());
    assert_eq!(result["interfaces"][1]["mtu"], 1500);

    pod.await_running();
    let mut inside = pod.socket();
    let eth0 = inside.link_by_name("eth0").unwrap().unwrap();
    assert!(eth0.up && eth0.running && eth0.mtu == 1500, "{eth0:?}");
    let addresses = inside.addresses().unwrap();
    for network in ["10.77.0.1/32", "fd00:77::1/128"] {
        assert!(addresses.iter().any(|a| a.network == network.parse().unwrap() && !a.tentative), "{addresses:?}");
    }
    let gateways = inside.neighbours().unwrap();
    for gateway in ["169.254.1.1", "fe80::1"] {
        let address: IpAddr = gateway.parse().unwrap();
        let wanted = Neighbour { index: eth0.index, address, mac: Some(HOST_MAC), permanent: true };
        assert!(gateways.contains(&wanted), "{gateways:?}");
    }
    let routes = inside.routes(3).unwrap();
    assert_eq!(routes.iter().filter(|r| r.destination.prefix() == 0).count(), 2, "{routes:?}");

    let mut outside = common::socket();
    let name = result["interfaces"][0]["name"].as_str().unwrap();
    let veth = outside.link_by_name(name).unwrap().unwrap();
    assert!(veth.up && veth.running && veth.mac == HOST_MAC && veth.index.0 >= 1024, "{veth:?}");
    assert_eq!(eth0.lower, Some(veth.index));
    assert!(outside.addresses().unwrap().iter().all(|a| a.index != veth.index), "the host's end has no address");
    for file in ["accept_ra", "accept_redirects", "autoconf"] {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/{file}")).unwrap();
        assert_eq!(text.trim(), "0", "{file}");
    }
    let mut routes = outside.routes(PROTOCOL).unwrap();
    routes.sort();
    let route = |to: &str| Route::new(to.parse().unwrap(), Hop::Device { index: veth.index });
    assert_eq!(routes, [route("10.77.0.1/32"), route("fd00:77::1/128")]);
    let neighbours = outside.neighbours().unwrap();
    for address in ["10.77.0.1", "fd00:77::1"] {
        let address = address.parse().unwrap();
        let wanted = Neighbour { index: veth.index, address, mac: Some(eth0.mac), permanent: true };
        assert!(neighbours.contains(&wanted), "{neighbours:?}");
    }
    let filters = outside.filters(veth.index).unwrap();
    let named = |f: &dataplane_host::netlink::Filter| (f.direction, f.name.clone().unwrap());
    assert!(filters.iter().all(|f| f.is_ours() && f.direct_action), "{filters:?}");
    assert_eq!(
        filters.iter().map(named).collect::<Vec<_>>(),
        [(Direction::Ingress, "from_pod".into()), (Direction::Egress, "to_pod".into())]
    );

    let (four, six) = (
        address::V4 { octets: [10, 77, 0, 1] },
        address::V6::from("fd00:77::1".parse::<std::net::Ipv6Addr>().unwrap()),
    );
    let entry = node.table::<u32, Pod>("pods").get(&veth.index.0).unwrap().unwrap();
    assert_eq!((entry.addr4, entry.addr6, entry.mac, entry.host_mac), (four, six, eth0.mac, HOST_MAC));
    assert_eq!(entry.flags, pod_flags::PRESENT);
    let wanted = AddressInfo { ifindex: veth.index.0, kind: address_kind::POD, flags: 0, mac: eth0.mac };
    assert_eq!(node.table::<address::V4, AddressInfo>("addresses4").get(&four).unwrap(), Some(wanted));
    assert_eq!(node.table::<address::V6, AddressInfo>("addresses6").get(&six).unwrap(), Some(wanted));
    let by_cookie = node.table::<u64, PodNetns>("pod_netns").get(&entry.netns_cookie).unwrap();
    assert_eq!(by_cookie, Some(PodNetns { addr4: four, addr6: six, ifindex: veth.index.0 }));

    assert_eq!(node.del("c1", &pod.path()).ok(), Value::Null);
    node.settle();
    assert_eq!(node.traces(), before);
    assert_eq!(inside.link_by_name("eth0").unwrap(), None);
}

#[test]
#[ignore = "needs root"]
fn traffic_passes_to_the_host_and_back() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let addresses = ["192.0.2.1/32", "2001:db8::1/128"].map(|a| add_address(IfIndex(1), a.parse().unwrap()));
    common::socket().run(&addresses).unwrap();
    node.add("c1", &pod).ok();
    for (bind, to) in [("0.0.0.0:0", "10.77.0.1:9"), ("[::]:0", "[fd00:77::1]:9")] {
        let receiver = pod.within(|| std::net::UdpSocket::bind(to).unwrap());
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        std::net::UdpSocket::bind(bind).unwrap().send_to(b"hello", to).unwrap();
        let mut buffer = [0; 16];
        let (n, _) = receiver.recv_from(&mut buffer).expect(to);
        assert_eq!(&buffer[..n], b"hello");
    }
}

#[test]
#[ignore = "needs root"]
fn results_are_printed_in_the_version_of_the_configuration() {
    let node = Node::new();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let pod = Sandbox::new();
        let config = node.config(&json!({ "cniVersion": version, "mtu": 1400, "dns": { "search": ["x"] } }));
        let result = call(&mut common::command("ADD", "c1", &pod.path()), &config).ok();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0].get("version").is_some(), version.starts_with("0."), "{version}");
        assert_eq!(result["interfaces"][1].get("mtu").is_some(), version == "1.1.0");
        assert_eq!(result["dns"]["search"][0], "x");
        call(&mut common::command("DEL", "c1", &pod.path()), &config).ok();
        node.settle();
    }
}

#[test]
#[ignore = "needs root"]
fn version_answers_any_configuration_version() {
    let node = Node::without_agent();
    let supported = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (input, version) in [("", "1.1.0"), (r#"{"cniVersion":"1.0.0"}"#, "1.0.0"), (r#"{"cniVersion":"9.9"}"#, "9.9")]
    {
        let mut command = std::process::Command::new(common::plugin());
        command.env_clear().env("CNI_COMMAND", "VERSION");
        let answer = call(&mut command, input).ok();
        assert_eq!(answer, json!({ "cniVersion": version, "supportedVersions": supported }));
    }
    drop(node);
}

#[test]
#[ignore = "needs root"]
fn node_file_fills_in_ranges_and_mtu() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let config = node.config(&json!({ "ranges": null }));
    let missing = call(&mut common::command("ADD", "c1", &pod.path()), &config);
    assert_eq!(missing.error().0, 11);
    assert!(missing.error().1.contains("the agent has not yet written"), "{missing:?}");
    fs::create_dir(node.path("state")).unwrap();
    let data = r#"{"version":1,"node":"n1","podCIDRs":["10.244.1.0/24","fd00:10:244:1::/64"],"mtu":1450}"#;
    fs::write(node.path("state/node.json"), data).unwrap();
    let result = call(&mut common::command("ADD", "c1", &pod.path()), &config).ok();
    assert_eq!(result["ips"][0]["address"], "10.244.1.1/32");
    assert_eq!(result["ips"][1]["address"], "fd00:10:244:1::1/128");
    assert_eq!(result["interfaces"][0]["mtu"], 1450);
    fs::write(node.path("state/node.json"), "{").unwrap();
    let broken = call(&mut common::command("ADD", "c2", &pod.path()), &config).error();
    assert!(broken.0 == 6 && broken.1.contains("state/node.json"), "{broken:?}");
}

/// Runs a call that must fail with a code and a text and must change nothing.
fn check_rejected(node: &Node, container: &str, netns: &str, changes: &Value, code: u64, words: &str) {
    let before = node.traces();
    let answer = call(&mut common::command("ADD", container, netns), &node.config(changes));
    let (got, message) = answer.error();
    assert_eq!(got, code, "{message}");
    assert!(message.contains(words), "{message:?} does not say {words:?}");
    assert_eq!(node.traces(), before, "{words}");
}

#[test]
#[ignore = "needs root"]
fn errors_name_the_cause() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let path = pod.path();
    let unchanged = Value::Null;
    check_rejected(
        &node,
        "c1",
        &path,
        &json!({ "cniVersion": "2.0.0" }),
        1,
        "cniVersion 2.0.0, this plugin supports 0.3.0",
    );
    check_rejected(&node, "c1", &path, &json!({ "cniVersion": null }), 1, "cniVersion none");
    check_rejected(&node, "c1", &path, &json!({ "mtu": 70000 }), 7, "mtu: 70000");
    let nowhere = "network namespace /run/netns/there-is-none: No such file";
    check_rejected(&node, "c1", "/run/netns/there-is-none", &unchanged, 3, nowhere);
    check_rejected(&node, "c1", "/dev/null", &unchanged, 4, "/dev/null is not a network namespace");
    let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), rustix::thread::gettid().as_raw_nonzero());
    check_rejected(&node, "c1", &own, &unchanged, 4, "the node's own");
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        let before = node.traces();
        let answer = call(common::command("ADD", "c1", &path).env_remove(name), &node.config(&unchanged));
        assert_eq!(answer.error(), (4, format!("environment variable {name}: is missing")));
        assert_eq!(node.traces(), before);
    }
}

#[test]
#[ignore = "needs root"]
fn existing_interface_is_left_alone() {
    let (node, pod) = (Node::new(), Sandbox::new());
    node.add("other", &pod).ok();
    check_rejected(&node, "c1", &pod.path(), &Value::Null, 4, "interface eth0 already exists in network namespace");
    assert!(pod.socket().link_by_name("eth0").unwrap().unwrap().up);
}

#[test]
#[ignore = "needs root"]
fn exhausted_ranges_are_named_in_the_error() {
    let node = Node::new();
    let changes = json!({ "ranges": ["10.77.0.0/30", "fd00:77::/64"] });
    let pods: Vec<_> = (0..3).map(|_| Sandbox::new()).collect();
    for (n, pod) in pods.iter().take(2).enumerate() {
        call(&mut common::command("ADD", &format!("c{n}"), &pod.path()), &node.config(&changes)).ok();
    }
    check_rejected(
        &node,
        "c2",
        &pods[2].path(),
        &changes,
        100,
        "no free address in range 10.77.0.0/30: all 2 are held",
    );
    node.del("c0", "").ok();
    node.settle();
    let result = call(&mut common::command("ADD", "c2", &pods[2].path()), &node.config(&changes)).ok();
    assert_eq!(result["ips"][0]["address"], "10.77.0.1/32");
    // The second range of a family is used when the first one is exhausted.
    let more = json!({ "ranges": ["10.77.0.0/30", "fd00:77::/64", "10.78.0.0/30"] });
    let pod = Sandbox::new();
    let result = call(&mut common::command("ADD", "c3", &pod.path()), &node.config(&more)).ok();
    assert_eq!(result["ips"][0]["address"], "10.78.0.1/32");
}

#[test]
#[ignore = "needs root"]
fn missing_agent_asks_for_a_retry() {
    let (node, pod) = (Node::without_agent(), Sandbox::new());
    check_rejected(&node, "c1", &pod.path(), &Value::Null, 11, "no pins: the agent has not run on this node");
    assert!(!node.path("state").exists());
    assert_eq!(node.del("c1", &pod.path()).ok(), Value::Null);
}

#[test]
#[ignore = "needs root"]
fn pins_of_another_abi_are_reported() {
    let (node, pod) = (Node::without_agent(), Sandbox::new());
    fs::create_dir_all(node.pin_root().join("0123456789abcdef")).unwrap();
    let ours = format!("this program has ABI {:016x}", abi::HASH);
    check_rejected(&node, "c1", &pod.path(), &Value::Null, 101, "pins of ABI 0123456789abcdef");
    check_rejected(&node, "c1", &pod.path(), &Value::Null, 101, &ours);
    assert_eq!(node.del("c1", &pod.path()).error().0, 101, "nothing is removed with maps of another version in place");
}

#[test]
#[ignore = "needs root"]
fn node_and_service_addresses_are_not_given_to_pods() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let service = AddressInfo { ifindex: 0, kind: address_kind::SERVICE, flags: 0, mac: [0; 6] };
    let address = address::V4 { octets: [10, 77, 0, 1] };
    node.table::<address::V4, AddressInfo>("addresses4").insert(&address, &service).unwrap();
    check_rejected(&node, "c1", &pod.path(), &Value::Null, 106, "address 10.77.0.1");
    assert_eq!(node.table::<address::V4, AddressInfo>("addresses4").get(&address).unwrap(), Some(service));
}

/// The kernel gives a removed device's index to another pod's device before DEL runs.
#[test]
#[ignore = "needs root"]
fn del_leaves_the_pod_that_reuses_the_device_index() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let result = node.add("c1", &pod).ok();
    let name = result["interfaces"][0]["name"].as_str().unwrap();
    let index = common::socket().link_by_name(name).unwrap().unwrap().index.0;
    let (pods, cookies) = (node.table::<u32, Pod>("pods"), node.table::<u64, PodNetns>("pod_netns"));
    let before = pods.get(&index).unwrap().unwrap();
    let other = address::V4 { octets: [10, 77, 0, 99] };
    let reused = Pod { netns_cookie: 4711, addr4: other, addr6: address::V6::default(), ..before };
    let entry = PodNetns { addr4: other, addr6: address::V6::default(), ifindex: index };
    pods.insert(&index, &reused).unwrap();
    cookies.insert(&4711, &entry).unwrap();
    node.del("c1", &pod.path()).ok();
    node.settle();
    assert_eq!(pods.get(&index).unwrap(), Some(reused));
    assert_eq!(cookies.get(&4711).unwrap(), Some(entry));
    assert_eq!(node.traces()["addresses4"], [""; 0], "its own entries are gone");
}

#[test]
#[ignore = "needs root"]
fn kernel_failure_rolls_back_every_step() {
    let (node, pod) = (Node::new(), Sandbox::new());
    // A program of the wrong type cannot be attached; all earlier steps have been done by then.
    let pins = node.pins();
    fs::remove_file(pins.program("to_pod")).unwrap();
    fs::hard_link(pins.map("pods"), pins.program("to_pod")).unwrap_or_else(|_| {
        let map = dataplane_host::sys::obj_get(&pins.map("pods")).unwrap();
        dataplane_host::sys::obj_pin(std::os::fd::AsFd::as_fd(&map), &pins.program("to_pod")).unwrap();
    });
    check_rejected(&node, "c1", &pod.path(), &Value::Null, 102, "attach to_pod to Egress");
    assert_eq!(pod.socket().link_by_name("eth0").unwrap(), None);
}

#[test]
#[ignore = "needs root"]
fn ipv6_is_enabled_for_dual_stack_pods() {
    let (node, pod) = (Node::new(), Sandbox::new());
    pod.within(|| fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap());
    fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    node.add("c1", &pod).ok();
    let addresses = pod.socket().addresses().unwrap();
    assert!(addresses.iter().any(|a| a.network == "fd00:77::1/128".parse().unwrap()), "{addresses:?}");
    assert_eq!(common::socket().routes(PROTOCOL).unwrap().len(), 2);
}

#[test]
#[ignore = "needs root"]
fn full_disk_is_reported_and_rolled_back() {
    use rustix::mount::{MountFlags, mount};
    let node = Node::new();
    fs::create_dir(node.path("state")).unwrap();
    let room_for_few = c"nr_inodes=16,mode=0700";
    mount("tmpfs", node.path("state"), "tmpfs", MountFlags::empty(), room_for_few).unwrap();
    let pods: Vec<_> = (0..16).map(|_| Sandbox::new()).collect();
    let mut added = 0;
    let full = loop {
        let answer = node.add(&format!("c{added}"), &pods[added]);
        if !answer.success {
            break answer;
        }
        added += 1;
    };
    let (code, message) = full.error();
    assert!(code == 5 && message.contains("No space left"), "{code} {message}");
    assert!(added > 0);
    assert_eq!((node.names("records").len(), node.names("temporary").len()), (added * 3, 0));
    assert_eq!(node.traces()["pods"].len(), added);
    node.del("c0", "").ok();
    node.settle();
    // The last inode is freed when the process that had its file open has ended.
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let again = node.add("again", &pods[added]);
        if again.success || Instant::now() > end {
            again.ok();
            break;
        }
    }
}
