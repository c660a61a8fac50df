//! The cluster of the contract tests: two nodes, two client pods, a machine outside, and Services
//! with every kind of address.
//!
//! Services are numbered; the number determines all addresses and ports of a Service, so that tests
//! and expectations agree without tables. The paths are seen from the first node.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use ropeway_tests::cluster::{Cluster, Node, Shape};
use ropeway_tests::contracts::{Checked, Path, Recorder, Rule};
use ropeway_tests::load::{self, BypassSocketHooks, TrafficEndpoint};
use ropeway_tests::machine::Machine;
use ropeway_tests::manifest::{self, Port};
use ropeway_tests::pod::{IpFamily, Pod};
use ropeway_tests::process::Process;
use ropeway_tests::{view, wait};
use serde_json::{Value, json};

use super::observations::Observations;
use crate::host_device;

/// The port on which the servers listen.
pub(super) const TARGET: u16 = 8080;
/// The flags of the agents. Clients outside the cluster have routes to the pods.
pub(super) const FLAGS: [&str; 2] = [host_device::RANGES, "--masquerade=false"];
/// The name of servers that belong to no Service.
pub(super) const STRANGER: &str = "stranger";
/// Time within which a change has to reach the kernel.
const SETTLED: Duration = Duration::from_secs(10);

/// The objects that the rules of a section share.
pub(super) struct ContractFixture {
    // Dropped first: servers run in pods, and pods in the cluster.
    pub(super) servers: Vec<Process>,
    /// `web-1` on the node, `web-2` on the other one, and there too `never`, which must not get a
    /// connection.
    pub(super) web: [Pod; 3],
    /// The clients of [`Path::Pod`]: one uses sockets that the hooks see, the other only the packet
    /// path. They are two pods, because in one pod both could use one source port for two
    /// connections that a server cannot tell apart.
    pub(super) pods: [Pod; 2],
    pub(super) cluster: Cluster,
    recorder: Recorder,
    settled: AtomicU32,
}

/// One address of a Service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) tcp: SocketAddr,
    pub(super) udp: SocketAddr,
}

/// A client on a path.
pub(super) struct Client<'a> {
    place: Box<dyn TrafficEndpoint + 'a>,
    addresses: [IpAddr; 2],
}

impl Client<'_> {
    /// Returns the client's address of a family.
    pub(super) fn address(&self, family: IpFamily) -> IpAddr {
        self.addresses[usize::from(family == IpFamily::V6)]
    }
}

impl TrafficEndpoint for Client<'_> {
    fn run(&self, program: &OsStr) -> Result<Command> {
        self.place.run(program)
    }

    fn label(&self) -> String {
        self.place.label()
    }
}

/// The kind of a Service's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vip {
    Cluster,
    NodePort,
    External,
    Balancer,
}

/// Returns the conditions of a ready endpoint.
pub(super) fn ready() -> Value {
    json!({"conditions": {"ready": true, "serving": true, "terminating": false}})
}

/// Returns the conditions of a terminating endpoint, which gets new connections only if no endpoint
/// is ready.
pub(super) fn terminating() -> Value {
    json!({"conditions": {"ready": false, "serving": true, "terminating": true}})
}

/// Returns an address of the Service with this number.
pub(super) fn address(vip: Vip, number: u16, family: IpFamily) -> IpAddr {
    let text = match (vip, family) {
        (Vip::Cluster, IpFamily::V4) => format!("10.96.0.{number}"),
        (Vip::Cluster, IpFamily::V6) => format!("fd00:10:96::{number}"),
        (Vip::External, IpFamily::V4) => format!("203.0.113.{number}"),
        (Vip::External, IpFamily::V6) => format!("2001:db8:113::{number}"),
        (Vip::Balancer, IpFamily::V4) => format!("198.51.100.{number}"),
        (Vip::Balancer, IpFamily::V6) => format!("2001:db8:51::{number}"),
        (Vip::NodePort, family) => return ropeway_tests::cluster::address(family, 11),
    };
    text.parse().unwrap()
}

