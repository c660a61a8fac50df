//! Restarts of the agent. While no agent runs, connections and CNI calls succeed. A restarted agent
//! writes only what has changed meanwhile. Operations are counted by the agent's metrics.

use std::time::Duration;

use ropeway_tests::cluster::{Node, Shape};
use ropeway_tests::load;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::IpFamily;
use ropeway_tests::wait;

use crate::fixture::{Access, ClientPath, Fixture, Traffic};

#[test]
#[ignore = "needs root"]
fn traffic_and_cni_calls_succeed_without_agent() {
    let mut fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let traffic = Traffic::start(&fixture);
    for node in &mut fixture.cluster.nodes {
        node.kill_agent().unwrap();
    }
    for family in IpFamily::BOTH {
        for Access { from, tcp, udp } in fixture.paths(family) {
            for (target, protocol) in [(tcp, Protocol::Tcp), (udp, Protocol::Udp)] {
                let report = load::send_requests(from, target, protocol, 20).unwrap();
                assert_eq!(
                    (report.ok, report.failed),
                    (20, 0),
                    "{} to {target} {protocol:?}: {report:?}",
                    from.label()
                );
            }
        }
    }
    // A pod that is created and deleted meanwhile works like any other.
    let pod = fixture.cluster.nodes[1].pod("late").unwrap();
    let server = load::serve(&pod, "late", &[8080]).unwrap();
    for family in IpFamily::BOTH {
        let Access { tcp, .. } = fixture.path(ClientPath::PodToClusterIp, family);
        assert_eq!(load::send_requests(&pod, tcp, Protocol::Tcp, 10).unwrap().ok, 10);
        assert_eq!(
            load::send_requests(&fixture.client, pod.port(family, 8080).unwrap(), Protocol::Tcp, 10).unwrap().ok,
            10
        );
    }
    drop(server);
    pod.delete().unwrap();

    fixture.cluster.start_agents().unwrap();
    // the persistent connections entered at this node from outside; no flow of theirs may count as
    // ended
    let last = fixture.cluster.nodes.last().unwrap();
    wait::until_true("the agent has counted the flows", Duration::from_secs(10), || {
        last.metric("ropeway_flows").is_ok_and(|pairs| pairs >= 16.0)
    })
    .unwrap();
    assert!(last.metric("ropeway_flows_removed_total").unwrap() < 0.5);
    traffic.end();
}

/// Expects that the agent has written or removed so many map entries since it started, and changed
/// nothing else of the node.
fn expect_operations(node: &Node, entries: f64, context: &str) {
    for (name, expected) in [("ropeway_map_operations_total", entries), ("ropeway_node_operations_total", 0.0)] {
        let count = node.metric(name).unwrap();
        assert!((count - expected).abs() < 0.5, "{context}: {name} is {count}, not {expected}");
    }
}

#[test]
#[ignore = "needs root"]
fn restarted_agent_rewrites_only_changed_entries() {
    let mut fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    for round in 0..2 {
        for node in &mut fixture.cluster.nodes {
            node.kill_agent().unwrap();
        }
        fixture.cluster.start_agents().unwrap();
        for node in &fixture.cluster.nodes {
            let context = format!("round {round}, {}", node.name());
            expect_operations(node, 0.0, &context);
            // Changes of the node's addresses make the agent run more rounds of each kind, and the
            // entry of the address is all that these write.
            for (change, entries) in [("add", 1.0), ("del", 2.0)] {
                node.machine.ip(&[format!("address {change} 192.0.2.77/32 dev lo")]).unwrap();
                wait::until_true("the address is written or removed", Duration::from_secs(10), || {
                    node.metric("ropeway_map_operations_total").is_ok_and(|count| count >= entries)
                })
                .unwrap();
                expect_operations(node, entries, &context);
            }
        }
    }
    // The agent writes the changed entries.
    fixture.apply(&[(&fixture.backends[0], true)]);
    fixture.cluster.await_backends("default/web", 1).unwrap();
    assert!(fixture.cluster.nodes[0].metric("ropeway_map_operations_total").unwrap() > 2.0);
}

#[test]
#[ignore = "needs root"]
fn changes_during_agent_downtime_are_applied_on_restart() {
    let mut fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    for node in &mut fixture.cluster.nodes {
        node.kill_agent().unwrap();
    }
    fixture.apply(&[(&fixture.backends[1], true)]);
    fixture.cluster.start_agents().unwrap();
    fixture.cluster.await_backends("default/web", 1).unwrap();
    let Access { from, tcp, .. } = fixture.path(ClientPath::PodToClusterIp, IpFamily::V4);
    let report = load::send_requests(from, tcp, Protocol::Tcp, 50).unwrap();
    assert_eq!(report.by_server.get("web-2"), Some(&50), "{report:?}");
}
