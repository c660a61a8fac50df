//! Which pods are isolated, in which direction, and how policies add up.

use super::*;

const PORT: (u8, u16) = (TCP, 80);

/// NP-1, NP-2, NP-12: default-deny of one namespace isolates all of its pods and no others.
#[test]
fn policy_selects_pods_of_its_namespace() {
    for spec in [json!({}), json!({"podSelector": {}})] {
        let cluster = cluster(&[("x", spec)]);
        for (to, expected) in [("x/a", false), ("x/c", false), ("y/a", true)] {
            assert_eq!(cluster.passes("z/a", to, PORT), expected, "{to}");
        }
        assert!(cluster.passes("x/a", "y/a", PORT), "egress is not isolated");
    }
}

/// NP-6, NP-7, NP-11: the directions are independent.
#[test]
fn directions_are_isolated_independently() {
    let selected = json!({"matchLabels": {"pod": "a"}});
    let egress = cluster(&[("x", json!({"podSelector": selected, "policyTypes": ["Egress"], "ingress": []}))]);
    assert!(egress.passes("y/a", "x/a", PORT) && !egress.passes("x/a", "y/a", PORT));
    assert!(egress.passes("x/b", "y/a", PORT), "a pod that is not selected");
    let ingress = cluster(&[("x", json!({"podSelector": selected, "policyTypes": ["Ingress"], "egress": [{}]}))]);
    assert!(!ingress.passes("y/a", "x/a", PORT) && ingress.passes("x/a", "y/a", PORT));
}

/// NP-10: `egress: []` without policyTypes does not isolate egress, and one egress rule does.
#[test]
fn default_policy_types_depend_on_egress_rules() {
    assert!(cluster(&[("x", json!({"egress": []}))]).passes("x/a", "y/a", PORT));
    let rule = json!({"to": [{"podSelector": {}}]});
    let isolated = cluster(&[("x", json!({"ingress": [{}], "egress": [rule]}))]);
    assert!(!isolated.passes("x/a", "y/a", PORT) && isolated.passes("x/a", "x/b", PORT));
}

/// NP-8: what any policy allows is allowed, in whatever order.
#[test]
fn policies_add_up() {
    let deny = json!({});
    let from_y = json!({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}]});
    let from_b = json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}]});
    for order in [[&deny, &from_y, &from_b], [&from_b, &deny, &from_y], [&from_y, &from_b, &deny]] {
        let cluster = cluster(&order.map(|spec| ("x", spec.clone())));
        assert_eq!(cluster.reaching("x/a", &PODS[1..]), ["x/b", "y/a", "y/b", "y/c"]);
    }
    let all = cluster(&[("x", deny), ("x", json!({"ingress": [{}]}))]);
    assert_eq!(all.reaching("x/a", &PODS[1..]), PODS[1..]);
}

/// NP-9: a connection needs the opener's egress and the receiver's ingress.
#[test]
fn both_ends_must_allow() {
    let deny_egress = json!({"policyTypes": ["Egress"]});
    let allow_ingress = json!({"ingress": [{}]});
    let closed = cluster(&[("x", deny_egress), ("y", allow_ingress)]);
    assert!(!closed.passes("x/a", "y/a", PORT));
    let closed = cluster(&[("x", json!({"egress": [{}]})), ("y", json!({}))]);
    assert!(!closed.passes("x/a", "y/a", PORT));
    let open = cluster(&[("x", json!({"egress": [{}]})), ("y", json!({"ingress": [{}]}))]);
    assert!(open.passes("x/a", "y/a", PORT));
}

/// NP-13: a rule `{}` allows every address, protocol and port.
#[test]
fn empty_rule_allows_everything() {
    let cluster = cluster(&[("x", json!({"ingress": [{}], "egress": [{}]}))]);
    for port in [(TCP, 1), (UDP, 65535), (SCTP, 80), (ICMP, 0), (47, 0)] {
        for peer in ["y/a", "192.0.2.1", "2001:db8::1"] {
            assert!(cluster.decide(peer, "x/a", port, &[Direction::Ingress]), "{peer} {port:?}");
            assert!(cluster.decide("x/a", peer, port, &[Direction::Egress]), "{peer} {port:?}");
        }
    }
}

/// NP-5: labels of pods and namespaces, and objects that come and go, change the decisions.
#[test]
fn changed_labels_change_decisions() {
    let by_pod = json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}]});
    let mut changed = cluster(&[("x", by_pod)]);
    assert!(!changed.passes("x/c", "x/a", PORT));
    changed.change("x", "c", |pod| pod["metadata"]["labels"] = json!({"pod": "b"}));
    assert!(changed.passes("x/c", "x/a", PORT));

    let by_namespace = json!({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "t"}}}]}]});
    let mut changed = cluster(&[("x", by_namespace)]);
    assert!(!changed.passes("y/a", "x/a", PORT));
    changed.label("y", &json!({"team": "t"}));
    assert!(changed.passes("y/a", "x/a", PORT));
    changed.change("x", "a", |pod| pod["metadata"]["namespace"] = json!("y"));
    changed.world.pods.remove(&Key::new("x", "a"));
    assert!(changed.passes("z/a", "y/a", PORT), "a pod that the policy no longer selects");
}

/// NP-77: without the last isolating policy the pod is open.
#[test]
fn deleting_the_last_policy_opens_the_pod() {
    let mut cluster = cluster(&[("x", json!({})), ("x", json!({}))]);
    cluster.world.policies.remove(&Key::new("x", "p0"));
    assert!(!cluster.passes("y/a", "x/a", PORT));
    cluster.world.policies.clear();
    assert!(cluster.passes("y/a", "x/a", PORT));
    assert!(compile(&cluster.world, "n1").pods.is_empty());
}

/// The reason of a decision names the rule that allows, or the policies that isolate.
#[test]
fn decision_names_its_policies() {
    let rule = |pod: &str| json!({"from": [{"podSelector": {"matchLabels": {"pod": pod}}}]});
    let cluster = cluster(&[("x", json!({"ingress": [rule("b")]})), ("x", json!({"ingress": [rule("q"), rule("c")]}))]);
    let reason = |from: &str| {
        let [source, destination] = [from, "x/a"].map(|end| cluster.addresses(end)[0]);
        let connection = Connection { source, destination, from_own_node: false, protocol: TCP, port: 80 };
        cluster.judge(&connection, Direction::Ingress).1
    };
    assert_eq!(reason("x/b"), Reason::Allowed { policy: Key::new("x", "p0"), rule: 0 });
    assert_eq!(reason("x/c"), Reason::Allowed { policy: Key::new("x", "p1"), rule: 1 });
    assert_eq!(reason("y/a"), Reason::Isolated(vec![Key::new("x", "p0"), Key::new("x", "p1")]));
}