/// Returns an address with its ports; a node port is that of the first node.
pub(super) fn target(vip: Vip, number: u16, family: IpFamily) -> Target {
    let at = |port| SocketAddr::new(address(vip, number, family), port);
    let [tcp, udp] = if vip == Vip::NodePort { [30000 + number, 31000 + number] } else { [80, 53] };
    Target { tcp: at(tcp), udp: at(udp) }
}

/// Returns every address that a client on this path must reach.
pub(super) fn targets(path: Path, number: u16, family: IpFamily) -> Vec<Target> {
    let own = (path != Path::Outside).then_some(Vip::Cluster);
    own.into_iter().chain(EXTERNAL).map(|vip| target(vip, number, family)).collect()
}

/// The kinds of addresses to which external traffic policies apply.
pub(super) const EXTERNAL: [Vip; 3] = [Vip::NodePort, Vip::External, Vip::Balancer];

/// Returns one address for a path: the cluster IP where it is reachable, otherwise a node port.
pub(super) fn first_target(path: Path, number: u16, family: IpFamily) -> Target {
    targets(path, number, family)[0]
}

/// Returns a target at which the first node applies its policy Local: the cluster IP for clients on
/// that node, its node port for others. At every other address the other node would apply its own
/// policy.
pub(super) fn local(path: Path, number: u16, family: IpFamily) -> Target {
    let kind = if matches!(path, Path::Pod | Path::Node) { Vip::Cluster } else { Vip::NodePort };
    target(kind, number, family)
}

/// Returns the target at the other node's node port.
pub(super) fn other_node_port(number: u16, family: IpFamily) -> Target {
    let Target { mut tcp, mut udp } = target(Vip::NodePort, number, family);
    let address = ropeway_tests::cluster::address(family, 12);
    tcp.set_ip(address);
    udp.set_ip(address);
    Target { tcp, udp }
}

/// Returns a Service with every kind of address.
pub(super) fn service(name: &str, number: u16) -> Value {
    let both = |vip| IpFamily::BOTH.map(|family| address(vip, number, family));
    let ports =
        [Port::tcp("http", 80).with_node_port(30000 + number), Port::udp("dns", 53).with_node_port(31000 + number)];
    let mut service = manifest::service(name, &both(Vip::Cluster), &ports);
    service["spec"]["type"] = json!("LoadBalancer");
    service["spec"]["externalIPs"] = json!(both(Vip::External));
    service["status"] = json!({"loadBalancer": {"ingress": both(Vip::Balancer).map(|ip| json!({"ip": ip}))}});
    service
}

/// Returns [`service`] with changes to its `spec`.
pub(super) fn service_with(name: &str, number: u16, spec: &[(&str, Value)]) -> Value {
    let mut service = service(name, number);
    for (field, value) in spec {
        service["spec"][*field] = value.clone();
    }
    service
}

/// Returns a `spec` with this policy (Local or Cluster) for internal and external clients.
pub(super) fn policies(policy: &str) -> [(&'static str, Value); 2] {
    [("internalTrafficPolicy", json!(policy)), ("externalTrafficPolicy", json!(policy))]
}

/// Sets the round robin scheduler, so that the number of endpoints can be counted.
pub(super) fn round_robin(mut service: Value) -> Value {
    service["metadata"]["annotations"]["ropeway.dev/scheduler"] = json!("rr");
    service
}

/// Returns an endpoint with the conditions of [`ready`] or [`terminating`].
pub(super) fn endpoint(pod: &Pod, family: IpFamily, with: &Value) -> Value {
    let mut endpoint = json!({"addresses": [pod.address(family).unwrap()], "nodeName": pod.node().name()});
    for (field, value) in with.as_object().unwrap() {
        endpoint[field] = value.clone();
    }
    endpoint
}

/// Returns a slice; `part` distinguishes slices of the same Service and family.
pub(super) fn slice(service: &str, part: &str, family: IpFamily, endpoints: &[Value]) -> Value {
    let kind = if family == IpFamily::V4 { "IPv4" } else { "IPv6" };
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": TARGET});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": kind,
        "metadata": {
            "name": format!("{service}-{part}-{}", kind.to_lowercase()), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "ports": [port("http", "TCP"), port("dns", "UDP")], "endpoints": endpoints,
    })
}

