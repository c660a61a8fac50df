//! Tests of the agent as a process on a node of namespaces: Services from manifests, restarts,
//! upgrades, repairs, refusals to start, uninstall.
//!
//! Each test starts the built binary and looks at sockets, metrics, routes and pins from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod node;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dataplane_common::types::address::{Prefix, V4};
use dataplane_common::types::pod::{Network, NodeConfig, network_flags, node_features};
use dataplane_host::map::PinnedMap;
use dataplane_host::pins::Pins;
use dataplane_user::load::lock::AgentLock;
use dataplane_user::network::networks;
use node::{Agent, Node, enter, get, metric, run, until};

const ROOT: &str = "/sys/fs/bpf/ropeway";

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIPs: [10.96.0.10, 'fd00:96::10']
  clusterIP: 10.96.0.10
  ipFamilies: [IPv4, IPv6]
  ports: [{name: http, port: 80, protocol: TCP}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: default}
spec:
  clusterIP: 10.96.0.11
  ports: [{port: 80}]
";

const SLICES: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: dns, port: 5353, protocol: UDP}]
endpoints: [{addresses: [192.168.50.11]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: ['fd00:50::11']}]
";

/// Creates a device with the node's addresses and moves this process into the node's cgroup.
fn furnish(node: &Node) {
    run("ip link add up0 type veth peer name up1; ip link set up1 up; ip link set up0 up");
    run("ip address add 192.168.50.11/24 dev up0; ip address add fd00:50::11/64 dev up0 nodad");
    run("ip route add default via 192.168.50.1");
    std::fs::write(node.cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

/// Serves "hello" to every connection.
fn serve(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"hello").unwrap();
        }
    });
}

fn connect(address: &str) -> std::io::Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(2))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok((text, stream.peer_addr()?))
}

