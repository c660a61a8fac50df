//! What most tests start from: a cluster, a Service `web` with a backend on each of some nodes, and a client pod.

use std::net::{IpAddr, SocketAddr};

use ropeway_tests::cluster::{Cluster, Shape};
use ropeway_tests::load::{self, Load, Place};
use ropeway_tests::manifest::{Endpoint, Port, service, slices};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{Family, Pod};
use ropeway_tests::process::Process;
use serde_json::Value;

/// Ports of the Service: HTTP and lines over TCP, datagrams over UDP.
pub(crate) const PORTS: [Port<'static>; 2] = [("http", "TCP", 80, 30080), ("dns", "UDP", 53, 30053)];
/// Where the servers listen.
pub(crate) const TARGET: u16 = 8080;

pub(crate) struct Scene {
    /// Ends first: the servers live in it.
    pub(crate) servers: Vec<Process>,
    /// Backends: `web-1` and so on.
    pub(crate) backends: Vec<Pod>,
    /// A pod on `n1`.
    pub(crate) client: Pod,
    pub(crate) cluster: Cluster,
}

/// These pods as endpoints: ready, or terminating.
pub(crate) fn endpoints(pods: &[(&Pod, bool)]) -> Vec<Endpoint> {
    let of = |(pod, ready): &(&Pod, bool)| {
        let (node, make) = (pod.node().name(), if *ready { Endpoint::ready } else { Endpoint::terminating });
        pod.addresses().iter().map(|address| make(*address, node)).collect::<Vec<_>>()
    };
    pods.iter().flat_map(of).collect()
}

/// The Service's own address.
pub(crate) fn cluster_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => "10.96.0.10".parse().unwrap(),
        Family::V6 => "fd00:10:96::10".parse().unwrap(),
    }
}

impl Scene {
    /// A backend on each of these nodes (by index), in this order.
    pub(crate) fn new(shape: Shape, on: &[usize]) -> Self {
        Self::of(Cluster::start(shape).unwrap(), on)
    }

    /// The same, in a cluster whose agents run.
    pub(crate) fn of(cluster: Cluster, on: &[usize]) -> Self {
        let mut backends = Vec::new();
        let mut servers = Vec::new();
        for (number, node) in (1..).zip(on) {
            let name = format!("web-{number}");
            let pod = cluster.nodes[*node].pod(&name).unwrap();
            servers.push(load::serve(&pod, &name, &[TARGET]).unwrap());
            backends.push(pod);
        }
        let client = cluster.nodes[0].pod("client").unwrap();
        let scene = Self { servers, backends, client, cluster };
        scene.apply(&scene.backends.iter().map(|pod| (pod, true)).collect::<Vec<_>>());
        scene.cluster.await_backends("default/web", scene.backends.len()).unwrap();
        scene
    }

    /// The Service with these endpoints: ready, or terminating.
    pub(crate) fn apply(&self, pods: &[(&Pod, bool)]) {
        self.apply_annotated(pods, &Value::Null);
    }

    /// The same, with annotations.
    pub(crate) fn apply_annotated(&self, pods: &[(&Pod, bool)], annotations: &Value) {
        let mut web = service("web", &Family::BOTH.map(cluster_ip), &PORTS);
        web["metadata"]["annotations"] = annotations.clone();
        let mut objects = vec![web];
        objects.extend(slices("web", &PORTS, TARGET, &endpoints(pods)));
        self.cluster.apply("web", &objects).unwrap();
    }

    /// Every way to the Service: from where, to which address; without the port.
    pub(crate) fn ways(&self, family: Family) -> Vec<(&dyn Place, IpAddr, Kind)> {
        let nodes = &self.cluster.nodes;
        let last = nodes.last().unwrap();
        vec![
            (&self.client as &dyn Place, cluster_ip(family), Kind::Cluster),
            (&nodes[0].space, cluster_ip(family), Kind::Cluster),
            (&last.space, cluster_ip(family), Kind::Cluster),
            (&self.cluster.client, nodes[0].address(family), Kind::Node),
            (&self.cluster.client, last.address(family), Kind::Node),
            (&self.client, nodes[0].address(family), Kind::Node),
            (&self.client, last.address(family), Kind::Node),
            (&nodes[0].space, nodes[0].address(family), Kind::Node),
        ]
    }
}

/// Whose ports an address has.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Cluster,
    Node,
}

impl Kind {
    pub(crate) fn tcp(self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, if matches!(self, Self::Cluster) { PORTS[0].2 } else { PORTS[0].3 })
    }

    pub(crate) fn udp(self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, if matches!(self, Self::Cluster) { PORTS[1].2 } else { PORTS[1].3 })
    }
}

/// Clients of a scene's Service on some of the ways to it: new connections all the time, and some that stay.
pub(crate) struct Traffic {
    asking: Vec<Load>,
    holding: Vec<Load>,
}

impl Traffic {
    /// From a pod, from a process of a node, and from outside by a node port; in both families.
    pub(crate) fn start(scene: &Scene) -> Self {
        let mut traffic = Self { asking: Vec::new(), holding: Vec::new() };
        for family in Family::BOTH {
            for index in [0, 1, 4] {
                let (from, address, kind) = scene.ways(family)[index];
                traffic.asking.push(Load::asking(from, kind.tcp(address), Protocol::Tcp, 100).unwrap());
                traffic.holding.push(Load::holding(from, kind.tcp(address), 8).unwrap());
            }
        }
        traffic
    }

    /// Nothing has happened to any of them.
    pub(crate) fn end(self) {
        for load in self.asking {
            let report = load.stop().unwrap();
            assert!(report.ok > 10 && report.failed == 0, "{report:?}");
        }
        for load in self.holding {
            let report = load.release().unwrap();
            assert!(report.lost.is_empty() && report.questions.failed == 0, "{report:?}");
        }
    }
}