/// Returns a slice of each family.
pub(super) fn slices(service: &str, endpoints: &[(&Pod, Value)]) -> Vec<Value> {
    let of = |family| endpoints.iter().map(|(pod, with)| endpoint(pod, family, with)).collect::<Vec<_>>();
    IpFamily::BOTH.map(|family| slice(service, "a", family, &of(family))).into()
}

/// Returns a Service and its slices.
pub(super) fn with_endpoints(service: Value, endpoints: &[(&Pod, Value)]) -> Vec<Value> {
    let name = service["metadata"]["name"].as_str().unwrap().to_owned();
    [vec![service], slices(&name, endpoints)].concat()
}

impl ContractFixture {
    pub(super) fn new() -> Self {
        let mut cluster = Cluster::network(Shape { nodes: 2, mtu: 1500 }).unwrap();
        cluster.apply("nodes", &cluster.nodes.iter().map(node).collect::<Vec<_>>()).unwrap();
        cluster.start_agents_with(&FLAGS).unwrap();
        add_routes(&cluster, &cluster.client, &[SERVICE_ROUTES, POD_ROUTES].concat());
        for node in &cluster.nodes {
            host_device::await_open(node);
        }
        let web = [(0, "web-1"), (1, "web-2"), (1, "never")].map(|(node, name)| cluster.nodes[node].pod(name).unwrap());
        let servers = web.iter().map(|pod| load::serve(pod, pod.name(), &[TARGET]).unwrap()).collect();
        let pods = ["sockets", "packets"].map(|name| cluster.nodes[0].pod(name).unwrap());
        Self { servers, web, pods, cluster, recorder: Recorder::start().unwrap(), settled: AtomicU32::new(0) }
    }