fn furnished(name: &str) -> Option<Node> {
    let node = enter(name)?;
    furnish(&node);
    node.manifest("services.yaml", SERVICES);
    node.manifest("slices.yaml", SLICES);
    Some(node)
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn services_are_reachable_with_and_without_the_agent() {
    let Some(node) = furnished("services_are_reachable_with_and_without_the_agent") else { return };
    let agent = Agent::start(&node, &[]).ready();
    serve("192.168.50.11:8080");
    serve("[fd00:50::11]:8080");
    let reached = |address: &str| {
        let (text, peer) = connect(address).unwrap();
        assert_eq!((text.as_str(), peer.to_string().as_str()), ("hello", address));
    };
    reached("10.96.0.10:80");
    reached("[fd00:96::10]:80");
    assert_eq!(connect("10.96.0.11:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);

    let server = UdpSocket::bind("192.168.50.11:5353").unwrap();
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.send_to(b"q", "10.96.0.10:53").unwrap();
    let mut buffer = [0; 8];
    let (_, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"a", from).unwrap();
    assert_eq!(client.recv_from(&mut buffer).unwrap().1.to_string(), "10.96.0.10:53");

    assert_eq!(get(10249, "/proxyMode").unwrap(), (200, "ropeway".into()));
    assert!(get(10256, "/healthz").unwrap().1.contains("lastUpdated"));
    assert!(get(10249, "/configz").unwrap().1.contains(r#""nodeName":"n1""#));
    assert!(metric("ropeway_events_total{event=\"socket_translated\"}") >= 3);
    let (ok, list) = node.ropeway(&["service", "list", "default/web"]);
    assert!(ok && list.contains("10.96.0.10:80") && list.contains("192.168.50.11:8080"), "{list}");

    let (code, log) = agent.terminate();
    assert!(code == Some(0) && log.contains("programs stay attached"), "{log}");
    reached("10.96.0.10:80");
    let (_, status) = node.ropeway(&["status"]);
    assert!(status.contains("not running") && status.contains("from_uplink-up0"), "{status}");

    let _agent = Agent::start(&node, &[]).ready();
    for map in ["services", "frontends", "addresses", "slots", "backends"] {
        assert_eq!(metric(&format!("ropeway_map_operations_total{{map=\"{map}\"}}")), 0, "{map}");
    }
    assert_eq!(metric("ropeway_node_operations_total"), 0, "an unchanged restart does nothing");
    reached("10.96.0.10:80");
    std::fs::remove_file(node.state.path().join("manifests/slices.yaml")).unwrap();
    until("the endpoint goes", || connect("10.96.0.10:80").is_err().then_some(()));
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn readyz_is_200_once_routes_are_installed() {
    let Some(node) = furnished("readyz_is_200_once_routes_are_installed") else { return };
    let _agent = Agent::start(&node, &["--service-cidr=10.96.0.0/16"]);
    let end = Instant::now() + Duration::from_secs(10);
    // Polls without a pause: a state that is reached milliseconds after the first 200 is too late.
    while get(10249, "/readyz").is_none_or(|(code, _)| code != 200) {
        assert!(Instant::now() < end, "not ready within ten seconds");
    }
    let route = run("ip -oneline route get 10.96.0.11");
    assert!(route.contains("ropeway.out"), "{route}");
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn loading_programs_does_not_retain_memory() {
    let Some(node) = furnished("loading_programs_does_not_retain_memory") else { return };
    let memory = || {
        let agent = Agent::start(&node, &[]).ready();
        let memory = agent.memory();
        agent.terminate();
        memory
    };
    let (loading, finding) = (memory(), memory());
    assert!(loading < finding + (4 << 10), "{loading} KiB after loading, {finding} KiB after adopting them");
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn upgrade_to_another_abi_loses_no_connection() {
    let Some(node) = furnished("upgrade_to_another_abi_loses_no_connection") else { return };
    serve("192.168.50.11:8080");
    Agent::start(&node, &[]).ready().terminate();
    let own = std::fs::read_dir(ROOT).unwrap().next().unwrap().unwrap().path();
    let other = Path::new(ROOT).join("0123456789abcdef");
    std::fs::rename(&own, &other).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let client = std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            assert_eq!(connect("10.96.0.10:80").expect("a connection was lost").0, "hello");
            count += 1;
        }
        count
    });
    let _agent = Agent::start(&node, &[]).ready();
    until("the pins of the other version are removed", || (!other.exists()).then_some(()));
    done.store(true, Ordering::Relaxed);
    let count = client.join().unwrap();
    println!("{count} connections");
    assert!(count > 10 && own.join("links/sock_connect4").exists());
    assert_eq!(connect("10.96.0.10:80").unwrap().0, "hello");
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn uninstall_leaves_nothing() {
    let Some(node) = furnished("uninstall_leaves_nothing") else { return };
    node.manifest("nodes.yaml", NODES);
    serve("192.168.50.11:8080");
    let agent = Agent::start(&node, &["--uplink-attach=clsact"]).ready();
    assert!(connect("10.96.0.10:80").is_ok());
    until("routes", || run("ip route").contains("10.244.2.0/24").then_some(()));
    let (ok, text) = node.ropeway(&["uninstall"]);
    assert!(!ok && text.contains("stop the agent first"), "{text}");
    agent.terminate();
    run("ip route add 10.244.1.5/32 dev up0 proto 82; ip route add 10.99.0.0/16 via 192.168.50.1");
    let (ok, text) = node.ropeway(&["uninstall", "-o", "json"]);
    let removed: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(ok, "{text}");
    assert_eq!((&removed["links"], &removed["filters"]), (&9.into(), &7.into()), "{text}");
    assert_eq!((&removed["podRoutesKept"], &removed["routes"]), (&1.into(), &6.into()), "{text}");
    assert_eq!((&removed["tunnels"], &removed["hostDevices"]), (&1.into(), &1.into()), "{text}");
    assert!(!run("ip -o link").contains("ropeway."));
    assert!(!Path::new(ROOT).exists());
    assert!(connect("10.96.0.10:80").is_err());
    let routes = run("ip route; ip -6 route");
    assert!(!routes.contains("10.244.2.0/24") && routes.contains("10.99.0.0/16"), "{routes}");
    assert!(!run("tc filter show dev up0 ingress").contains("uplink"));
    let (ok, text) = node.ropeway(&["uninstall"]);
    assert!(ok, "a second uninstall: {text}");
}

const NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.244.1.0/24, 'fd00:1::/64']}
status: {addresses: [{type: InternalIP, address: 192.168.50.11}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.244.2.0/24, 'fd00:2::/64']}
status: {addresses: [{type: InternalIP, address: 192.168.50.12}, {type: InternalIP, address: 'fd00:50::12'}]}
---
apiVersion: v1
kind: Node
metadata: {name: n3}
spec: {podCIDRs: [10.244.30.0/24, 'fd00:30::/64']}
status: {addresses: [{type: InternalIP, address: 192.168.51.13}, {type: InternalIP, address: 'fd00:51::13'}]}
";

#[test]
#[ignore = "needs root and the eBPF object"]
fn routes_and_links_are_repaired() {
    let Some(node) = furnished("routes_and_links_are_repaired") else { return };
    node.manifest("nodes.yaml", NODES);
    run("ip route add 10.244.3.0/24 via 192.168.50.1 proto 82; ip route add 10.99.0.0/16 via 192.168.50.1");
    let _agent = Agent::start(&node, &[]).ready();
    let routes = || run("ip route; ip -6 route");
    let right = || {
        let all = routes();
        ["10.244.2.0/24 via 192.168.50.12", "fd00:2::/64 via fd00:50::12", "10.244.1.0/24 via 169.254.1.1"]
            .iter()
            .all(|r| all.contains(r))
            .then_some(all)
    };
    let all = until("routes", right);
    assert!(!all.contains("10.244.3.0/24") && all.contains("10.99.0.0/16"), "{all}");
    let file = std::fs::read_to_string(node.state.path().join("lib/node.json")).unwrap();
    assert!(file.contains(r#""podCIDRs":["10.244.1.0/24","fd00:1::/64"],"mtu":1450"#), "{file}");

    run("ip route del 10.244.2.0/24");
    until("the route is back", right);
    run("ip route replace 10.244.2.0/24 via 192.168.50.99");
    run("ip link del up0");
    until("the agent has handled the removal", || (metric("ropeway_node_operations_total") > 0).then_some(()));
    run("ip link add up0 type veth peer name up1; ip link set up1 up; ip link set up0 up");
    run("ip address add 192.168.50.11/24 dev up0; ip address add fd00:50::11/64 dev up0 nodad");
    run("ip route add default via 192.168.50.1");
    until("routes on the new device", right);
    until("links on the new device", || {
        let status = node.ropeway(&["status"]).1;
        (status.matches("tcx     up0").count() == 2).then_some(())
    });
    assert!(metric("ropeway_route_repairs_total") >= 1);
    node.manifest("nodes.yaml", NODES.split("---").next().unwrap());
    until("the routes to a deleted node are removed", || (!routes().contains("10.244.2.0/24")).then_some(()));
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn network_tries_follow_nodes_and_survive_restarts() {
    let Some(node) = furnished("network_tries_follow_nodes_and_survive_restarts") else { return };
    node.manifest("nodes.yaml", NODES);
    let pins = Pins::new(Path::new(ROOT));
    let config = || PinnedMap::<u32, NodeConfig>::open(&pins, "config").unwrap().get(&0).unwrap().unwrap();
    let flags = ["--cluster-cidr=10.244.0.0/16", "--non-masquerade-cidr=10.9.0.0/16"];
    let start = || {
        let agent = Agent::start(&node, &flags).ready();
        let on = node_features::NETWORKS | node_features::MASQUERADE | node_features::NODE_CLIENT;
        until("the tries are enabled", || (config().features == on).then_some(()));
        agent
    };
    let agent = start();
    let tunnel: u32 = run("ip -o link show ropeway.vx4").split(':').next().unwrap().parse().unwrap();
    assert_eq!((config().mtu, config().tunnel_mtu), (1500, 1450));
    let shown: Vec<_> = networks::read(&pins)
        .unwrap()
        .into_iter()
        .map(|(range, net)| (range.to_string(), net.oif, net.flags))
        .collect();
    let keep = network_flags::KEEP_SOURCE;
    let own = keep | network_flags::OWN | network_flags::LOCAL;
    let (remote, host) = (keep | network_flags::REMOTE, keep | network_flags::NODE);
    let expected = [
        ("10.9.0.0/16", 0, keep),
        ("10.244.0.0/16", 0, keep),
        ("10.244.1.0/24", 0, own),
        ("10.244.2.0/24", 0, remote),
        ("10.244.30.0/24", tunnel, remote),
        ("192.168.50.12/32", 0, host),
        ("192.168.51.13/32", tunnel, host),
        ("fd00:1::/64", 0, own),
        ("fd00:2::/64", 0, remote),
        ("fd00:30::/64", tunnel, remote),
        ("fd00:50::12/128", 0, host),
        ("fd00:51::13/128", 0, host),
    ];
    assert_eq!(shown, expected.map(|(range, oif, flags)| (range.to_owned(), oif, flags)));

    let right = networks::read(&pins).unwrap();
    agent.terminate();
    let agent = start();
    assert_eq!(metric("ropeway_node_operations_total"), 0, "an unchanged restart does nothing:\n{}", agent.log());
    // The agent restores entries that other programs change, at the next event that it gets.
    let table = PinnedMap::<Prefix<V4>, Network>::open(&pins, "networks4").unwrap();
    let prefix = |octets, len| Prefix { len, data: V4 { octets } };
    assert!(table.remove(&prefix([10, 244, 30, 0], 24)).unwrap());
    table.insert(&prefix([10, 77, 0, 0], 16), &Network { oif: 9, flags: 0, node: 0 }).unwrap();
    run("ip address add 192.168.50.99/24 dev up0");
    until("the entries are right", || (networks::read(&pins).unwrap() == right).then_some(()));
    node.manifest("nodes.yaml", NODES.split("---").next().unwrap());
    until("the entries of deleted nodes are removed", || (networks::read(&pins).unwrap().len() == 4).then_some(()));
    drop(agent);
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn invalid_setups_are_rejected_without_leftovers() {
    let Some(node) = furnished("invalid_setups_are_rejected_without_leftovers") else { return };
    let refused = |flags: &[&str], expected: &str| {
        let (code, log) = Agent::start(&node, flags).end();
        assert!(code != Some(0) && log.contains(expected), "{flags:?}: {log}");
        assert!(!Path::new(ROOT).exists(), "{flags:?} left pins");
    };
    refused(
        &["--manifests=/nonexistent"],
        "--manifests /nonexistent: cannot read the directory: No such file or directory",
    );
    refused(&["--pin-root=/tmp/rw-pins"], "--pin-root /tmp/rw-pins: not in a bpf file system: mount one with");
    refused(&["--cgroup-root=/tmp"], "--cgroup-root /tmp: not in a cgroup file system of version 2");
    refused(&["--ebpf-object=/etc/hostname"], "--ebpf-object /etc/hostname: not an ELF object");
    refused(&["--max-flows=1"], "--max-flows: 1 is out of range");
    refused(&["--source=kubernetes"], "--manifests: requires --source manifests");
    let taken = TcpListener::bind("127.0.0.1:10249").unwrap();
    refused(&[], "--metrics-bind-address 127.0.0.1:10249: Address already in use");
    drop(taken);
    let first = AgentLock::take(&node.state.path().join("lib")).unwrap();
    refused(&[], "agent.lock: another agent runs on this node");
    drop(first);
    run("umount /sys/fs/bpf");
    refused(&[], "not in a bpf file system");
}

#[test]
#[ignore = "needs root and the eBPF object"]
fn tracing_logs_packets() {
    let Some(node) = furnished("tracing_logs_packets") else { return };
    let agent = Agent::start(&node, &["--trace", "--log-format=json"]).ready();
    until("a traced packet", || {
        run("ping -c 1 -W 0.1 192.168.50.12 || true");
        agent.log().lines().any(|l| l.contains("to_uplink: ") && l.starts_with('{')).then_some(())
    });
}
