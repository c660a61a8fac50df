//! Peers by labels.

use super::*;

/// NP-15: an absent and an empty list of peers are every address.
#[test]
fn absent_and_empty_peers_are_every_address() {
    for peers in [json!(null), json!([])] {
        assert_eq!(from(&peers), PODS[1..]);
    }
    let cluster = cluster(&[("x", json!({"ingress": [{"ports": [{"port": 80}]}]}))]);
    assert!(cluster.decide("192.0.2.1", "x/a", (TCP, 80), &[Direction::Ingress]));
    assert!(!cluster.decide("192.0.2.1", "x/a", (TCP, 81), &[Direction::Ingress]));
}

/// NP-21: `from: [{}]` matches no peer.
#[test]
fn list_of_unusable_peers_matches_nothing() {
    for peers in [json!([{}]), json!([null]), json!([{"podSelector": null}]), json!([{"serviceAccounts": {}}])] {
        assert_eq!(from(&peers), [""; 0], "{peers}");
    }
}

/// NP-17, NP-18, NP-20: a podSelector alone stays in the namespace, a namespaceSelector alone
/// matches all pods of its namespaces.
#[test]
fn selectors_choose_pods_and_namespaces() {
    assert_eq!(from(&json!([{"podSelector": {}}])), ["x/b", "x/c"]);
    assert_eq!(from(&json!([{"podSelector": {"matchLabels": {"pod": "b"}}}])), ["x/b"]);
    assert_eq!(from(&json!([{"namespaceSelector": {}}])), PODS[1..]);
    assert_eq!(from(&json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}])), ["y/a", "y/b", "y/c"]);
    let other = json!([{"namespaceSelector": {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["x", "y"]}]}}]);
    assert_eq!(from(&other), ["z/a", "z/b", "z/c"]);
}

/// NP-16, NP-19: both selectors in one item are "and", in two items they are "or".
#[test]
fn one_item_is_and_and_two_items_are_or() {
    let (namespace, pod) = (json!({"matchLabels": {"ns": "y"}}), json!({"matchLabels": {"pod": "b"}}));
    assert_eq!(from(&json!([{"namespaceSelector": namespace, "podSelector": pod}])), ["y/b"]);
    assert_eq!(from(&json!([{"namespaceSelector": namespace}, {"podSelector": pod}])), ["x/b", "y/a", "y/b", "y/c"]);
}

/// NP-18, NP-24, NP-55: `namespaceSelector: {}` matches pods, and neither nodes, nor addresses
/// outside, nor pods in their node's network.
#[test]
fn selectors_match_only_pods() {
    let all_pods = json!({"ingress": [{"from": [{"namespaceSelector": {}}]}]});
    let mut cluster = cluster(&[("x", all_pods)]);
    cluster.change("y", "a", |pod| {
        pod["spec"]["hostNetwork"] = json!(true);
        pod["status"] = json!({"podIPs": [{"ip": "192.0.2.10"}]});
    });
    let found = cluster.reaching("x/a", &["y/b", "192.0.2.10", "192.0.2.1"]);
    assert_eq!(found, ["y/b"]);
    // A pod in its node's network is no subject either.
    cluster.policy("y", "deny", &json!({"policyTypes": ["Ingress", "Egress"]}));
    assert!(cluster.decide("192.0.2.1", "192.0.2.10", (TCP, 80), &Direction::ALL));
}

/// NP-25: a namespace that does not exist matches nothing, until it does.
#[test]
fn namespace_without_an_object_matches_nothing() {
    let everywhere = json!({"ingress": [{"from": [{"namespaceSelector": {}}, {"podSelector": {}}]}]});
    let mut cluster = cluster(&[("x", everywhere)]);
    cluster.world.namespaces.clear();
    assert_eq!(cluster.reaching("x/a", &PODS[1..]), ["x/b", "x/c"]);
    cluster.label("y", &json!({}));
    assert_eq!(cluster.reaching("x/a", &PODS[1..]), ["x/b", "x/c", "y/a", "y/b", "y/c"]);
}

/// NP-26: peers of one rule do not borrow the ports of another.
#[test]
fn one_rule_must_have_both_peer_and_port() {
    let rule = |pod: &str, port: u16| json!({"from": [{"podSelector": {"matchLabels": {"pod": pod}}}], "ports": [{"port": port}]});
    let cluster = cluster(&[("x", json!({"ingress": [rule("b", 80), rule("c", 81)]}))]);
    for (from, port, expected) in [("x/b", 80, true), ("x/b", 81, false), ("x/c", 81, true), ("x/c", 80, false)] {
        assert_eq!(cluster.passes(from, "x/a", (TCP, port)), expected, "{from} {port}");
    }
}

/// NP-72, NP-73: an ended pod is neither peer nor subject; a pending or terminating one is both.
#[test]
fn ended_pod_is_no_peer_and_no_subject() {
    let own = json!({"ingress": [{"from": [{"podSelector": {}}]}]});
    for (phase, is_peer) in [("Running", true), ("Pending", true), ("Succeeded", false), ("Failed", false)] {
        let mut cluster = cluster(&[("x", own.clone())]);
        cluster.change("x", "b", |pod| {
            pod["status"]["phase"] = json!(phase);
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        assert_eq!(cluster.passes("x/b", "x/a", (TCP, 80)), is_peer, "{phase}");
        assert_eq!(cluster.passes("y/a", "x/b", (TCP, 80)), !is_peer, "{phase}");
    }
}

/// NP-74: an address that another pod has got counts for the new pod.
#[test]
fn reused_address_belongs_to_the_live_pod() {
    let from_b = json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}]});
    let mut cluster = cluster(&[("x", from_b)]);
    let address = cluster.world.pods[&Key::new("x", "b")].addresses[0];
    let reuse = |pod: &mut Value| {
        pod["status"]["podIPs"] = json!([{"ip": address}]);
        pod["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    };
    cluster.change("x", "b", |pod| pod["status"]["phase"] = json!("Succeeded"));
    cluster.change("x", "c", reuse);
    assert!(!cluster.passes("x/c", "x/a", (TCP, 80)), "the ended pod's label does not count");
    cluster.change("x", "b", |pod| pod["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert!(!cluster.passes("x/c", "x/a", (TCP, 80)), "the newer pod has the address");
    cluster.change("x", "c", |pod| {
        reuse(pod);
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-03T00:00:00Z");
    });
    assert!(cluster.passes("x/c", "x/a", (TCP, 80)), "the pod that does not terminate has the address");
}