    /// Returns the node from which the paths are seen.
    pub(super) fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// Returns the clients of a path.
    pub(super) fn clients(&self, path: Path) -> Vec<Client<'_>> {
        let pod = |pod: &Pod| IpFamily::BOTH.map(|family| pod.address(family).unwrap());
        let node = |number: usize| IpFamily::BOTH.map(|family| self.cluster.nodes[number].address(family));
        let [sockets, packets] = &self.pods;
        match path {
            Path::Pod => {
                let by_packets = BypassSocketHooks::of_pod(packets, &self.cluster.fabric);
                vec![client(sockets, pod(sockets)), client(by_packets, pod(packets))]
            }
            Path::Node => vec![client(&self.cluster.nodes[0].machine, node(0))],
            Path::OtherNode => vec![client(&self.cluster.nodes[1].machine, node(1))],
            Path::Outside => {
                let own = IpFamily::BOTH.map(|family| ropeway_tests::cluster::address(family, 1));
                vec![client(&self.cluster.client, own)]
            }
        }
    }

    /// Starts servers that belong to no Service, at the external addresses and node ports of the
    /// Services with these numbers. What Ropeway does not serve reaches them: at the first node's
    /// ports the node itself, at other addresses a machine to which the nodes route them.
    pub(super) fn strangers(&self, numbers: &[u16]) -> Vec<Process> {
        let Cluster { nodes, client, fabric, .. } = &self.cluster;
        // The first node tells the client of the shorter way to that machine.
        for of in ["ipv4.conf.all", "ipv4.conf.eth0", "ipv6.conf.all", "ipv6.conf.eth0"] {
            client.output(&["sysctl", "-qw", &format!("net.{of}.accept_redirects=0")]).unwrap();
        }
        let mut addresses = Vec::new();
        for family in IpFamily::BOTH {
            let (link, length, nodad) = if family == IpFamily::V4 { (24, 32, "") } else { (64, 128, "nodad") };
            let gateway = ropeway_tests::cluster::address(family, 2);
            fabric.ip(&[format!("address add {gateway}/{link} dev br0 {nodad}")]).unwrap();
            for (number, vip) in
                numbers.iter().flat_map(|number| [Vip::External, Vip::Balancer].map(|vip| (number, vip)))
            {
                let ip = address(vip, *number, family);
                fabric.ip(&[format!("address add {ip}/{length} dev lo {nodad}")]).unwrap();
                for node in nodes {
                    node.machine.ip(&[format!("route add {ip}/{length} via {gateway}")]).unwrap();
                }
                addresses.push(ip);
            }
        }
        add_routes(&self.cluster, fabric, POD_ROUTES);
        let node_ports: Vec<_> = numbers.iter().flat_map(|number| [30000 + number, 31000 + number]).collect();
        let node = IpFamily::BOTH.map(|family| self.node().address(family));
        vec![
            load::serve_at(&self.node().machine, STRANGER, &node_ports, &node).unwrap(),
            load::serve_at(fabric, STRANGER, &[80, 53], &addresses).unwrap(),
        ]
    }

    /// Replaces a file of manifests, and waits until all nodes have applied it.
    pub(super) fn apply(&self, file: &str, objects: &[Value]) {
        self.cluster.apply(file, objects).unwrap();
        self.settle();
    }

    /// Waits until all nodes have applied the manifests. Changes take effect in order, so one more
    /// Service is the marker.
    pub(super) fn settle(&self) {
        let name = format!("settled-{}", self.settled.fetch_add(1, Ordering::Relaxed));
        let address = ["10.96.250.250".parse().unwrap()];
        self.cluster.apply("settled", &[manifest::service(&name, &address, &[Port::tcp("http", 80)])]).unwrap();
        for node in &self.cluster.nodes {
            wait::until_true(&format!("{} has what was applied", node.name()), SETTLED, || {
                view::backends(&node.machine, &format!("default/{name}")).is_ok_and(|frontends| !frontends.is_empty())
            })
            .unwrap();
        }
    }

    /// Checks every cell of a rule, one after the other.
    pub(super) fn check_cells(&self, rule: &str, check: impl Fn(Path, IpFamily) -> Result<()>) {
        let mut observations = Observations::new(rule);
        observations.observe(check);
        observations.record(self, rule);
    }

    /// Checks every cell of a rule concurrently, for checks that wait.
    pub(super) fn check_cells_in_parallel(&self, rule: &str, check: impl Fn(Path, IpFamily) -> Result<()> + Sync) {
        let mut observations = Observations::new(rule);
        observations.observe_in_parallel(check);
        observations.record(self, rule);
    }

    /// Records the outcome of a cell.
    pub(super) fn record(&self, rule: &str, path: Path, family: IpFamily, checked: &Checked) {
        self.recorder.cell(Rule::of(rule).unwrap(), path, family, checked).unwrap();
    }

    /// Returns the Node objects: the first one is in zone `a`, the second in `b`.
    pub(super) fn node_objects(&self) -> Vec<Value> {
        self.cluster.nodes.iter().map(node).collect()
    }

    /// Ends the test. It fails if a cell has failed.
    pub(super) fn end(self) {
        let Self { servers, web, pods, cluster, recorder, .. } = self;
        drop((servers, web, pods, cluster));
        recorder.end().unwrap();
    }
}

/// Networks of Services, and the index of the node to which machines outside send their packets.
const SERVICE_ROUTES: &[(&str, usize)] = &[
    ("203.0.113.0/24", 0),
    ("198.51.100.0/24", 0),
    ("10.96.0.0/16", 0),
    ("2001:db8:113::/64", 0),
    ("2001:db8:51::/64", 0),
    ("fd00:10:96::/112", 0),
];
/// Networks of pods, and the index of their node.
const POD_ROUTES: &[(&str, usize)] =
    &[("10.244.1.0/24", 0), ("10.244.2.0/24", 1), ("fd00:10:244:1::/64", 0), ("fd00:10:244:2::/64", 1)];

/// Adds routes of a machine to nodes.
fn add_routes(cluster: &Cluster, machine: &Machine, routes: &[(&str, usize)]) {
    let line = |(range, node): &(&str, usize)| {
        let family = if range.contains("::") { IpFamily::V6 } else { IpFamily::V4 };
        format!("route add {range} via {}", cluster.nodes[*node].address(family))
    };
    machine.ip(&routes.iter().map(line).collect::<Vec<_>>()).unwrap();
}

fn client<'a>(place: impl TrafficEndpoint + 'a, addresses: [IpAddr; 2]) -> Client<'a> {
    Client { place: Box::new(place), addresses }
}

/// Returns the zone of a node: `a` for the first, `b` for the second.
fn node(node: &Node) -> Value {
    let mut object = node.object();
    let zone = if node.name() == "n1" { "a" } else { "b" };
    object["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
    object
}
