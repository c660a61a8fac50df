//! Connections that policies do not judge, and families.

use super::*;

fn connection(cluster: &Cluster, from: &str, to: &str) -> Connection {
    let [source, destination] = [from, to].map(|end| cluster.addresses(end)[0]);
    Connection { source, destination, from_own_node: false, protocol: TCP, port: 80 }
}

/// NP-51: the pod's own node reaches it by origin, whatever address it sends from. NP-54: other
/// nodes, and others with that address, do not.
#[test]
fn own_node_reaches_its_pods() {
    let cluster = cluster(&[("x", json!({"policyTypes": ["Ingress", "Egress"]}))]);
    for source in ["192.0.2.1", "10.0.2.1", "169.254.20.10"] {
        let from_node = Connection { from_own_node: true, ..connection(&cluster, source, "x/a") };
        assert_eq!(cluster.judge(&from_node, Direction::Ingress), (true, Reason::OwnNode));
        let from_other = Connection { from_own_node: false, ..from_node };
        assert!(!cluster.judge(&from_other, Direction::Ingress).0);
    }
}

/// NP-53, NP-70: egress to the node and to a resolver is judged like any other.
#[test]
fn egress_to_node_and_resolver_is_judged() {
    let dns = json!({"to": [{"ipBlock": {"cidr": "169.254.20.10/32"}}],
                     "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]});
    let cluster = cluster(&[("x", json!({"policyTypes": ["Egress"], "egress": [dns]}))]);
    for (to, port, expected) in [
        ("169.254.20.10", (UDP, 53), true),
        ("169.254.20.10", (TCP, 53), true),
        ("169.254.20.10", (TCP, 80), false),
        ("192.0.2.1", (UDP, 53), false),
    ] {
        assert_eq!(cluster.decide("x/a", to, port, &[Direction::Egress]), expected, "{to} {port:?}");
    }
}

/// NP-56, NP-57: a pod reaches itself, by any of its addresses.
#[test]
fn pod_reaches_itself() {
    let cluster = cluster(&[("x", json!({"policyTypes": ["Ingress", "Egress"]}))]);
    let [v4, v6] = cluster.addresses("x/a")[..] else { panic!() };
    for (source, destination) in [(v4, v4), (v6, v6), (v4, v6)] {
        let connection = Connection { source, destination, from_own_node: false, protocol: TCP, port: 80 };
        for direction in Direction::ALL {
            assert_eq!(cluster.judge(&connection, direction), (true, Reason::Itself));
        }
    }
    assert!(!cluster.passes("x/a", "x/b", (TCP, 80)));
}

/// NP-34, NP-39, NP-58, NP-64: a rule is compared with the backend's address and port; a ClusterIP
/// and a Service's port mean nothing to it.
#[test]
fn rule_is_compared_with_the_backend() {
    let by_service = json!({"to": [{"ipBlock": {"cidr": "10.96.0.10/32"}}], "ports": [{"port": 80}]});
    let by_backend = json!({"to": [{"ipBlock": {"cidr": "192.0.2.10/32"}}], "ports": [{"port": 6443}]});
    for (rule, expected) in [(by_service, false), (by_backend, true)] {
        let cluster = cluster(&[("x", json!({"egress": [rule]}))]);
        assert_eq!(cluster.decide("x/a", "192.0.2.10", (TCP, 6443), &[Direction::Egress]), expected);
    }
}

/// NP-80: each family is judged by its own addresses, with the same selectors.
#[test]
fn families_are_judged_by_their_own_addresses() {
    let from_v4 = json!([{"ipBlock": {"cidr": "10.0.2.0/24"}}]);
    let cluster = cluster(&[("x", json!({"ingress": [{"from": from_v4}]}))]);
    assert!(cluster.passes("10.0.2.1", "10.0.1.1", (TCP, 80)));
    assert!(!cluster.passes("fd00::2:1", "fd00::1:1", (TCP, 80)));
}

/// D-3, D-6: equal pods share a rule set, and peers that no rule tells apart share a class.
#[test]
fn equal_pods_share_their_tables() {
    let from_b = json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}]});
    let tables = compile(&cluster(&[("x", from_b)]).world, "n1");
    assert_eq!(tables.pods.len(), 3);
    assert!(tables.pods.values().all(|pod| (pod.ingress.number, pod.egress.number) == (1, 0)));
    assert_eq!((tables.rules.len(), tables.ports.is_empty()), (1, true));
    assert_eq!(tables.identities.iter().collect::<std::collections::BTreeSet<_>>().len(), 2);
    assert!(compile(&cluster(&[("x", json!({}))]).world, "n2").pods.is_empty(), "a node without pods");
}

/// D-5: labels that no rule asks for make no identities.
#[test]
fn labels_that_no_rule_asks_for_cost_nothing() {
    let from_b = json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}]});
    let mut cluster = cluster(&[("x", from_b)]);
    let before = compile(&cluster.world, "n1");
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        cluster.change("y", name, |pod| pod["metadata"]["labels"]["index"] = json!(index.to_string()));
    }
    assert_eq!(compile(&cluster.world, "n1"), before);
}
