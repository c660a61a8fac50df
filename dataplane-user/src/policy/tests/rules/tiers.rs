//! `ClusterNetworkPolicy`: the order of tiers, policies and rules.

use super::*;

const PORT: (u8, u16) = (TCP, 80);

/// Returns a spec about all pods of namespace x, with these ingress rules.
fn about_x(tier: &str, priority: u16, ingress: &Value) -> Value {
    let subject = json!({"namespaces": {"matchLabels": {"ns": "x"}}});
    json!({"tier": tier, "priority": priority, "subject": subject, "ingress": ingress})
}

/// Returns a rule about connections from all pods of a namespace, or of all namespaces.
fn rule(action: &str, namespace: &str) -> Value {
    let labels = if namespace.is_empty() { json!({}) } else { json!({"ns": namespace}) };
    json!({"action": action, "from": [{"namespaces": {"matchLabels": labels}}]})
}

fn with(policies: &[(&str, Value)], cluster_policies: &[Value]) -> Cluster {
    let mut cluster = cluster(policies);
    for (index, spec) in cluster_policies.iter().enumerate() {
        cluster.cluster_policy(&format!("c{index}"), spec);
    }
    cluster
}

/// CNP-3: `pods` and `namespaces` choose subjects, and nothing else is judged.
#[test]
fn subject_is_chosen_by_namespaces_or_pods() {
    let deny = rule("Deny", "");
    let mut by_pods = about_x("Admin", 0, &json!([deny]));
    by_pods["subject"] = json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "b"}}}});
    for (spec, expected) in
        [(about_x("Admin", 0, &json!([deny])), ["y/a", "y/b"].as_slice()), (by_pods, ["x/a", "y/a"].as_slice())]
    {
        let cluster = with(&[], &[spec]);
        let open: Vec<_> =
            ["x/a", "x/b", "y/a", "y/b"].into_iter().filter(|to| cluster.passes("z/a", to, PORT)).collect();
        assert_eq!(open, expected);
    }
}

/// CNP-11: without a matching rule a policy does not isolate.
#[test]
fn cluster_policy_does_not_isolate() {
    for tier in ["Admin", "Baseline"] {
        let cluster = with(&[], &[about_x(tier, 0, &json!([rule("Deny", "y"), rule("Accept", "x")]))]);
        assert_eq!(cluster.reaching("x/a", &["x/b", "y/a", "z/a"]), ["x/b", "z/a"], "{tier}");
        assert!(cluster.decide("192.0.2.1", "x/a", PORT, &[Direction::Ingress]), "{tier}");
    }
}

/// CNP-12, CNP-14, CNP-16: Admin, then `NetworkPolicy`, then Baseline; Pass leaves the tier.
#[test]
fn tiers_are_asked_in_order() {
    let own_pods = json!({"ingress": [{"from": [{"podSelector": {}}]}]});
    let admin = about_x("Admin", 0, &json!([rule("Accept", "y"), rule("Pass", "x"), rule("Deny", "x")]));
    let baseline = about_x("Baseline", 0, &json!([rule("Deny", "")]));
    let from = ["x/b", "y/a", "z/a"];
    let all = with(&[("x", own_pods.clone())], &[admin.clone(), baseline.clone()]);
    assert_eq!(all.reaching("x/a", &from), ["x/b", "y/a"], "NetworkPolicy decides about x and z");
    let without = with(&[], &[admin.clone(), baseline]);
    assert_eq!(without.reaching("x/a", &from), ["y/a"], "Baseline decides about x and z");
    assert_eq!(with(&[], &[admin]).reaching("x/a", &from), from, "nothing below decides");
    let deny = about_x("Admin", 0, &json!([rule("Deny", "x")]));
    assert_eq!(with(&[("x", own_pods)], &[deny]).reaching("x/a", &from), [""; 0], "Deny is final");
}

/// CNP-14: Pass in Baseline allows.
#[test]
fn pass_in_baseline_allows() {
    let baseline = about_x("Baseline", 0, &json!([rule("Pass", "y"), rule("Deny", "")]));
    assert_eq!(with(&[], &[baseline]).reaching("x/a", &["x/b", "y/a", "z/a"]), ["y/a"]);
}

/// CNP-13: by priority and then by name, whatever the tier's policies are called.
#[test]
fn smaller_priority_is_asked_first() {
    let policies = |first: u16, second: u16| {
        [about_x("Admin", first, &json!([rule("Deny", "y")])), about_x("Admin", second, &json!([rule("Accept", "y")]))]
    };
    for (first, second, passes) in [(1, 2, false), (2, 1, true), (5, 5, false)] {
        assert_eq!(with(&[], &policies(first, second)).passes("y/a", "x/a", PORT), passes, "{first} {second}");
    }
}

/// CNP-15: an accepted egress does not spare the destination's ingress.
#[test]
fn accepted_egress_needs_the_ingress_too() {
    let mut accept = about_x("Admin", 0, &json!([]));
    accept["egress"] = json!([{"action": "Accept", "to": [{"namespaces": {}}]}]);
    let cluster = with(&[("x", json!({"policyTypes": ["Egress"]})), ("y", json!({}))], &[accept]);
    assert!(cluster.passes("x/a", "z/a", PORT) && !cluster.passes("x/a", "y/a", PORT));
}

