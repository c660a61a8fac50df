//! The rules of the contract that are about objects and verdicts. A rule's number (NP-1 and so on)
//! is in the comment of its test. Each decision is asked of the evaluator and of the tables.

mod blocks;
mod isolation;
mod peers;
mod ports;
mod tiers;
mod traffic;

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::policy::compile::compile;
use crate::policy::decode;
use crate::policy::evaluate::{Connection, Reason, may_pass};
use crate::policy::object::{Direction, Key};
use crate::policy::tables::judge;
use crate::policy::world::World;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;

/// Namespaces x, y and z with pods a, b and c each; all pods are on one node.
struct Cluster {
    world: World,
}

/// A pod: name, label, addresses of both families, and ports with a name.
fn pod(namespace: &str, name: &str) -> Value {
    let (net, host) = (u32::from(namespace.as_bytes()[0] - b'w'), u32::from(name.as_bytes()[0] - b'a') + 1);
    // The port `web` has another number in each namespace.
    json!({
        "metadata": {"namespace": namespace, "name": name, "labels": {"pod": name}},
        "spec": {"nodeName": "n1", "containers": [{"ports": [
            {"name": "web", "containerPort": 8000 + net}, {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        ]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.{net}.{host}")}, {"ip": format!("fd00::{net}:{host}")}]},
    })
}

/// Returns the cluster with these policies, given by namespace and spec.
fn cluster(policies: &[(&str, Value)]) -> Cluster {
    let mut cluster = Cluster { world: World::default() };
    for namespace in ["x", "y", "z"] {
        cluster.label(namespace, &json!({"ns": namespace}));
        for name in ["a", "b", "c"] {
            cluster.add(&pod(namespace, name));
        }
    }
    for (index, (namespace, spec)) in policies.iter().enumerate() {
        cluster.policy(namespace, &format!("p{index}"), spec);
    }
    cluster
}

impl Cluster {
    fn label(&mut self, namespace: &str, labels: &Value) {
        let wire = serde_json::from_value(json!({"metadata": {"name": namespace, "labels": labels}})).unwrap();
        self.world.namespaces.insert(namespace.into(), decode::namespace(&wire).object.unwrap());
    }

    fn add(&mut self, pod: &Value) {
        let decoded = decode::pod(&serde_json::from_value(pod.clone()).unwrap());
        self.world.pods.insert(decoded.key, decoded.object.unwrap());
    }

    /// Adds a pod after a change of its JSON.
    fn change(&mut self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = pod(namespace, name);
        change(&mut pod);
        self.add(&pod);
    }

    fn policy(&mut self, namespace: &str, name: &str, spec: &Value) {
        let value = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        let decoded = decode::network_policy(&value);
        self.world.policies.insert(decoded.key, decoded.object.unwrap());
    }

    fn cluster_policy(&mut self, name: &str, spec: &Value) {
        let decoded = decode::cluster_policy(&json!({"metadata": {"name": name}, "spec": spec}));
        self.world.cluster_policies.insert(decoded.key, decoded.object.unwrap());
    }

    /// Returns the addresses of `x/a`, or the address itself.
    fn addresses(&self, of: &str) -> Vec<IpAddr> {
        let pod = of.split_once('/').and_then(|(namespace, name)| self.world.pods.get(&Key::new(namespace, name)));
        pod.map_or_else(|| vec![of.parse().unwrap()], |pod| pod.addresses.clone())
    }

    /// Decides in one direction, by the evaluator and by the tables.
    fn judge(&self, connection: &Connection, direction: Direction) -> (bool, Reason) {
        let verdict = may_pass(&self.world, connection, direction);
        let tables = compile(&self.world, "n1");
        let owner = self.world.pod_at(connection.ends(direction).0).map(|(key, _)| key);
        match owner.and_then(|key| tables.pods.get(key)) {
            None => assert!(verdict.allowed, "{connection:?} has no entry"),
            Some(pod) => {
                let decision = judge(&tables, pod, connection, direction);
                let reason = &tables.reasons[decision.reason as usize];
                assert_eq!((decision.allowed, reason), (verdict.allowed, &verdict.reason), "{connection:?}");
            }
        }
        (verdict.allowed, verdict.reason)
    }

    /// Decides in these directions; all pairs of addresses of one family have the same result.
    fn decide(&self, from: &str, to: &str, (protocol, port): (u8, u16), directions: &[Direction]) -> bool {
        let mut results = Vec::new();
        for source in self.addresses(from) {
            for destination in self.addresses(to).into_iter().filter(|to| to.is_ipv4() == source.is_ipv4()) {
                let connection = Connection { source, destination, from_own_node: false, protocol, port };
                results.push(directions.iter().all(|direction| self.judge(&connection, *direction).0));
            }
        }
        assert!(results.iter().all(|result| *result == results[0]), "{from} -> {to}: the families differ");
        results[0]
    }

    /// Returns true if the egress of the source and the ingress of the destination allow it.
    fn passes(&self, from: &str, to: &str, port: (u8, u16)) -> bool {
        self.decide(from, to, port, &Direction::ALL)
    }

    /// Returns which of these ends reach `to` at TCP port 80.
    fn reaching<'a>(&self, to: &str, from: &[&'a str]) -> Vec<&'a str> {
        from.iter().copied().filter(|from| self.passes(from, to, (TCP, 80))).collect()
    }
}

const PODS: [&str; 9] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c"];

/// Returns the pods other than `x/a` that reach `x/a` under an ingress policy with these peers.
fn from(peers: &Value) -> Vec<&'static str> {
    cluster(&[("x", json!({"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": [{"from": peers}]}))])
        .reaching("x/a", &PODS[1..])
}
