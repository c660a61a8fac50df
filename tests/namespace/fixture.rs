//! The usual start of a test: a cluster, the Service `default/web` with one backend on each of some
//! nodes, and a client pod.
//!
//! [`ClientPath`] names the client paths to the Service. [`Traffic`] is load on three of them that
//! has to survive what a test does.

use std::net::{IpAddr, SocketAddr};

use ropeway_tests::cluster::{Cluster, Node, Shape};
use ropeway_tests::load::{self, PersistentLoad, RequestLoad, TrafficEndpoint};
use ropeway_tests::manifest::{Endpoint, Port, service, slices};
use ropeway_tests::peer::Protocol;
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::process::Process;
use serde_json::Value;

/// Ports of the Service: HTTP and lines over TCP, datagrams over UDP.
pub(crate) const PORTS: [Port<'static>; 2] = [HTTP, DNS];
pub(crate) const HTTP: Port<'static> = Port::tcp("http", 80).with_node_port(30080);
pub(crate) const DNS: Port<'static> = Port::udp("dns", 53).with_node_port(30053);
/// The port on which the servers listen.
pub(crate) const TARGET: u16 = 8080;

pub(crate) struct Fixture {
    /// The servers in the backends. The first field, so that they end before the namespaces they
    /// run in.
    pub(crate) servers: Vec<Process>,
    /// Backends: `web-1` and so on.
    pub(crate) backends: Vec<Pod>,
    /// The client pod on `n1`.
    pub(crate) client: Pod,
    pub(crate) cluster: Cluster,
}

/// Returns these pods as endpoints, ready or terminating.
pub(crate) fn endpoints(pods: &[(&Pod, bool)]) -> Vec<Endpoint> {
    let of = |(pod, ready): &(&Pod, bool)| {
        let (node, make) = (pod.node().name(), if *ready { Endpoint::ready } else { Endpoint::terminating });
        pod.addresses().iter().map(|address| make(*address, node)).collect::<Vec<_>>()
    };
    pods.iter().flat_map(of).collect()
}

/// Returns the Service's cluster IP.
pub(crate) fn cluster_ip(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => "10.96.0.10".parse().unwrap(),
        IpFamily::V6 => "fd00:10:96::10".parse().unwrap(),
    }
}

impl Fixture {
    /// Creates a backend on each of these nodes (by index), in this order.
    pub(crate) fn new(shape: Shape, on: &[usize]) -> Self {
        Self::of(Cluster::start(shape).unwrap(), on)
    }

    /// Creates the fixture in a cluster with running agents.
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
        let fixture = Self { servers, backends, client, cluster };
        fixture.apply(&fixture.backends.iter().map(|pod| (pod, true)).collect::<Vec<_>>());
        fixture.cluster.await_backends("default/web", fixture.backends.len()).unwrap();
        fixture
    }

    /// Applies the Service with these endpoints, ready or terminating.
    pub(crate) fn apply(&self, pods: &[(&Pod, bool)]) {
        self.apply_annotated(pods, &Value::Null);
    }

    /// Applies the Service with annotations.
    pub(crate) fn apply_annotated(&self, pods: &[(&Pod, bool)], annotations: &Value) {
        let mut web = service("web", &IpFamily::BOTH.map(cluster_ip), &PORTS);
        web["metadata"]["annotations"] = annotations.clone();
        let mut objects = vec![web];
        objects.extend(slices("web", &PORTS, TARGET, &endpoints(pods)));
        self.cluster.apply("web", &objects).unwrap();
    }

    /// Resolves a path to its client and the Service's addresses on it.
    pub(crate) fn path(&self, path: ClientPath, family: IpFamily) -> Access<'_> {
        let nodes = &self.cluster.nodes;
        let (first, last) = (&nodes[0], nodes.last().unwrap());
        let cluster_ip = |from| Access::new(from, cluster_ip(family), HTTP.port, DNS.port);
        let node_port = |from, node: &Node| Access::new(from, node.address(family), HTTP.node_port, DNS.node_port);
        match path {
            ClientPath::PodToClusterIp => cluster_ip(&self.client),
            ClientPath::NodeToClusterIp => cluster_ip(&first.machine),
            ClientPath::LastNodeToClusterIp => cluster_ip(&last.machine),
            ClientPath::NodePortFromOutside => node_port(&self.cluster.client, first),
            ClientPath::LastNodePortFromOutside => node_port(&self.cluster.client, last),
            ClientPath::PodToNodePort => node_port(&self.client, first),
            ClientPath::PodToLastNodePort => node_port(&self.client, last),
            ClientPath::NodeToOwnNodePort => node_port(&first.machine, first),
        }
    }

    /// Resolves every path.
    pub(crate) fn paths(&self, family: IpFamily) -> impl Iterator<Item = Access<'_>> {
        ClientPath::ALL.into_iter().map(move |path| self.path(path, family))
    }
}

/// A client and the address at which it uses the Service. "Node" without "last" is `n1`, which also
/// has the client pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClientPath {
    PodToClusterIp,
    NodeToClusterIp,
    LastNodeToClusterIp,
    NodePortFromOutside,
    LastNodePortFromOutside,
    PodToNodePort,
    PodToLastNodePort,
    NodeToOwnNodePort,
}

impl ClientPath {
    pub(crate) const ALL: [Self; 8] = [
        Self::PodToClusterIp,
        Self::NodeToClusterIp,
        Self::LastNodeToClusterIp,
        Self::NodePortFromOutside,
        Self::LastNodePortFromOutside,
        Self::PodToNodePort,
        Self::PodToLastNodePort,
        Self::NodeToOwnNodePort,
    ];
}

/// A resolved [`ClientPath`].
#[derive(Clone, Copy)]
pub(crate) struct Access<'a> {
    pub(crate) from: &'a dyn TrafficEndpoint,
    pub(crate) tcp: SocketAddr,
    pub(crate) udp: SocketAddr,
}

impl<'a> Access<'a> {
    fn new(from: &'a dyn TrafficEndpoint, address: IpAddr, tcp: u16, udp: u16) -> Self {
        Self { from, tcp: SocketAddr::new(address, tcp), udp: SocketAddr::new(address, udp) }
    }
}

/// Clients of the fixture's Service on some of the paths: new connections continuously, and
/// persistent ones.
pub(crate) struct Traffic {
    requests: Vec<RequestLoad>,
    persistent: Vec<PersistentLoad>,
}

impl Traffic {
    /// Starts load from a pod, from a process of a node, and from outside to a node port, in both
    /// families.
    pub(crate) fn start(fixture: &Fixture) -> Self {
        let mut traffic = Self { requests: Vec::new(), persistent: Vec::new() };
        for family in IpFamily::BOTH {
            for path in [ClientPath::PodToClusterIp, ClientPath::NodeToClusterIp, ClientPath::LastNodePortFromOutside] {
                let Access { from, tcp, .. } = fixture.path(path, family);
                traffic.requests.push(RequestLoad::start(from, tcp, Protocol::Tcp, 100).unwrap());
                traffic.persistent.push(PersistentLoad::open(from, tcp, 8).unwrap());
            }
        }
        traffic
    }

    /// Checks that no connection failed.
    pub(crate) fn end(self) {
        for load in self.requests {
            let report = load.stop().unwrap();
            assert!(report.ok > 10 && report.failed == 0, "some requests failed, or few were sent: {report:?}");
        }
        for load in self.persistent {
            let report = load.release().unwrap();
            assert!(report.lost.is_empty() && report.requests.failed == 0, "connections were lost: {report:?}");
        }
    }
}