/// CNP-17, CNP-18, CNP-24: host-network pods are not judged; own node and own address pass an
/// Admin Deny of everything.
#[test]
fn own_node_and_own_address_pass_a_deny() {
    let mut deny = about_x("Admin", 0, &json!([rule("Deny", "")]));
    deny["subject"] = json!({"namespaces": {}});
    let mut cluster = with(&[], &[deny]);
    let [a, b] = ["x/a", "x/b"].map(|pod| cluster.addresses(pod)[0]);
    let connection = Connection { source: b, destination: a, from_own_node: false, protocol: TCP, port: 80 };
    assert!(!cluster.judge(&connection, Direction::Ingress).0);
    assert!(cluster.judge(&Connection { from_own_node: true, ..connection }, Direction::Ingress).0);
    assert!(cluster.judge(&Connection { source: a, ..connection }, Direction::Ingress).0);
    cluster.change("x", "a", |pod| pod["spec"]["hostNetwork"] = json!(true));
    assert!(cluster.judge(&connection, Direction::Ingress).0);
}

/// CNP-19: networks match addresses of pods and every protocol, unless an earlier rule decides.
#[test]
fn networks_match_pods_and_every_protocol() {
    let mut spec = about_x("Admin", 0, &json!([]));
    let everything = json!({"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]});
    spec["egress"] = json!([{"action": "Pass", "to": [{"namespaces": {"matchLabels": {"ns": "y"}}}]}, everything]);
    let cluster = with(&[], &[spec]);
    for (to, expected) in [("y/a", true), ("z/a", false), ("192.0.2.1", false), ("2001:db8::1", false)] {
        for port in [PORT, (UDP, 53), (ICMP, 0)] {
            assert_eq!(cluster.decide("x/a", to, port, &[Direction::Egress]), expected, "{to} {port:?}");
        }
    }
}

/// CNP-7, CNP-8, CNP-9: ports by protocol, and a name in every protocol of the destination.
#[test]
fn protocols_of_a_rule() {
    let accept = |protocols: Value| {
        let mut accept = rule("Accept", "");
        accept["protocols"] = protocols;
        with(&[("x", json!({}))], &[about_x("Admin", 0, &json!([accept]))])
    };
    let range = json!({"tcp": {"destinationPort": {"range": {"start": 90, "end": 92}}}});
    let numbers = accept(json!([{"udp": {"destinationPort": {"number": 53}}}, range]));
    for (port, expected) in
        [((UDP, 53), true), ((TCP, 53), false), ((TCP, 90), true), ((TCP, 92), true), ((TCP, 93), false)]
    {
        assert_eq!(numbers.passes("y/a", "x/a", port), expected, "{port:?}");
    }
    assert!(accept(json!(null)).passes("y/a", "x/a", (ICMP, 0)));
    let named = |name: &str| accept(json!([{"destinationNamedPort": name}]));
    assert!(named("web").passes("y/a", "x/a", (TCP, 8001)) && !named("web").passes("y/a", "x/a", (UDP, 8001)));
    assert!(named("dns").passes("y/a", "x/a", (UDP, 53)) && !named("dns").passes("y/a", "x/a", (TCP, 53)));
}

/// CNP-31: a `NetworkPolicy` for egress only does not spare the pod Baseline's ingress rules.
#[test]
fn baseline_holds_in_the_direction_that_is_not_isolated() {
    let baseline = about_x("Baseline", 0, &json!([rule("Deny", "")]));
    let cluster = with(&[("x", json!({"policyTypes": ["Egress"], "egress": [{}]}))], &[baseline]);
    assert!(!cluster.passes("y/a", "x/a", PORT) && cluster.passes("x/a", "y/a", PORT));
}

/// CNP-23: a rule with a part that is newer than this program never opens.
#[test]
fn unknown_part_of_a_rule_never_opens() {
    let unknown = |action: &str| {
        let from = json!([{"namespaces": {"matchLabels": {"ns": "y"}}}, {"workloads": {}}]);
        let rules = json!([{"action": action, "from": from}, rule("Accept", "")]);
        with(&[("x", json!({}))], &[about_x("Admin", 0, &rules)])
    };
    for (action, passes) in [("Accept", true), ("Deny", false), ("Pass", false), ("Log", false)] {
        assert_eq!(unknown(action).passes("z/a", "x/a", PORT), passes, "{action}");
    }
}

/// CNP-32: one policy over all namespaces makes one rule set.
#[test]
fn wide_policy_shares_one_rule_set() {
    let mut deny = about_x("Admin", 0, &json!([rule("Deny", "y")]));
    deny["subject"] = json!({"namespaces": {}});
    let tables = compile(&with(&[], &[deny]).world, "n1");
    assert_eq!(tables.pods.len(), PODS.len());
    assert!(tables.pods.values().all(|pod| (pod.ingress.number, pod.egress.number) == (1, 0)));
    assert_eq!(tables.rules.len(), 1);
}
