//! Rule 2.6.5: connections that exist when the agent starts survive, also those that kube-proxy has
//! translated. In this test, nftables rules stand in for kube-proxy.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use ropeway_tests::cluster::{Cluster, Shape, address};
use ropeway_tests::contracts::{Checked, Path, Recorder, Rule};
use ropeway_tests::expect;
use ropeway_tests::load::{self, PersistentLoad, TrafficEndpoint};
use ropeway_tests::machine::Machine;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::process::Process;
use ropeway_tests::{manifest, wait};
use serde_json::json;

use super::expect::expect_answers;

/// Ports of the servers; the second one belongs to the agent's Service only.
const DIRECT: u16 = 7000;
const FRESH: u16 = 7001;
/// A node port that first nftables and then the agent translates.
const NODE_PORT: u16 = 30110;

/// A pod of another plugin: a network namespace behind a veth.
struct Foreign {
    node: Machine,
    netns: String,
    /// The cgroup of its processes.
    cgroup: PathBuf,
}

impl Foreign {
    /// Returns the same pod, with processes that the node's socket hooks do not see.
    fn without_socket_hooks(&self, cluster: &Cluster) -> Self {
        let cgroup = cluster.fabric.cgroup().join("pods/foreign");
        Self { node: self.node.clone(), netns: self.netns.clone(), cgroup }
    }
}

impl TrafficEndpoint for Foreign {
    fn run(&self, program: &OsStr) -> Result<Command> {
        self.node.command_at(&self.cgroup, Some(&self.netns), program)
    }

    fn label(&self) -> String {
        format!("foreign in {}", self.cgroup.display())
    }
}

fn foreign_address(family: IpFamily) -> IpAddr {
    if family == IpFamily::V4 { "10.77.0.2".parse().unwrap() } else { "fd00:77::2".parse().unwrap() }
}

fn service_address(family: IpFamily) -> IpAddr {
    if family == IpFamily::V4 { "10.96.0.110".parse().unwrap() } else { "fd00:10:96::110".parse().unwrap() }
}

fn foreign(cluster: &Cluster) -> Foreign {
    let node = &cluster.nodes[0].machine;
    let attachment = Pod::namespace(node, "foreign").unwrap();
    node.ip(&[
        "link add veth-foreign type veth peer name eth0 netns foreign",
        "address add 10.77.0.1/24 dev veth-foreign",
        "address add fd00:77::1/64 dev veth-foreign nodad",
        "link set veth-foreign up",
    ])
    .unwrap();
    node.ip_in(
        Some(&attachment.netns),
        &[
            "address add 10.77.0.2/24 dev eth0",
            "address add fd00:77::2/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 10.77.0.1",
            "route add default via fd00:77::1",
        ],
    )
    .unwrap();
    for family in IpFamily::BOTH {
        let network = if family == IpFamily::V4 { "10.77.0.0/24" } else { "fd00:77::/64" };
        let route = format!("route add {network} via {}", cluster.nodes[0].address(family));
        cluster.client.ip(&[&route]).unwrap();
        cluster.nodes[1].machine.ip(&[&route]).unwrap();
    }
    Foreign { node: node.clone(), netns: attachment.netns, cgroup: node.cgroup().join("pods/foreign") }
}

/// Installs rules that translate like kube-proxy: cluster IP and node port lead to the foreign pod,
/// and connections from other machines get the node's source address.
fn translate(cluster: &Cluster) {
    let node = &cluster.nodes[0];
    let mut rules = Vec::new();
    for family in IpFamily::BOTH {
        let word = if family == IpFamily::V4 { "ip" } else { "ip6" };
        let to = SocketAddr::new(foreign_address(family), DIRECT);
        rules.push(format!("add table {word} proxy"));
        for (chain, hook, priority) in [("pre", "prerouting", "dstnat"), ("out", "output", "-100")] {
            rules.push(format!("add chain {word} proxy {chain} {{ type nat hook {hook} priority {priority}; }}"));
            for (address, port) in [(service_address(family), 80), (node.address(family), NODE_PORT)] {
                rules.push(format!(
                    "add rule {word} proxy {chain} {word} daddr {address} tcp dport {port} dnat to {to}"
                ));
            }
        }
        rules.push(format!("add chain {word} proxy post {{ type nat hook postrouting priority srcnat; }}"));
        rules.push(format!("add rule {word} proxy post ct status dnat masquerade"));
    }
    let file = cluster.files().join("proxy.nft");
    std::fs::write(&file, rules.join("\n")).unwrap();
    node.machine.output(&["nft", "-f", file.to_str().unwrap()]).unwrap();
}

