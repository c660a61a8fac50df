//! A connected UDP socket outlives its backends.

use std::time::{Duration, Instant};

use ropeway_tests::cluster::Shape;
use ropeway_tests::load::{Load, Place};
use ropeway_tests::pod::{Family, Pod};

use crate::fixture::Scene;

/// From the end of a backend to the first answer of another one.
const LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
enum From {
    Pod,
    Node,
}

/// The n-th backend is on the node with the n-th index: local ones are on 0. Each is replaced by the next; `terminating` says whether it
/// is announced that it goes.
fn replaced(from: From, on: &[usize], terminating: bool) {
    let mut scene = Scene::new(Shape { nodes: 2, mtu: 1500 }, on);
    serve_by(&scene, &[(&scene.backends[0], true)]);
    let mut sockets = Vec::new();
    for family in Family::BOTH {
        let ways = scene.ways(family);
        let place: &dyn Place = match from {
            From::Pod => &scene.client,
            From::Node => &scene.cluster.nodes[0].space,
        };
        // the Service's own address, and a port of the node
        for index in [0, 7] {
            let (_, address, kind) = ways[index];
            sockets.push(Load::staying(place, kind.udp(address)).unwrap());
        }
    }
    let first = |socket: &mut Load| assert_eq!(socket.next_server(LIMIT).unwrap(), "web-1");
    sockets.iter_mut().for_each(first);
    for number in 2..=on.len() {
        if terminating {
            serve_by(&scene, &[(&scene.backends[0], false), (&scene.backends[1], true)]);
        }
        drop(scene.servers.remove(0));
        let gone = scene.backends.remove(0);
        let removed = Instant::now();
        scene.apply(&[(&scene.backends[0], true)]);
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
        // a pod whose server is gone may say so before its slice does
        assert!(report.errors.keys().all(|error| error == "timeout" || error == "ECONNREFUSED"), "{report:?}");
    }
}

/// Has these backends, ready or terminating, and waits until only the ready ones are given to new sockets.
fn serve_by(scene: &Scene, pods: &[(&Pod, bool)]) {
    scene.apply(pods);
    scene.cluster.await_backends("default/web", pods.iter().filter(|(_, ready)| *ready).count()).unwrap();
}

#[test]
fn a_pods_socket_outlives_local_and_remote_backends() {
    replaced(From::Pod, &[0, 1, 0, 0], false);
}

#[test]
fn a_pods_socket_outlives_backends_that_terminate_first() {
    replaced(From::Pod, &[1, 1, 0], true);
}

#[test]
fn a_nodes_socket_outlives_local_and_remote_backends() {
    replaced(From::Node, &[1, 0, 0, 1, 0], false);
}

#[test]
fn a_nodes_socket_outlives_backends_that_terminate_first() {
    replaced(From::Node, &[1, 1, 0], true);
}
