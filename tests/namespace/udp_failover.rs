//! Failover of connected UDP sockets. When the backend of a socket disappears, the next datagram
//! goes to another backend, within one second.

use std::time::{Duration, Instant};

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{StickyUdp, TrafficEndpoint};
use ropeway_tests::pod::{IpFamily, Pod};

use crate::fixture::{ClientPath, Fixture};

/// Longest time from the end of a backend to the first answer of another one.
const LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
enum From {
    Pod,
    Node,
}

/// Replaces backends one after the other. The n-th backend is on the node with the n-th index;
/// those on node 0 are local. `terminating`: the slice announces the removal first.
fn replaced(from: From, on: &[usize], terminating: bool) {
    let mut fixture = Fixture::new(Shape { nodes: 2, mtu: 1500 }, on);
    serve_by(&fixture, &[(&fixture.backends[0], true)]);
    let mut sockets = Vec::new();
    for family in IpFamily::BOTH {
        let client: &dyn TrafficEndpoint = match from {
            From::Pod => &fixture.client,
            From::Node => &fixture.cluster.nodes[0].machine,
        };
        for path in [ClientPath::PodToClusterIp, ClientPath::NodeToOwnNodePort] {
            sockets.push(StickyUdp::start(client, fixture.path(path, family).udp).unwrap());
        }
    }
    let first = |socket: &mut StickyUdp| assert_eq!(socket.next_server(LIMIT).unwrap(), "web-1");
    sockets.iter_mut().for_each(first);
    for number in 2..=on.len() {
        if terminating {
            serve_by(&fixture, &[(&fixture.backends[0], false), (&fixture.backends[1], true)]);
        }
        drop(fixture.servers.remove(0));
        let gone = fixture.backends.remove(0);
        let removed = Instant::now();
        fixture.apply(&[(&fixture.backends[0], true)]);
        gone.delete().unwrap();
        for socket in &mut sockets {
            let server = socket.next_server(LIMIT.saturating_sub(removed.elapsed())).unwrap();
            assert_eq!(server, format!("web-{number}"));
        }
        println!("all sockets have another backend after {:?}", removed.elapsed());
    }
    for socket in sockets {
        let report = socket.stop().unwrap();
        assert_eq!(report.by_server.len(), on.len(), "the same socket was answered by all: {report:?}");
        // ICMP errors of a pod without its server may arrive before the changed slice
        assert!(
            report.errors.keys().all(|error| error == "timeout" || error == "ECONNREFUSED"),
            "unexpected errors: {report:?}"
        );
    }
}

/// Applies these backends, ready or terminating, and waits until only the ready ones are chosen for
/// new sockets.
fn serve_by(fixture: &Fixture, pods: &[(&Pod, bool)]) {
    fixture.apply(pods);
    fixture.cluster.await_backends("default/web", pods.iter().filter(|(_, ready)| *ready).count()).unwrap();
}

#[test]
#[ignore = "needs root"]
fn connected_udp_of_pod_fails_over_to_next_backend() {
    replaced(From::Pod, &[0, 1, 0, 0], false);
}

#[test]
#[ignore = "needs root"]
fn connected_udp_of_pod_fails_over_from_terminating_backend() {
    replaced(From::Pod, &[1, 1, 0], true);
}

#[test]
#[ignore = "needs root"]
fn connected_udp_of_node_fails_over_to_next_backend() {
    replaced(From::Node, &[1, 0, 0, 1, 0], false);
}

#[test]
#[ignore = "needs root"]
fn connected_udp_of_node_fails_over_from_terminating_backend() {
    replaced(From::Node, &[1, 1, 0], true);
}
