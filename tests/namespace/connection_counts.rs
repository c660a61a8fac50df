//! Schedulers that count connections, with connections from sockets of pods and nodes and by
//! packets from outside. The counts follow opened and closed connections.

use std::net::SocketAddr;
use std::time::Duration;

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{PersistentLoad, TrafficEndpoint};
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::{view, wait};
use serde_json::{Value, json};

use crate::fixture::{Access, ClientPath, Fixture};

/// Time limit that is longer than the interval of the agent's counts plus the time of a change of
/// manifests.
const SOON: Duration = Duration::from_secs(10);
/// The paths whose connections the first node counts.
const PATHS: [ClientPath; 3] =
    [ClientPath::PodToClusterIp, ClientPath::NodeToClusterIp, ClientPath::NodePortFromOutside];

fn fixture() -> Fixture {
    Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[0, 1, 1])
}

/// Returns the backends of a frontend on the first node, ordered by address.
fn backends(fixture: &Fixture, target: SocketAddr) -> Vec<Value> {
    let all = view::json(&fixture.cluster.nodes[0].machine, &["service", "list", "default/web"]).unwrap_or_default();
    let (address, port) = (json!(target.ip()), json!(target.port()));
    let is_it = |f: &&Value| f["address"] == address && f["port"] == port && f["protocol"] == "TCP";
    let frontend = all["frontends"].as_array().and_then(|all| all.iter().find(is_it));
    frontend.and_then(|f| f["backends"].as_array().cloned()).unwrap_or_default()
}

fn numbers(fixture: &Fixture, target: SocketAddr, field: &str) -> Vec<u64> {
    backends(fixture, target).iter().map(|b| b[field].as_u64().unwrap_or(u64::MAX)).collect()
}

/// Waits until the backends have these numbers of connections.
fn await_active(fixture: &Fixture, target: SocketAddr, expected: &[u64]) {
    let mut last = Vec::new();
    let is_so = wait::until_true("the connections are counted", SOON, || {
        last = numbers(fixture, target, "active");
        last == expected
    });
    assert!(is_so.is_ok(), "{target}: {last:?} and not {expected:?}");
}

/// Sets the Service's backends, scheduler and weights, and waits until the first node has applied
/// them.
fn schedule(fixture: &Fixture, pods: &[Pod], scheduler: &str, weights: &[u64], target: SocketAddr) {
    let mut words = Vec::new();
    for (pod, weight) in pods.iter().zip(weights) {
        words.extend(pod.addresses().iter().map(|a| format!("{a}={weight}")));
    }
    let annotations = json!({"ropeway.dev/scheduler": scheduler, "ropeway.dev/weights": words.join(" ")});
    fixture.apply_annotated(&pods.iter().map(|pod| (pod, true)).collect::<Vec<_>>(), &annotations);
    let shown: Vec<u64> = weights.iter().copied().filter(|w| *w > 0).collect();
    wait::until_true("the scheduler and its weights", SOON, || {
        let now = numbers(fixture, target, "active");
        !now.contains(&u64::MAX) && numbers(fixture, target, "weight") == shown && is_with(fixture, target, scheduler)
    })
    .unwrap();
}

fn is_with(fixture: &Fixture, target: SocketAddr, scheduler: &str) -> bool {
    let all = view::json(&fixture.cluster.nodes[0].machine, &["service", "list", "default/web"]).unwrap_or_default();
    let frontends = all["frontends"].as_array().cloned().unwrap_or_default();
    frontends.iter().any(|f| f["port"] == target.port() && f["scheduler"] == scheduler)
}

/// Ends connections and returns how many each server had: `web-1` and so on.
fn end(held: PersistentLoad) -> [u64; 3] {
    let report = held.release().unwrap();
    assert_eq!(report.lost, [""; 0]);
    [1, 2, 3].map(|number| report.servers.get(&format!("web-{number}")).copied().unwrap_or(0))
}

fn hold(from: &dyn TrafficEndpoint, target: SocketAddr, count: usize) -> PersistentLoad {
    PersistentLoad::open(from, target, count).unwrap()
}

#[test]
#[ignore = "needs root"]
fn least_connections_picks_backend_with_fewest() {
    let fixture = fixture();
    for family in IpFamily::BOTH {
        for path in PATHS {
            let Access { from, tcp: target, .. } = fixture.path(path, family);
            schedule(&fixture, &fixture.backends[..1], "lc", &[1], target);
            let old = hold(from, target, 4);
            await_active(&fixture, target, &[4]);

            schedule(&fixture, &fixture.backends, "lc", &[1, 1, 1], target);
            let new = hold(from, target, 8);
            await_active(&fixture, target, &[4, 4, 4]);

            assert_eq!(end(old), [4, 0, 0]);
            await_active(&fixture, target, &[0, 4, 4]);
            let again = hold(from, target, 3);
            await_active(&fixture, target, &[3, 4, 4]);
            assert_eq!((end(again), end(new)), ([3, 0, 0], [0, 4, 4]));
            await_active(&fixture, target, &[0, 0, 0]);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn weighted_schedulers_divide_connections_by_weight() {
    let fixture = fixture();
    for (family, path) in [
        (IpFamily::V4, ClientPath::PodToClusterIp),
        (IpFamily::V6, ClientPath::NodePortFromOutside),
        (IpFamily::V4, ClientPath::NodePortFromOutside),
        (IpFamily::V6, ClientPath::NodeToClusterIp),
    ] {
        let Access { from, tcp: target, .. } = fixture.path(path, family);
        for (scheduler, weights, count, expected) in [
            ("lc", [1, 1, 2], 6, [2, 2, 2]),
            ("wlc", [1, 1, 2], 8, [2, 2, 4]),
            // (0 + 1) / 1 is more than (3 + 1) / 9
            ("sed", [1, 9, 9], 8, [0, 4, 4]),
            ("nq", [1, 9, 9], 9, [1, 4, 4]),
        ] {
            schedule(&fixture, &fixture.backends, scheduler, &weights, target);
            let held = hold(from, target, count);
            await_active(&fixture, target, &expected);
            assert_eq!(end(held), expected, "{scheduler}");
            await_active(&fixture, target, &[0, 0, 0]);
        }
        schedule(&fixture, &fixture.backends, "lc", &[0, 1, 1], target);
        let held = hold(from, target, 4);
        assert_eq!(end(held), [0, 2, 2], "the idle one drains");
        await_active(&fixture, target, &[0, 0]);
    }
}

#[test]
#[ignore = "needs root"]
fn least_connections_works_without_agent() {
    let mut fixture = fixture();
    let targets = PATHS.map(|path| fixture.path(path, IpFamily::V4).tcp);
    schedule(&fixture, &fixture.backends, "lc", &[1, 1, 1], targets[0]);
    fixture.cluster.nodes[0].kill_agent().unwrap();
    for round in 1..=3 {
        for path in PATHS {
            let Access { from, tcp: target, .. } = fixture.path(path, IpFamily::V4);
            let held = hold(from, target, 6);
            // The socket hooks see a socket close. The end of a flow is seen by the agent only.
            let by_packets = path == ClientPath::NodePortFromOutside;
            let flows = if by_packets { 2 * round } else { 2 * (round - 1) };
            let sockets = if by_packets { 0 } else { 2 };
            await_active(&fixture, target, &[flows + sockets; 3]);
            assert_eq!(end(held), [2, 2, 2]);
        }
    }
    fixture.cluster.nodes[0].start_agent(&[]).unwrap();
    fixture.cluster.nodes[0].await_agent().unwrap();
    await_active(&fixture, targets[2], &[0, 0, 0]);
}
