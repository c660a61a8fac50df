//! Tests of host ports: the entries that ADD writes, conflicts that it rejects, and their removal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::time::Duration;

use common::{Answer, Node, Sandbox, call, command, socket};
use dataplane_common::types::address::V4;
use dataplane_common::types::service::{FrontendKey, HostPort, proto};
use serde_json::{Value, json};

fn with_ports(ports: &Value) -> Value {
    json!({ "runtimeConfig": { "portMappings": ports } })
}

fn add(node: &Node, container: &str, sandbox: &Sandbox, ports: &Value) -> Answer {
    call(&mut command("ADD", container, &sandbox.path()), &node.config(&with_ports(ports)))
}

fn web() -> Value {
    json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }])
}

#[test]
#[ignore = "needs root"]
fn host_ports_are_written_per_family_and_removed() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let before = node.traces();
    let ports = json!([
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "127.0.0.1" },
        { "HostPort": 53, "ContainerPort": 5353, "Protocol": "UDP", "HostIP": "fd00:50::1" },
        { "hostPort": 99, "containerPort": 9, "protocol": "sctp", "hostIP": "0.0.0.0" },
    ]);
    let result = add(&node, "c1", &pod, &ports).ok();
    assert_eq!(
        node.host_ports(),
        [
            "132 0.0.0.0:99 -> 10.77.0.1:9",
            "17 127.0.0.1:8080 -> 10.77.0.1:80",
            "17 [fd00:50::1]:53 -> [fd00:77::1]:5353",
            "6 0.0.0.0:8080 -> 10.77.0.1:80",
            "6 [::]:8080 -> [fd00:77::1]:80",
        ]
    );
    let index = socket().link_by_name(result["interfaces"][0]["name"].as_str().unwrap()).unwrap().unwrap().index;
    let table = node.table::<FrontendKey<V4>, HostPort<V4>>("host_ports4");
    assert!(table.entries().unwrap().iter().all(|(_, port)| port.ifindex == index.0));
    node.del("c1", &pod.path()).ok();
    assert_eq!(node.host_ports(), [""; 0], "before the answer: the next pod wants them at once");
    node.settle();
    assert_eq!(node.traces(), before);
}

#[test]
#[ignore = "needs root"]
fn same_port_on_other_address_or_protocol_is_no_conflict() {
    let node = Node::new();
    let sandboxes: Vec<_> = (0..3).map(|_| Sandbox::new()).collect();
    for (n, (ip, protocol)) in
        [("127.0.0.1", "tcp"), ("192.168.50.11", "tcp"), ("192.168.50.11", "udp")].iter().enumerate()
    {
        let ports = json!([{ "hostPort": 54323, "containerPort": 8080, "protocol": protocol, "hostIP": ip }]);
        add(&node, &format!("c{n}"), &sandboxes[n], &ports).ok();
    }
    assert_eq!(node.host_ports().len(), 3);
}

#[test]
#[ignore = "needs root"]
fn port_of_another_pod_is_rejected_and_kept() {
    let (node, first, second) = (Node::new(), Sandbox::new(), Sandbox::new());
    add(&node, "c1", &first, &web()).ok();
    let before = node.traces();
    let ports = json!([{ "hostPort": 1, "containerPort": 1 }, { "hostPort": 8080, "containerPort": 8080 }]);
    let (code, message) = add(&node, "c2", &second, &ports).error();
    let words = "TCP port 0.0.0.0:8080 of this node is taken: it leads to the pod with address 10.77.0.1";
    assert_eq!((code, message.as_str()), (109, words));
    assert_eq!(node.traces(), before);
    assert_eq!(second.socket().link_by_name("eth0").unwrap(), None);
    // The port is free as soon as DEL has answered.
    node.del("c1", &first.path()).ok();
    add(&node, "c2", &second, &ports).ok();
}

