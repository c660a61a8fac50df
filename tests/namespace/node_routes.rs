//! Routes between nodes: five nodes on two links, with a router that has no routes to pods. Pods
//! reach each other directly or by the tunnel, and routes follow changes within one second.

use std::time::{Duration, Instant};

use ropeway_tests::cluster::{Cluster, Node, Shape};
use ropeway_tests::load;
use ropeway_tests::manifest;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::process::{self, Process};
use ropeway_tests::wait;

const LINKS: [u8; 5] = [0, 0, 0, 1, 1];
pub(crate) const PORT: u16 = 8080;
const TUNNEL: &str = "ropeway.vx4";
/// Time within which routes have to follow an event.
pub(crate) const SOON: Duration = Duration::from_secs(1);

/// Bytes of a datagram that fills a packet.
pub(crate) fn payload(family: IpFamily, mtu: usize) -> usize {
    mtu - 8 - if family == IpFamily::V4 { 20 } else { 40 }
}

/// A pod and the server that runs in it.
pub(crate) struct ServingPod {
    pub(crate) pod: Pod,
    pub(crate) server: Process,
}

/// Starts a pod with a server on [`PORT`].
pub(crate) fn serving(node: &Node, name: &str) -> ServingPod {
    let pod = node.pod(name).unwrap();
    let server = load::serve(&pod, name, &[PORT]).unwrap();
    ServingPod { pod, server }
}

/// Starts a pod and a server on each node.
pub(crate) fn pods(cluster: &Cluster) -> Vec<ServingPod> {
    cluster.nodes.iter().map(|node| serving(node, &format!("pod-{}", node.name()))).collect()
}

/// Returns all pairs of pods, including each pod with itself.
pub(crate) fn pairs(pods: &[ServingPod]) -> impl Iterator<Item = (&Pod, &Pod)> {
    pods.iter().flat_map(|from| pods.iter().map(move |to| (&from.pod, &to.pod)))
}

/// Checks that full-sized packets of every kind pass in both families.
pub(crate) fn reaches(from: &Pod, to: &Pod, mtu: usize) {
    IpFamily::BOTH.into_iter().for_each(|family| reaches_over(family, from, to, mtu));
}

pub(crate) fn reaches_over(family: IpFamily, from: &Pod, to: &Pod, mtu: usize) {
    let (target, source) = (to.port(family, PORT).unwrap(), from.address(family).unwrap());
    let size = format!("--size={}", payload(family, mtu));
    for (protocol, flags) in [(Protocol::Tcp, &[][..]), (Protocol::Udp, &[size.as_str()][..])] {
        let report = load::send_requests_with(from, target, protocol, 2, flags).unwrap();
        let context = format!("{} to {target} {protocol:?}: {report:?}", from.name());
        assert_eq!((report.ok, report.failed), (2, 0), "{context}");
        assert!(report.seen_as.iter().eq([&source]), "the source address is kept: {context}");
    }
    load::transfer(from, target, 256 << 10).unwrap();
    load::echo(from, to.address(family).unwrap(), payload(family, mtu)).unwrap();
}

/// Returns Ropeway's routes on a node.
pub(crate) fn routes(node: &Node) -> String {
    ["-4", "-6"].map(|family| node.machine.output(&["ip", family, "route", "show", "proto", "82"]).unwrap()).concat()
}

fn counts(node: &Node, metric: &str, expected: u32) -> bool {
    node.metric(metric).is_ok_and(|count| (count - f64::from(expected)).abs() < 0.5)
}

