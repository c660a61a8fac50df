//! Schedulers that count connections, with connections that are held: by sockets of pods and of the node, and by packets from outside.

use std::net::SocketAddr;
use std::time::Duration;

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{Load, Place};
use ropeway_tests::pod::{Family, Pod};
use ropeway_tests::{view, wait};
use serde_json::{Value, json};

use crate::fixture::Scene;

/// Long enough for a look of the agent, and for a change of the manifests.
const SOON: Duration = Duration::from_secs(10);
/// Of [`Scene::ways`]: those that are counted on the first node.
const WAYS: [usize; 3] = [0, 1, 3];

fn scene() -> Scene {
    Scene::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1, 1])
}

/// What the first node knows of the backends of a frontend, in the order of their addresses.
fn backends(scene: &Scene, target: SocketAddr) -> Vec<Value> {
    let all = view::json(&scene.cluster.nodes[0].space, &["service", "list", "default/web"]).unwrap_or_default();
    let (address, port) = (json!(target.ip()), json!(target.port()));
    let is_it = |f: &&Value| f["address"] == address && f["port"] == port && f["protocol"] == "TCP";
    let frontend = all["frontends"].as_array().and_then(|all| all.iter().find(is_it));
    frontend.and_then(|f| f["backends"].as_array().cloned()).unwrap_or_default()
}

fn numbers(scene: &Scene, target: SocketAddr, field: &str) -> Vec<u64> {
    backends(scene, target).iter().map(|b| b[field].as_u64().unwrap_or(u64::MAX)).collect()
}

/// Waits until the backends have so many connections.
fn await_active(scene: &Scene, target: SocketAddr, expected: &[u64]) {
    let mut last = Vec::new();
    let is_so = wait::until_true("the connections are counted", SOON, || {
        last = numbers(scene, target, "active");
        last == expected
    });
    assert!(is_so.is_ok(), "{target}: {last:?} and not {expected:?}");
}

/// Gives the Service these of its backends, this scheduler and these weights, and waits until the first node knows.
fn schedule(scene: &Scene, pods: &[Pod], scheduler: &str, weights: &[u64], target: SocketAddr) {
    let mut words = Vec::new();
    for (pod, weight) in pods.iter().zip(weights) {
        words.extend(pod.addresses().iter().map(|a| format!("{a}={weight}")));
    }
    let annotations = json!({"ropeway.dev/scheduler": scheduler, "ropeway.dev/weights": words.join(" ")});
    scene.apply_annotated(&pods.iter().map(|pod| (pod, true)).collect::<Vec<_>>(), &annotations);
    let shown: Vec<u64> = weights.iter().copied().filter(|w| *w > 0).collect();
    wait::until_true("the scheduler and its weights", SOON, || {
        let now = numbers(scene, target, "active");
        !now.contains(&u64::MAX) && numbers(scene, target, "weight") == shown && is_with(scene, target, scheduler)
    })
    .unwrap();
}

fn is_with(scene: &Scene, target: SocketAddr, scheduler: &str) -> bool {
    let all = view::json(&scene.cluster.nodes[0].space, &["service", "list", "default/web"]).unwrap_or_default();
    let frontends = all["frontends"].as_array().cloned().unwrap_or_default();
    frontends.iter().any(|f| f["port"] == target.port() && f["scheduler"] == scheduler)
}

/// Ends connections and says how many each server had: `web-1` and so on.
fn end(held: Load) -> [u64; 3] {
    let report = held.release().unwrap();
    assert_eq!(report.lost, [""; 0]);
    [1, 2, 3].map(|number| report.servers.get(&format!("web-{number}")).copied().unwrap_or(0))
}

fn hold(from: &dyn Place, target: SocketAddr, count: usize) -> Load {
    Load::holding(from, target, count).unwrap()
}

#[test]
fn new_connections_go_where_the_fewest_are() {
    let scene = scene();
    for family in Family::BOTH {
        for index in WAYS {
            let (from, address, kind) = scene.ways(family)[index];
            let target = kind.tcp(address);
            schedule(&scene, &scene.backends[..1], "lc", &[1], target);
            let old = hold(from, target, 4);
            await_active(&scene, target, &[4]);

            schedule(&scene, &scene.backends, "lc", &[1, 1, 1], target);
            let new = hold(from, target, 8);
            await_active(&scene, target, &[4, 4, 4]);

            assert_eq!(end(old), [4, 0, 0]);
            await_active(&scene, target, &[0, 4, 4]);
            let again = hold(from, target, 3);
            await_active(&scene, target, &[3, 4, 4]);
            assert_eq!((end(again), end(new)), ([3, 0, 0], [0, 4, 4]));
            await_active(&scene, target, &[0, 0, 0]);
        }
    }
}

#[test]
fn weights_divide_and_idle_ones_may_go_first() {
    let scene = scene();
    for (family, index) in [(Family::V4, 0), (Family::V6, 3), (Family::V4, 3), (Family::V6, 1)] {
        let (from, address, kind) = scene.ways(family)[index];
        let target = kind.tcp(address);
        for (scheduler, weights, count, expected) in [
            ("lc", [1, 1, 2], 6, [2, 2, 2]),
            ("wlc", [1, 1, 2], 8, [2, 2, 4]),
            // (0 + 1) / 1 is more than (3 + 1) / 9
            ("sed", [1, 9, 9], 8, [0, 4, 4]),
            ("nq", [1, 9, 9], 9, [1, 4, 4]),
        ] {
            schedule(&scene, &scene.backends, scheduler, &weights, target);
            let held = hold(from, target, count);
            await_active(&scene, target, &expected);
            assert_eq!(end(held), expected, "{scheduler}");
            await_active(&scene, target, &[0, 0, 0]);
        }
        schedule(&scene, &scene.backends, "lc", &[0, 1, 1], target);
        let held = hold(from, target, 4);
        assert_eq!(end(held), [0, 2, 2], "the idle one drains");
        await_active(&scene, target, &[0, 0]);
    }
}

#[test]
fn without_an_agent_connections_are_still_spread() {
    let mut scene = scene();
    let targets: Vec<_> = WAYS
        .map(|index| {
            let (_, address, kind) = scene.ways(Family::V4)[index];
            kind.tcp(address)
        })
        .into();
    schedule(&scene, &scene.backends, "lc", &[1, 1, 1], targets[0]);
    scene.cluster.nodes[0].kill_agent().unwrap();
    for round in 1..=3 {
        for (index, target) in WAYS.into_iter().zip(&targets) {
            let held = hold(scene.ways(Family::V4)[index].0, *target, 6);
            // sockets count till their end; of flows nobody sees the end
            let flows = if index == 3 { 2 * round } else { 2 * (round - 1) };
            let sockets = if index == 3 { 0 } else { 2 };
            await_active(&scene, *target, &[flows + sockets; 3]);
            assert_eq!(end(held), [2, 2, 2]);
        }
    }
    scene.cluster.nodes[0].start_agent(&[]).unwrap();
    scene.cluster.nodes[0].await_agent().unwrap();
    await_active(&scene, targets[2], &[0, 0, 0]);
}