#[test]
#[ignore = "needs root"]
fn ports_of_the_node_are_rejected() {
    let (node, pod) = (Node::new(), Sandbox::new());
    fs::create_dir_all(node.path("state")).unwrap();
    let file = json!({ "version": 1, "mtu": 1500, "podCIDRs": [],
        "reservedPorts": [{ "protocol": "udp", "port": 4789, "user": "the VXLAN tunnel" }] });
    fs::write(node.path("state/node.json"), file.to_string()).unwrap();
    let before = node.traces();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = std::net::UdpSocket::bind("[::1]:0").unwrap();
    let (tcp, udp) = (listener.local_addr().unwrap().port(), socket.local_addr().unwrap().port());
    for (port, protocol, words) in [
        (4789, "udp", "UDP port 4789 of this node is taken by the VXLAN tunnel".to_owned()),
        (10250, "tcp", "TCP port 10250 of this node is taken by kubelet".to_owned()),
        (tcp, "tcp", format!("TCP port {tcp} of this node is taken by a process that listens at 127.0.0.1:{tcp}")),
        (udp, "udp", format!("UDP port {udp} of this node is taken by a process that listens at [::1]:{udp}")),
    ] {
        let ports = json!([{ "hostPort": port, "containerPort": 80, "protocol": protocol }]);
        assert_eq!(add(&node, "c1", &pod, &ports).error(), (109, words));
        assert_eq!(node.traces(), before);
    }
    // A client's connection is no listener.
    let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let port = connection.local_addr().unwrap().port();
    add(&node, "c1", &pod, &json!([{ "hostPort": port, "containerPort": 80 }])).ok();
}

#[test]
#[ignore = "needs root"]
fn invalid_host_ports_change_nothing() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let before = node.traces();
    for (ports, words) in [
        (json!("8080"), "runtimeConfig.portMappings: invalid type"),
        (json!([{ "hostPort": 0, "containerPort": 80 }]), "entry 0: hostPort is missing or 0"),
        (json!([{ "hostPort": 65536, "containerPort": 80 }]), "65536"),
        (json!([{ "hostPort": 80, "containerPort": 80, "protocol": "$(id)" }]), "protocol \"$(id)\""),
        (json!([{ "hostPort": 80, "containerPort": 80, "hostIP": "../x" }]), "hostIP \"../x\" is not an IP address"),
    ] {
        let (code, message) = add(&node, "c1", &pod, &ports).error();
        assert!(code == 7 && message.contains(words), "{ports}: {code} {message}");
        assert_eq!(node.traces(), before);
        // The runtime calls DEL with the same configuration.
        call(&mut command("DEL", "c1", &pod.path()), &node.config(&with_ports(&ports))).ok();
    }
    let mut changes = with_ports(&json!([{ "hostPort": 80, "containerPort": 80, "hostIP": "::1" }]));
    changes["ranges"] = json!(["10.77.0.0/24"]);
    let (code, message) = call(&mut command("ADD", "c1", &pod.path()), &node.config(&changes)).error();
    assert!(code == 7 && message.contains("TCP port [::1]:80: pods of this node have no address"), "{code} {message}");
}

#[test]
#[ignore = "needs root"]
fn full_host_port_map_is_reported_and_rolled_back() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let table = node.table::<FrontendKey<V4>, HostPort<V4>>("host_ports4");
    let other = HostPort { addr: V4 { octets: [10, 99, 0, 1] }, port: 1, pad: 0, ifindex: 1 };
    for port in 1..=4096 {
        let key = FrontendKey { addr: V4 { octets: [192, 0, 2, 1] }, port, proto: proto::TCP, pad: 0 };
        table.insert(&key, &other).unwrap();
    }
    let before = node.traces();
    let (code, message) = add(&node, "c1", &pod, &web()).error();
    assert!(code == 103 && message.contains("map host_ports4 is full"), "{code} {message}");
    assert_eq!(node.traces(), before);
}

#[test]
#[ignore = "needs root"]
fn check_compares_host_ports() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let result = add(&node, "c1", &pod, &web()).ok();
    let check = |ports: Option<Value>| {
        let mut changes = ports.map_or(json!({}), |ports| with_ports(&ports));
        changes["prevResult"] = result.clone();
        call(&mut command("CHECK", "c1", &pod.path()), &node.config(&changes))
    };
    check(Some(web())).ok();
    check(None).ok();
    let message = check(Some(json!([]))).error().1;
    assert!(message.contains("runtimeConfig does not have the host ports"), "{message}");
    let table = node.table::<FrontendKey<V4>, HostPort<V4>>("host_ports4");
    let key = FrontendKey { addr: V4::default(), port: 8080, proto: proto::TCP, pad: 0 };
    assert!(table.remove(&key).unwrap());
    let (code, message) = check(Some(web())).error();
    let words = "map host_ports4 does not lead TCP port 0.0.0.0:8080 to the pod";
    assert!(code == 107 && message.contains(words) && !message.contains("host_ports6"), "{code} {message}");
}