fn pod_mtu(pod: &Pod) -> usize {
    let mut command = pod.command("ip").unwrap();
    let text = process::output("ip link", command.args(["-o", "link", "show", "eth0"])).unwrap();
    let (_, after) = text.split_once(" mtu ").unwrap();
    after.split(' ').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn pods_reach_each_other_across_router() {
    let mut cluster = Cluster::routed(&LINKS, 1500).unwrap();
    cluster.nodes[0]
        .machine
        .ip(&["route add 10.99.0.0/16 via 192.168.50.1", "route add 10.244.200.0/24 dev eth0"])
        .unwrap();
    cluster.start_agents().unwrap();
    let pods = pods(&cluster);
    for ServingPod { pod: from, .. } in &pods {
        assert_eq!(pod_mtu(from), 1450, "room for the headers of the tunnel");
        for ServingPod { pod: to, .. } in &pods {
            reaches(from, to, 1450);
        }
    }
    let table = routes(&cluster.nodes[0]);
    for route in [
        "10.244.2.0/24 via 192.168.50.12 dev eth0",
        &format!("10.244.4.0/24 via 192.168.51.14 dev {TUNNEL}"),
        &format!("fd00:10:244:5::/64 via fe80::5057:c0ff:fea8:330f dev {TUNNEL}"),
        "10.244.1.0/24 via 169.254.1.1 dev ropeway.out src 192.168.50.11 onlink",
    ] {
        assert!(table.contains(route), "no {route} in {table}");
    }
    let all = cluster.nodes[0].machine.output(&["ip", "route"]).unwrap();
    assert!(all.contains("10.99.0.0/16 via") && all.contains("10.244.200.0/24 dev eth0"), "routes of others: {all}");
    // Processes of nodes reach pods of other nodes and get answers.
    for (node, pod) in [(0, 4), (4, 0), (0, 1)] {
        for family in IpFamily::BOTH {
            let target = pods[pod].pod.port(family, PORT).unwrap();
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let report = load::send_requests(&cluster.nodes[node].machine, target, protocol, 5).unwrap();
                assert_eq!((report.ok, report.failed), (5, 0), "n{} to {target}: {report:?}", node + 1);
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn vxlan_mode_reaches_every_remote_pod_through_tunnel() {
    let mut cluster = Cluster::routed(&[0, 0, 1], 9000).unwrap();
    cluster.start_agents_with(&["--route-mode=vxlan"]).unwrap();
    let pods = pods(&cluster);
    pairs(&pods).for_each(|(from, to)| reaches(from, to, 8950));
    let table = routes(&cluster.nodes[0]);
    assert!(
        table.contains(&format!("10.244.2.0/24 via 192.168.50.12 dev {TUNNEL}")),
        "no route through the tunnel: {table}"
    );
}

#[test]
#[ignore = "needs root"]
fn node_removal_and_return_update_routes_within_one_second() {
    let mut cluster = Cluster::routed(&LINKS, 1500).unwrap();
    cluster.start_agents().unwrap();
    let pods = pods(&cluster);
    let objects: Vec<_> = cluster.nodes.iter().map(Node::object).collect();
    let mut slowest = Duration::ZERO;
    for lost in [1, 4] {
        let blocks = cluster.nodes[lost].pod_cidrs();
        for present in [false, true] {
            let kept = objects.iter().enumerate().filter(|(i, _)| present || *i != lost).map(|(_, o)| o.clone());
            cluster.apply("nodes", &kept.collect::<Vec<_>>()).unwrap();
            let start = Instant::now();
            for node in cluster.nodes.iter().enumerate().filter(|(i, _)| *i != lost).map(|(_, n)| n) {
                let left = SOON.saturating_sub(start.elapsed());
                wait::until_true(&format!("{}: {blocks:?} there: {present}", node.name()), left, || {
                    let table = routes(node);
                    blocks.iter().all(|block| table.contains(block.as_str()) == present)
                })
                .unwrap();
            }
            slowest = slowest.max(start.elapsed());
        }
        reaches(&pods[0].pod, &pods[lost].pod, 1450);
    }
    println!("the slowest took {slowest:?}");

    // A node returns under its old name with another range and another address.
    let node = &cluster.nodes[4];
    node.machine.ip(&["address del 192.168.51.15/24 dev eth0", "address add 192.168.51.77/24 dev eth0"]).unwrap();
    node.machine.ip(&["route add default via 192.168.51.1"]).unwrap();
    let mut moved = objects;
    let addresses = ["192.168.51.77".parse().unwrap(), node.address(IpFamily::V6)];
    moved[4] = manifest::node("n5", &addresses, &node.pod_cidrs());
    cluster.apply("nodes", &moved).unwrap();
    let expected = format!("10.244.5.0/24 via 192.168.51.77 dev {TUNNEL}");
    wait::until_true(&expected, SOON, || routes(&cluster.nodes[0]).contains(&expected)).unwrap();
    wait::until("the pods reach each other again", Duration::from_secs(5), || {
        let target = pods[4].pod.port(IpFamily::V4, PORT)?;
        let report = load::send_requests_with(&pods[0].pod, target, Protocol::Tcp, 1, &["--timeout=300"])?;
        Ok((report.ok == 1).then_some(()))
    })
    .unwrap();
    reaches(&pods[0].pod, &pods[4].pod, 1450);
}

#[test]
#[ignore = "needs root"]
fn removed_routes_are_restored_and_counted() {
    let mut cluster = Cluster::routed(&[0, 1], 1500).unwrap();
    cluster.start_agents().unwrap();
    let pods = pods(&cluster);
    let node = &cluster.nodes[0];
    assert!(counts(node, "ropeway_route_repairs_total", 0));
    let before = routes(node);
    for (number, damage) in
        (1..).zip(["route del 10.244.2.0/24", "route del fd00:10:244:2::/64", "route del 10.244.1.0/24"])
    {
        node.machine.ip(&[damage]).unwrap();
        wait::until_true(&format!("after `ip {damage}`"), SOON, || routes(node) == before).unwrap();
        wait::until_true("it is counted", SOON, || counts(node, "ropeway_route_repairs_total", number)).unwrap();
    }
    for damage in
        [format!("link del {TUNNEL}"), format!("link set {TUNNEL} down"), format!("link set {TUNNEL} mtu 1400")]
    {
        node.machine.ip(&[&damage]).unwrap();
        wait::until_true(&format!("after `ip {damage}`"), SOON, || {
            let link = node.machine.output(&["ip", "link", "show", TUNNEL]).unwrap_or_default();
            link.contains("UP,LOWER_UP") && link.contains("mtu 1450") && routes(node) == before
        })
        .unwrap();
        reaches(&pods[0].pod, &pods[1].pod, 1450);
    }
    // A foreign route in the place of Ropeway's is kept, and reported.
    node.machine.ip(&["route replace 10.244.2.0/24 via 192.168.50.1 proto static"]).unwrap();
    wait::until_true("it is said", SOON, || counts(node, "ropeway_unrouted_ranges", 1)).unwrap();
    node.machine.ip(&["route del 10.244.2.0/24 via 192.168.50.1 proto static"]).unwrap();
    wait::until_true("ours is back", SOON, || routes(node) == before).unwrap();
    reaches(&pods[0].pod, &pods[1].pod, 1450);
}

#[test]
#[ignore = "needs root"]
fn thousand_nodes_are_routed_within_one_second() {
    let mut cluster = Cluster::routed(&[0], 1500).unwrap();
    cluster.start_agents().unwrap();
    let node = &cluster.nodes[0];
    let simulated: Vec<_> = (0..1000_u32)
        .map(|i| {
            // A quarter on the link, the others behind the router.
            let (a, b) = (i / 250, i % 250 + 2);
            let third = if a == 0 { 50 } else { 60 + a };
            let addresses = [format!("192.168.{third}.{b}"), format!("fd00:{third}::5:{b:x}")];
            let ranges = [format!("10.{}.{b}.0/24", 128 + a), format!("fd00:128:{i:x}::/64")];
            manifest::node(&format!("s{i}"), &addresses.map(|a| a.parse().unwrap()), &ranges)
        })
        .filter(|node| node["status"]["addresses"][0]["address"] != "192.168.50.11")
        .collect();
    let count = |what: &[&str]| node.machine.output(what).unwrap().lines().count();
    let all =
        || count(&["ip", "-4", "route", "show", "proto", "82"]) + count(&["ip", "-6", "route", "show", "proto", "82"]);
    for (wanted, objects) in [(2 * simulated.len() + 2, &simulated[..]), (2, &[])] {
        cluster.apply("simulated", objects).unwrap();
        let start = Instant::now();
        wait::until(&format!("{wanted} routes"), SOON, || {
            let now = all();
            anyhow::ensure!(now == wanted, "now {now}");
            Ok(Some(()))
        })
        .unwrap();
        println!("{wanted} routes after {:?}", start.elapsed());
        let ends = || count(&["bridge", "fdb", "show", "dev", TUNNEL]);
        let expected = if wanted == 2 { 0 } else { 750 };
        wait::until_true(&format!("{expected} tunnel ends"), SOON, || ends() == expected).unwrap();
    }
}

/// Programs that manage the node's network flush what they have not set (`networkctl reload`). The
/// node's own processes then do not reach a pod, whose probes fail.
#[test]
#[ignore = "needs root"]
fn removed_routes_and_neighbours_of_pods_are_restored() {
    let mut cluster = Cluster::network(Shape { nodes: 1, mtu: 1500 }).unwrap();
    cluster.filter_strictly().unwrap();
    cluster.start_agents().unwrap();
    let node = &cluster.nodes[0];
    let ServingPod { pod, server: _server } = serving(node, "web");
    let answered = |family| {
        let target = pod.port(family, PORT).unwrap();
        let report = load::send_requests_with(&node.machine, target, Protocol::Tcp, 1, &["--timeout=300"]);
        report.is_ok_and(|report| report.ok == 1)
    };
    let all = || IpFamily::BOTH.into_iter().all(answered);
    wait::until_true("the node reaches the pod", SOON, all).unwrap();
    let device = pod.result()["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let [four, six] = IpFamily::BOTH.map(|family| pod.address(family).unwrap());
    let [lookup, routes] = [
        ["ip", "neigh", "show", "dev", &device, "nud", "permanent"].to_vec(),
        ["ip", "route", "show", "dev", &device].to_vec(),
    ];
    let state = || [&lookup, &routes].map(|words| node.machine.output(words).unwrap());
    let before = state();
    for damage in [
        vec![format!("route del {four}/32 dev {device}"), format!("route del {six}/128 dev {device}")],
        vec![format!("neigh flush dev {device} nud permanent")],
    ] {
        node.machine.ip(&damage).unwrap();
        assert_ne!(state(), before, "{damage:?}");
        // Neighbours have no event that the agent follows: it looks at intervals of 30 s.
        wait::until_true(&format!("after {damage:?}"), Duration::from_secs(40), || state() == before).unwrap();
        wait::until_true("the node reaches the pod", SOON, all).unwrap();
    }
}
