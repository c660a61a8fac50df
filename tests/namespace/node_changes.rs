//! Changes of nodes: other pod CIDRs, other addresses, a new machine under an old name, nodes
//! without IPv4. Pods reach each other again within one second.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ropeway_tests::agent::HEALTH;
use ropeway_tests::cluster::{Cluster, Node};
use ropeway_tests::load::{self, PersistentLoad};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::process;
use ropeway_tests::{binaries, manifest, wait};
use serde_json::Value;

use crate::node_routes::{PORT, SOON, ServingPod, pairs, pods, reaches, reaches_over, routes, serving};

/// `n2` is a neighbour of `n1`, `n3` is reached by the tunnel.
const LINKS: [u8; 3] = [0, 0, 1];
const MTU: usize = 1450;

fn each_reaches_each(pods: &[ServingPod]) {
    pairs(pods).for_each(|(from, to)| reaches(from, to, MTU));
}

/// Returns the Nodes of `n2` and `n3` as changed by `change`, which gets a node and its link;
/// `n1`'s stays unchanged.
fn objects(cluster: &Cluster, change: impl Fn(&Node, u8) -> Value) -> Vec<Value> {
    let changed = |(node, link): (&Node, &u8)| if node.name() == "n1" { node.object() } else { change(node, *link) };
    cluster.nodes.iter().zip(&LINKS).map(changed).collect()
}

fn addresses(node: &Node) -> [IpAddr; 2] {
    IpFamily::BOTH.map(|family| node.address(family))
}

/// Returns new pod CIDRs of a node.
fn other_ranges(node: &Node) -> Vec<String> {
    node.pod_cidrs().iter().map(|range| range.replace("10.244.", "10.244.10").replace("244:", "244:a")).collect()
}

/// Returns new addresses of a node.
fn other_addresses(node: &Node, link: u8) -> [IpAddr; 2] {
    let last = 70 + node.name().trim_start_matches('n').parse::<u8>().unwrap();
    [format!("192.168.5{link}.{last}"), format!("fd00:5{link}::{last}")].map(|address| address.parse().unwrap())
}

/// Changes the addresses of a machine, as an administrator would.
fn renumber(node: &Node, link: u8) {
    let ([old4, old6], [new4, new6]) = (addresses(node), other_addresses(node, link));
    node.machine
        .ip(&[
            format!("address del {old4}/24 dev eth0"),
            format!("address del {old6}/64 dev eth0"),
            format!("address add {new4}/24 dev eth0"),
            format!("address add {new6}/64 dev eth0 nodad"),
            format!("route add default via 192.168.5{link}.1"),
            format!("route replace default via fd00:5{link}::1"),
        ])
        .unwrap();
}

/// Returns the `node.json` that the agent writes for the plugin.
pub(crate) fn for_plugin(node: &Node) -> PathBuf {
    node.machine.path("/var/lib/ropeway/node.json")
}

/// Returns a value if a server answers within 100 milliseconds.
fn answers(from: &Pod, target: SocketAddr) -> anyhow::Result<Option<()>> {
    let report = load::send_requests_with(from, target, Protocol::Tcp, 1, &["--timeout=100"])?;
    Ok((report.ok == 1).then_some(()))
}

/// Applies Nodes and waits until pods of `n1` have reached others for a second.
fn reach_soon(cluster: &Cluster, nodes: &[Value], what: &str, from: &Pod, to: &[&Pod]) {
    cluster.apply("nodes", nodes).unwrap();
    let start = Instant::now();
    for (pod, family) in to.iter().flat_map(|pod| IpFamily::BOTH.map(|family| (pod, family))) {
        let target = pod.port(family, PORT).unwrap();
        let left = SOON.saturating_sub(start.elapsed());
        wait::until(&format!("{what}: {target}"), left, || answers(from, target)).unwrap();
    }
    println!("{what}: reached after {:?}", start.elapsed());
}

