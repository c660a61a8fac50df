//! Changes of the uplink MTU under running pods. The agent tells the plugin, STATUS sets the new
//! MTU in all pods, and full-sized packets pass again without fragmentation.

use ropeway_tests::cluster::{Cluster, Node, Shape};
use ropeway_tests::load::{self, PersistentLoad};
use ropeway_tests::peer::Protocol;
use ropeway_tests::plugin::{self, Attachment};
use ropeway_tests::pod::IpFamily;
use ropeway_tests::wait;
use serde_json::{Value, json};

use crate::node_changes::for_plugin;
use crate::node_routes::{PORT, SOON, ServingPod, pairs, payload, pods, serving};

const BYTES: u64 = 1 << 20;

/// Sets the MTU of all links and of every device on them.
fn set_links(cluster: &Cluster, mtu: u32) {
    let links = cluster.fabric.output(&["ip", "-o", "link", "show"]).unwrap();
    let names =
        links.lines().filter_map(|line| line.split([':', '@']).nth(1)).map(str::trim).filter(|name| *name != "lo");
    cluster.fabric.ip(&names.map(|name| format!("link set {name} mtu {mtu}")).collect::<Vec<_>>()).unwrap();
    for node in &cluster.nodes {
        node.machine.ip(&[format!("link set eth0 mtu {mtu}")]).unwrap();
    }
    for device in cluster.client.output(&["ls", "/sys/class/net"]).unwrap().split_whitespace().filter(|d| *d != "lo") {
        cluster.client.ip(&[format!("link set {device} mtu {mtu}")]).unwrap();
    }
}

/// Calls STATUS, as containerd does whenever the kubelet asks for its status.
fn status(node: &Node) {
    let no_attachment =
        Attachment { container: String::new(), netns: String::new(), interface: String::new(), pod: String::new() };
    let config = plugin::network_config(&plugin::conflist(), None).unwrap();
    let answer = plugin::call(&node.machine, "STATUS", &no_attachment, &config).unwrap();
    assert_eq!(answer.status, 0, "{} {}", answer.output, answer.log);
}

/// Waits until the agent has written the node's MTU for the plugin.
fn told(node: &Node, mtu: u32) -> bool {
    let text = std::fs::read_to_string(for_plugin(node)).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["mtu"] == json!(mtu)
}

/// Returns the MTUs of both ends of all veths of a node.
fn ends(node: &Node, pods: &[ServingPod]) -> Vec<String> {
    let mtu = |text: String| {
        let sizes = text.lines().filter_map(|line| line.split_once(" mtu ")?.1.split(' ').next().map(str::to_owned));
        sizes.collect::<Vec<_>>()
    };
    let mut all = mtu(node.machine.output(&["ip", "-o", "link", "show", "type", "veth"]).unwrap_or_default());
    all.remove(0); // the uplink, which is one as well
    for ServingPod { pod, .. } in pods.iter().filter(|serving| serving.pod.node().name() == node.name()) {
        let mut command = pod.command("ip").unwrap();
        all.extend(mtu(ropeway_tests::process::output("ip", command.args(["-o", "link", "show", "eth0"])).unwrap()));
    }
    all
}

/// Checks that full-sized packets of each kind pass between all pods, and that packets with one
/// byte more do not.
fn all_reach(pods: &[ServingPod], mtu: u32) {
    for (from, to) in pairs(pods) {
        for family in IpFamily::BOTH {
            let (target, bytes) = (to.port(family, PORT).unwrap(), payload(family, mtu as usize));
            load::transfer(from, target, BYTES).unwrap();
            let size = format!("--size={bytes}");
            let report = load::send_requests_with(from, target, Protocol::Udp, 2, &[&size]).unwrap();
            assert_eq!((report.ok, report.failed), (2, 0), "{} to {target}, {mtu}: {report:?}", from.name());
            let address = to.address(family).unwrap();
            load::echo(from, address, bytes).unwrap();
            if from.name() != to.name() {
                let error = format!("{:#}", load::echo(from, address, bytes + 1).unwrap_err());
                assert!(error.contains("Message too long"), "{} to {address}, {mtu}: {error}", from.name());
            }
        }
    }
}

fn pods_follow(cluster: &Cluster, overhead: u32) {
    let mut pods = pods(cluster);
    pods.push(serving(&cluster.nodes[0], "another"));
    cluster.nodes.iter().for_each(status);
    all_reach(&pods, 1500 - overhead);
    let last = &pods[cluster.nodes.len() - 1].pod;
    let held =
        IpFamily::BOTH.map(|family| PersistentLoad::open(&pods[0].pod, last.port(family, PORT).unwrap(), 4).unwrap());
    for mtu in [1400, 1500] {
        set_links(cluster, mtu);
        let wanted = mtu - overhead;
        for node in &cluster.nodes {
            wait::until_true("the agent tells the plugin", SOON, || told(node, wanted)).unwrap();
        }
        // Before STATUS: a sender of too large packets gets an ICMP error.
        for family in IpFamily::BOTH.into_iter().filter(|_| mtu < 1500) {
            let bytes = payload(family, (1500 - overhead) as usize);
            let answer = load::echo(&pods[0].pod, last.address(family).unwrap(), bytes);
            let told = if family == IpFamily::V4 { "(3, 4)" } else { "(2, 0)" };
            let error = format!("{:#}", answer.unwrap_err());
            assert!(error.contains(told), "the ICMP error {told} is expected: {error}");
        }
        for ServingPod { pod: from, .. } in &pods {
            for family in IpFamily::BOTH {
                load::transfer(from, last.port(family, PORT).unwrap(), BYTES).unwrap();
            }
        }
        for node in &cluster.nodes {
            status(node);
            wait::until("the pods have it", SOON, || {
                let ends = ends(node, &pods);
                anyhow::ensure!(
                    ends.iter().all(|end| *end == wanted.to_string()),
                    "{}: MTU {wanted} is expected on all devices: {ends:?}",
                    node.name()
                );
                Ok(Some(()))
            })
            .unwrap();
        }
        all_reach(&pods, wanted);
    }
    for held in held {
        let report = held.release().unwrap();
        assert_eq!((report.lost.len(), report.requests.failed), (0, 0), "{report:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn running_pods_follow_uplink_mtu() {
    pods_follow(&Cluster::start(Shape { nodes: 2, mtu: 1500 }).unwrap(), 0);
}

#[test]
#[ignore = "needs root"]
fn running_pods_follow_uplink_mtu_with_vxlan() {
    let mut cluster = Cluster::routed(&[0, 0, 1], 1500).unwrap();
    cluster.start_agents().unwrap();
    pods_follow(&cluster, 50);
}
