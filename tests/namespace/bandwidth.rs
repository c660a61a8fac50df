//! Bandwidth limits of a pod (the runtime capability `bandwidth`). They hold for every peer and
//! every client path, and do not affect the neighbours of the pod.

use std::net::SocketAddr;
use std::time::Duration;

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{self, TrafficEndpoint};
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::{plugin, view};
use serde_json::json;

use crate::fixture::{Fixture, HTTP, TARGET, cluster_ip};

/// Limits of received and of sent data, in bytes a second.
const INGRESS: u32 = 10_000_000;
const EGRESS: u32 = 5_000_000;
const BURST: u32 = 250_000;
const BYTES: u32 = 4 << 20;
/// Slow start or a busy machine lowers the throughput; nothing raises it. Headers count towards the
/// limit.
const SHARE: std::ops::RangeInclusive<f64> = 0.80..=1.02;
const TRIES: usize = 3;

/// Returns the payload's share of a rate, without the burst.
fn share(took: u64, rate: u32) -> f64 {
    let seconds = Duration::from_millis(took.max(1)).as_secs_f64();
    f64::from(BYTES - BURST) / seconds / f64::from(rate)
}

fn is_held(from: &dyn TrafficEndpoint, target: SocketAddr, what: &str) {
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let moved = load::transfer(from, target, BYTES.into()).unwrap();
        let (received, sent) = (share(moved.up_ms, INGRESS), share(moved.down_ms, EGRESS));
        println!("{what}: {} to {target}: received {received:.3}, sent {sent:.3} of the rate", from.label());
        assert!(
            received <= *SHARE.end() && sent <= *SHARE.end(),
            "{what}: {} to {target} exceeds the rate",
            from.label()
        );
        if SHARE.contains(&received) && SHARE.contains(&sent) {
            return;
        }
        seen.push((received, sent));
    }
    panic!("{what}: {} to {target} is slower than the rate in all tries: {seen:?}", from.label());
}

#[test]
#[ignore = "needs root"]
fn bandwidth_limits_hold_on_every_client_path() {
    let mut fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, &[]);
    let runtime = json!({ "bandwidth": {
        "ingressRate": INGRESS * 8, "ingressBurst": BURST * 8, "egressRate": EGRESS * 8, "egressBurst": BURST * 8,
    } });
    let pod = Pod::add_with(&fixture.cluster.nodes[0].machine, "limited", plugin::conflist_with(&runtime)).unwrap();
    fixture.servers.push(load::serve(&pod, "limited", &[TARGET]).unwrap());
    fixture.backends.push(pod);
    fixture.apply(&[(&fixture.backends[0], true)]);
    fixture.cluster.await_backends("default/web", 1).unwrap();
    let far = fixture.cluster.nodes[1].pod("far").unwrap();
    for family in IpFamily::BOTH {
        let direct = fixture.backends[0].port(family, TARGET).unwrap();
        let service = SocketAddr::new(cluster_ip(family), HTTP.port);
        is_held(&fixture.client, direct, "from a pod on its node");
        is_held(&far, direct, "from a pod on another node");
        is_held(&fixture.cluster.nodes[0].machine, direct, "from its node");
        is_held(&fixture.client, service, "through a Service, from a pod on its node");
        is_held(&far, service, "through a Service, from a pod on another node");
        for node in &fixture.cluster.nodes {
            is_held(&fixture.cluster.client, node.port(family, HTTP.node_port), "through a node port");
        }
        // The other pod on the node is not limited.
        let _server = load::serve(&fixture.client, "free", &[TARGET]).unwrap();
        let free = load::transfer(&far, fixture.client.port(family, TARGET).unwrap(), BYTES.into()).unwrap();
        assert!(
            share(free.up_ms, INGRESS) > 1.5 && share(free.down_ms, EGRESS) > 1.5,
            "the pod without limits was slowed: {free:?}"
        );
    }
    let spoofed = view::drops(&fixture.cluster.nodes[0].machine, "spoofed").unwrap();
    assert_eq!(spoofed, 0);
}