/// Returns the targets of a client's connections: a server itself, and a Service.
fn held_targets(cluster: &Cluster, path: Path, family: IpFamily) -> [SocketAddr; 2] {
    let node = &cluster.nodes[0];
    let far = SocketAddr::new(address(family, 1), DIRECT);
    match path {
        Path::Pod | Path::Node => [far, SocketAddr::new(service_address(family), 80)],
        Path::OtherNode | Path::Outside => [node.port(family, DIRECT), node.port(family, NODE_PORT)],
    }
}

/// Returns the clients of a path: of a pod, by its sockets and by packets.
fn clients<'a>(cluster: &'a Cluster, foreign: &'a [Foreign; 2], path: Path) -> Vec<&'a dyn TrafficEndpoint> {
    match path {
        Path::Pod => foreign.iter().map(|client| client as &dyn TrafficEndpoint).collect(),
        Path::Node => vec![&cluster.nodes[0].machine],
        Path::OtherNode => vec![&cluster.nodes[1].machine],
        Path::Outside => vec![&cluster.client],
    }
}

#[test]
#[ignore = "needs root"]
fn rule_2_6_5_connections_survive_the_first_start_of_the_agent() {
    let recorder = Recorder::start().unwrap();
    let rule = Rule::of("2.6.5").unwrap();
    let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
    let foreign = foreign(&cluster);
    let packets = foreign.without_socket_hooks(&cluster);
    let foreign = [foreign, packets];
    translate(&cluster);
    let node = &cluster.nodes[0];
    let serve = |place: &dyn TrafficEndpoint, id: &str, port| load::serve(place, id, &[port]).unwrap();
    let _servers: [Process; 4] = [
        serve(&foreign[0], "old", DIRECT),
        serve(&node.machine, "n1", DIRECT),
        serve(&node.machine, "new", FRESH),
        serve(&cluster.client, "outside", DIRECT),
    ];

    let hold = |(path, family)| {
        let targets = held_targets(&cluster, path, family);
        let open = |from| targets.map(|target| PersistentLoad::open(from, target, 4));
        ((path, family), clients(&cluster, &foreign, path).into_iter().flat_map(open).collect::<Result<Vec<_>>>())
    };
    let held: BTreeMap<_, _> = rule.cells().into_iter().map(hold).collect();
    let mut service = manifest::service(
        "old",
        &IpFamily::BOTH.map(service_address),
        &[manifest::Port::tcp("http", 80).with_node_port(NODE_PORT)],
    );
    service["spec"]["type"] = json!("NodePort");
    let endpoints = IpFamily::BOTH.map(|family| manifest::Endpoint::ready(node.address(family), "n1"));
    let slices =
        manifest::slices("old", &[manifest::Port::tcp("http", 80).with_node_port(NODE_PORT)], FRESH, &endpoints);
    cluster.apply("old", &[vec![service], slices].concat()).unwrap();
    cluster.start_agents().unwrap();
    cluster.await_backends("default/old", 1).unwrap();
    // new connections are the agent's, so the others pass its programs
    for family in IpFamily::BOTH {
        wait::until("new connections go to the new endpoint", Duration::from_secs(5), || {
            let report =
                load::send_requests(&cluster.client, cluster.nodes[0].port(family, NODE_PORT), Protocol::Tcp, 5)?;
            ensure!(report.by_server.get("new") == Some(&5), "other endpoints answered new connections: {report:?}");
            Ok(Some(()))
        })
        .unwrap();
    }
    for ((path, family), loads) in held {
        let checked = Checked::run(|| {
            for load in loads? {
                let report = load.release()?;
                let servers: Vec<_> = report.requests.by_server.keys().collect();
                let is_kept = report.lost.is_empty() && servers == report.servers.keys().collect::<Vec<_>>();
                expect!(is_kept, "connections were lost or moved: {report:?}");
                expect!(report.fewest > 0, "a connection was not used: {report:?}");
            }
            // The first client's new connections through the Service pass the programs. Those that
            // the hooks do not see leave the foreign pod by the host's stack.
            let [_, target] = held_targets(&cluster, path, family);
            expect_answers(clients(&cluster, &foreign, path)[0], target, Protocol::Tcp, 5, &["new"]).map(drop)
        });
        recorder.cell(rule, path, family, &checked).unwrap();
    }
    drop((foreign, cluster));
    recorder.end().unwrap();
}