#[test]
#[ignore = "needs root"]
fn gc_removes_host_ports_of_deleted_pods() {
    let (node, pod) = (Node::new(), Sandbox::new());
    let before = node.traces();
    let collect = |valid: Value| {
        let mut gc = std::process::Command::new(common::plugin());
        let changes = json!({ "cni.dev/valid-attachments": valid });
        call(gc.env_clear().env("CNI_COMMAND", "GC"), &node.config(&changes)).ok();
    };
    add(&node, "c1", &pod, &web()).ok();
    add(&node, "c2", &Sandbox::new(), &json!([{ "hostPort": 53, "containerPort": 53, "protocol": "udp" }])).ok();
    // Three entries: to a living pod that does not have the port, to an unallocated address, and to
    // an address outside the node's ranges.
    let table = node.table::<FrontendKey<V4>, HostPort<V4>>("host_ports4");
    for (port, pod) in [(1, [10, 77, 0, 1]), (2, [10, 77, 0, 200]), (3, [10, 99, 0, 1])] {
        let key = FrontendKey { addr: V4::default(), port, proto: proto::TCP, pad: 0 };
        table.insert(&key, &HostPort { addr: V4 { octets: pod }, port, pad: 0, ifindex: 1024 }).unwrap();
    }
    collect(json!([{ "containerID": "c1", "ifname": "eth0" }]));
    assert_eq!(
        node.host_ports(),
        ["6 0.0.0.0:3 -> 10.99.0.1:3", "6 0.0.0.0:8080 -> 10.77.0.1:80", "6 [::]:8080 -> [fd00:77::1]:80"]
    );
    // Without the record only the maps know the pod.
    fs::remove_dir_all(node.path("state")).unwrap();
    collect(json!([]));
    assert_eq!(node.host_ports(), ["6 0.0.0.0:3 -> 10.99.0.1:3"]);
    table.remove(&FrontendKey { addr: V4::default(), port: 3, proto: proto::TCP, pad: 0 }).unwrap();
    assert_eq!(node.traces(), before);
}

#[test]
#[ignore = "needs root"]
fn ports_of_half_removed_or_unknown_pods_are_reused() {
    let (node, first, second) = (Node::new(), Sandbox::new(), Sandbox::new());
    add(&node, "c1", &first, &web()).ok();
    // The state after a DEL that was killed right after it had marked the pod.
    let store = dataplane_host::store::AddressStore::open(&node.path("state")).unwrap();
    let id = dataplane_host::store::AttachmentId { container: "c1".into(), ifname: "eth0".into() };
    let mut locked = store.lock(Duration::from_secs(5)).unwrap();
    let dataplane_host::store::AttachmentClaim::Owned(mut attachment) = locked.claim(&id).unwrap() else {
        panic!("not mine")
    };
    locked.mark(&mut attachment).unwrap();
    drop((locked, attachment));
    add(&node, "c2", &second, &web()).ok();
    assert_eq!(node.names("releasing"), [""; 0]);
    assert!(node.host_ports()[0].ends_with(" -> 10.77.0.2:80"), "{:?}", node.host_ports());
    node.del("c2", &second.path()).ok();
    node.settle();
    // An entry of a pod that is neither in the store nor in the maps.
    let table = node.table::<FrontendKey<V4>, HostPort<V4>>("host_ports4");
    let key = FrontendKey { addr: V4::default(), port: 8080, proto: proto::TCP, pad: 0 };
    let stale = |pod| HostPort { addr: V4 { octets: pod }, port: 80, pad: 0, ifindex: 1024 };
    table.insert(&key, &stale([10, 77, 0, 200])).unwrap();
    add(&node, "c3", &first, &web()).ok();
    node.del("c3", &first.path()).ok();
    node.settle();
    // The owner of an address outside the node's ranges is unknown.
    table.insert(&key, &stale([10, 99, 0, 1])).unwrap();
    assert_eq!(add(&node, "c4", &first, &web()).error().0, 109);
    assert_eq!(table.get(&key).unwrap(), Some(stale([10, 99, 0, 1])));
}

#[test]
#[ignore = "needs root"]
fn repeated_add_replaces_host_ports() {
    let (node, pod) = (Node::new(), Sandbox::new());
    add(&node, "c1", &pod, &web()).ok();
    let other = json!([{ "hostPort": 9090, "containerPort": 80 }]);
    add(&node, "c1", &pod, &other).ok();
    assert_eq!(node.host_ports(), ["6 0.0.0.0:9090 -> 10.77.0.2:80", "6 [::]:9090 -> [fd00:77::2]:80"]);
    node.del("c1", &pod.path()).ok();
    assert_eq!(node.host_ports(), [""; 0]);
}
