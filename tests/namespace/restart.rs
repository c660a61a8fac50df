//! The agent is killed, and nobody notices; it comes back, and changes nothing that was right.

use std::time::Duration;

use ropeway_tests::cluster::Shape;
use ropeway_tests::load;
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::Family;
use ropeway_tests::wait;

use crate::fixture::{Scene, Traffic};

#[test]
fn traffic_and_plugin_work_while_the_agent_is_dead() {
    let mut scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    let traffic = Traffic::start(&scene);
    for node in &mut scene.cluster.nodes {
        node.kill_agent().unwrap();
    }
    for family in Family::BOTH {
        for (from, address, kind) in scene.ways(family) {
            for (target, protocol) in [(kind.tcp(address), Protocol::Tcp), (kind.udp(address), Protocol::Udp)] {
                let report = load::ask(from, target, protocol, 20).unwrap();
                assert_eq!(
                    (report.ok, report.failed),
                    (20, 0),
                    "{} to {target} {protocol:?}: {report:?}",
                    from.label()
                );
            }
        }
    }
    // A pod that comes and goes meanwhile works like any other.
    let pod = scene.cluster.nodes[1].pod("late").unwrap();
    let server = load::serve(&pod, "late", &[8080]).unwrap();
    for family in Family::BOTH {
        let (_, address, kind) = scene.ways(family)[0];
        assert_eq!(load::ask(&pod, kind.tcp(address), Protocol::Tcp, 10).unwrap().ok, 10);
        assert_eq!(load::ask(&scene.client, pod.port(family, 8080).unwrap(), Protocol::Tcp, 10).unwrap().ok, 10);
    }
    drop(server);
    pod.delete().unwrap();

    scene.cluster.start_agents().unwrap();
    // what is held came in at this node from outside, and no flow of it is taken for one that has ended
    let last = scene.cluster.nodes.last().unwrap();
    wait::until_true("the agent has counted the flows", Duration::from_secs(10), || {
        last.metric("ropeway_flows").is_ok_and(|pairs| pairs >= 16.0)
    })
    .unwrap();
    assert!(last.metric("ropeway_flows_removed_total").unwrap() < 0.5);
    traffic.end();
}

#[test]
fn an_agent_that_comes_back_writes_nothing_that_was_right() {
    let mut scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    for round in 0..2 {
        for node in &mut scene.cluster.nodes {
            node.kill_agent().unwrap();
        }
        scene.cluster.start_agents().unwrap();
        for node in &scene.cluster.nodes {
            for counter in ["ropeway_map_operations_total", "ropeway_node_operations_total"] {
                let changed = node.metric(counter).unwrap();
                assert!(changed == 0.0, "round {round}: {} on {}: {changed}", counter, node.name());
            }
        }
    }
    // It does write what has changed.
    scene.apply(&[(&scene.backends[0], true)]);
    scene.cluster.await_backends("default/web", 1).unwrap();
    assert!(scene.cluster.nodes[0].metric("ropeway_map_operations_total").unwrap() > 0.0);
}

#[test]
fn what_changed_while_the_agent_was_dead_is_applied_when_it_is_back() {
    let mut scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1]);
    for node in &mut scene.cluster.nodes {
        node.kill_agent().unwrap();
    }
    scene.apply(&[(&scene.backends[1], true)]);
    scene.cluster.start_agents().unwrap();
    scene.cluster.await_backends("default/web", 1).unwrap();
    let (from, address, kind) = scene.ways(Family::V4)[0];
    let report = load::ask(from, kind.tcp(address), Protocol::Tcp, 50).unwrap();
    assert_eq!(report.by_server.get("web-2"), Some(&50), "{report:?}");
}