#[test]
#[ignore = "needs root"]
fn changed_pod_cidrs_update_routes_and_plugin() {
    let mut cluster = Cluster::routed(&LINKS, 1500).unwrap();
    cluster.start_agents().unwrap();
    let mut pods = pods(&cluster);
    each_reaches_each(&pods);
    let nodes = objects(&cluster, |node, _| manifest::node(node.name(), &addresses(node), &other_ranges(node)));
    cluster.apply("nodes", &nodes).unwrap();
    let start = Instant::now();
    for node in &cluster.nodes[1..] {
        let (old, new) = (node.pod_cidrs(), other_ranges(node));
        for other in &cluster.nodes {
            let left = SOON.saturating_sub(start.elapsed());
            wait::until(&format!("{}: routes to {new:?}", other.name()), left, || {
                let table = routes(other);
                let right = new.iter().all(|range| table.contains(range.as_str()))
                    && !old.iter().any(|range| table.contains(range.as_str()));
                anyhow::ensure!(right, "routes to the new ranges are missing, or old ones remain: {table}");
                Ok(Some(()))
            })
            .unwrap();
        }
        wait::until_true("the plugin is told", SOON.saturating_sub(start.elapsed()), || {
            let text = std::fs::read_to_string(for_plugin(node)).unwrap();
            new.iter().all(|range| text.contains(range.as_str()))
                && !old.iter().any(|range| text.contains(range.as_str()))
        })
        .unwrap();
    }
    println!("routes and plugins after {:?}", start.elapsed());
    // Pods with addresses of the old CIDRs are unreachable. They are deleted and created again.
    for ServingPod { pod, server } in pods.split_off(1) {
        drop(server);
        pod.delete().unwrap();
    }
    pods.extend(cluster.nodes[1..].iter().map(|node| serving(node, &format!("new-{}", node.name()))));
    for (node, ServingPod { pod, .. }) in cluster.nodes[1..].iter().zip(&pods[1..]) {
        for (range, family) in other_ranges(node).iter().zip(IpFamily::BOTH) {
            let prefix = range.trim_end_matches("0/24").trim_end_matches(":/64");
            assert!(
                pod.address(family).unwrap().to_string().starts_with(prefix),
                "no address in {range}: {:?}",
                pod.addresses()
            );
        }
    }
    each_reaches_each(&pods);
    // The node's packets into the tunnel have a source address of its new range.
    for (node, to) in [(0, 2), (2, 0), (2, 1)] {
        for family in IpFamily::BOTH {
            let target = pods[to].pod.port(family, PORT).unwrap();
            let report = load::send_requests(&cluster.nodes[node].machine, target, Protocol::Tcp, 3).unwrap();
            assert_eq!((report.ok, report.failed), (3, 0), "n{} to {target}: {report:?}", node + 1);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn changed_node_addresses_keep_connections() {
    let mut cluster = Cluster::routed(&LINKS, 1500).unwrap();
    cluster.start_agents().unwrap();
    let pods = pods(&cluster);
    let held: Vec<_> = pods[1..]
        .iter()
        .flat_map(|ServingPod { pod, .. }| IpFamily::BOTH.map(|family| pod.port(family, PORT).unwrap()))
        .map(|target| PersistentLoad::open(&pods[0].pod, target, 4).unwrap())
        .collect();
    for (node, link) in cluster.nodes.iter().zip(LINKS).skip(1) {
        renumber(node, link);
    }
    let nodes =
        objects(&cluster, |node, link| manifest::node(node.name(), &other_addresses(node, link), &node.pod_cidrs()));
    reach_soon(&cluster, &nodes, "other addresses", &pods[0].pod, &[&pods[1].pod, &pods[2].pod]);
    each_reaches_each(&pods);
    for held in held {
        let report = held.release().unwrap();
        assert_eq!((report.lost.len(), report.requests.failed), (0, 0), "connections are lost: {report:?}");
    }
    let table = routes(&cluster.nodes[0]);
    for route in ["10.244.2.0/24 via 192.168.50.72 dev eth0", "10.244.3.0/24 via 192.168.51.73 dev ropeway.vx4"] {
        assert!(table.contains(route), "no {route} in {table}");
    }
}

/// Returns true if no route leads to another node.
fn is_alone(node: &Node) -> bool {
    routes(node).lines().all(|route| !route.contains(" via ") || route.contains("ropeway.out"))
}

/// Replaces a machine by one with the same name: other addresses, other ranges and another MAC.
#[test]
#[ignore = "needs root"]
fn replaced_node_with_same_name_is_reachable() {
    let mut cluster = Cluster::routed(&LINKS, 1500).unwrap();
    cluster.start_agents().unwrap();
    let mut pods = pods(&cluster);
    each_reaches_each(&pods);
    for ServingPod { pod, server } in pods.split_off(1) {
        drop(server);
        pod.delete().unwrap();
    }
    let alone = [cluster.nodes[0].object()];
    cluster.apply("nodes", &alone).unwrap();
    for (node, link) in cluster.nodes.iter_mut().zip(LINKS).skip(1) {
        node.kill_agent().unwrap();
        let uninstall = binaries::find("ropeway").unwrap();
        process::output("uninstall", node.machine.command(uninstall).unwrap().arg("uninstall")).unwrap();
        node.machine.output(&["find", "/var/lib/ropeway", "-mindepth", "1", "-delete"]).unwrap();
        node.machine.ip(&[format!("link set eth0 address 02:00:00:00:77:{link:02x}")]).unwrap();
        renumber(node, link);
    }
    wait::until_true("n1 has no route to them", SOON, || is_alone(&cluster.nodes[0])).unwrap();
    // The agents of the new machines start before their Nodes exist.
    for node in &mut cluster.nodes[1..] {
        node.start_agent(&[]).unwrap();
    }
    for node in &cluster.nodes[1..] {
        let health = HEALTH.parse().unwrap();
        wait::until("the agent runs", Duration::from_secs(30), || {
            load::fetch(&node.machine, health, "/healthz").map(Some)
        })
        .unwrap();
        assert!(!for_plugin(node).exists(), "the plugin has nothing to give");
    }
    let nodes =
        objects(&cluster, |node, link| manifest::node(node.name(), &other_addresses(node, link), &other_ranges(node)));
    cluster.apply("nodes", &nodes).unwrap();
    let start = Instant::now();
    for node in &cluster.nodes[1..] {
        let left = || SOON.saturating_sub(start.elapsed());
        wait::until_true("the plugin is told", left(), || for_plugin(node).exists()).unwrap();
        let ranges = other_ranges(node);
        let routed = || ranges.iter().all(|range| routes(&cluster.nodes[0]).contains(range.as_str()));
        wait::until_true("n1 has routes", left(), routed).unwrap();
    }
    println!("new machines are known after {:?}", start.elapsed());
    pods.extend(cluster.nodes[1..].iter().map(|node| serving(node, &format!("new-{}", node.name()))));
    each_reaches_each(&pods);
    // Restores the old machine with its addresses and ranges.
    cluster.apply("nodes", &alone).unwrap();
    wait::until_true("n1 has no route to them", SOON, || is_alone(&cluster.nodes[0])).unwrap();
    reach_soon(&cluster, &nodes, "a new machine of that name", &pods[0].pod, &[&pods[1].pod, &pods[2].pod]);
    each_reaches_each(&pods);
}

/// Neighbours and a node behind a router, none of which has an IPv4 address or range.
#[test]
#[ignore = "needs root"]
fn ipv6_only_nodes_route_pods() {
    let mut cluster = Cluster::routed(&LINKS, 1500).unwrap();
    for node in &cluster.nodes {
        node.machine.ip(&[format!("address del {}/24 dev eth0", node.address(IpFamily::V4))]).unwrap();
    }
    let six = |node: &Node| manifest::node(node.name(), &[node.address(IpFamily::V6)], &node.pod_cidrs()[1..]);
    let objects: Vec<_> = cluster.nodes.iter().map(six).collect();
    cluster.apply("nodes", &objects).unwrap();
    cluster.start_agents().unwrap();
    let pods = pods(&cluster);
    let all_reach = || {
        for (from, to) in pairs(&pods) {
            assert!(
                from.addresses().iter().all(IpAddr::is_ipv6),
                "the pod has an IPv4 address: {:?}",
                from.addresses()
            );
            reaches_over(IpFamily::V6, from, to, 1430);
        }
    };
    all_reach();
    let table = routes(&cluster.nodes[0]);
    for route in ["fd00:10:244:2::/64 via fd00:50::12 dev eth0", "dev ropeway.vx6"] {
        assert!(table.contains(route), "no {route} in {table}");
    }
    assert!(!table.contains("ropeway.vx4"), "an IPv4 tunnel exists: {table}");
    for node in [0, 2] {
        let target = pods[2 - node].pod.port(IpFamily::V6, PORT).unwrap();
        let report = load::send_requests(&cluster.nodes[node].machine, target, Protocol::Tcp, 3).unwrap();
        assert_eq!((report.ok, report.failed), (3, 0), "n{} to {target}: {report:?}", node + 1);
    }
    // One node is removed and added again.
    cluster.apply("nodes", &objects[..2]).unwrap();
    wait::until_true("no route to n3", SOON, || !routes(&cluster.nodes[0]).contains("ropeway.vx6")).unwrap();
    cluster.apply("nodes", &objects).unwrap();
    let start = Instant::now();
    let target = pods[2].pod.port(IpFamily::V6, PORT).unwrap();
    wait::until("n3 is reached again", SOON, || answers(&pods[0].pod, target)).unwrap();
    println!("n3 is reached after {:?}", start.elapsed());
    all_reach();
}
