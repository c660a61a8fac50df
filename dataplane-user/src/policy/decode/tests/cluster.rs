//! `ClusterNetworkPolicy`: what is refused, and how unusable parts are closed.

use super::*;
use crate::policy::cluster_policy::{Action, ClusterPolicy, ClusterRule};

fn decode(spec: &Value) -> (Option<ClusterPolicy>, Vec<String>) {
    let decoded = cluster_policy(&json!({"metadata": {"name": "c"}, "spec": spec}));
    (decoded.object, decoded.faults.iter().map(ToString::to_string).collect())
}

fn spec(egress: &Value) -> Value {
    json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}, "egress": egress})
}

/// Decodes one egress rule.
fn egress(rule: &Value) -> (ClusterRule, Vec<String>) {
    let (object, faults) = decode(&spec(&json!([rule])));
    (object.unwrap().egress.remove(0), faults)
}

fn denies_everything(rule: &ClusterRule) -> bool {
    *rule == ClusterRule { action: Action::Deny, matches: Rule { peers: Peers::Every, ports: Ports::All } }
}

fn accepts_nothing(rule: &ClusterRule) -> bool {
    let empty = rule.matches.peers == Peers::Only(Vec::new()) || rule.matches.ports == Ports::Only(Vec::new());
    rule.action == Action::Accept && empty
}

/// CNP-2, CNP-3, CNP-4: tier, priority and subject are required; a policy without them is refused.
#[test]
fn policy_without_tier_priority_or_subject_is_refused() {
    for (field, value) in [
        ("tier", json!(null)),
        ("tier", json!("admin")),
        ("priority", json!(null)),
        ("priority", json!(1001)),
        ("priority", json!(-1)),
        ("subject", json!(null)),
        ("subject", json!({})),
        ("subject", json!({"namespaces": {}, "pods": {"namespaceSelector": {}, "podSelector": {}}})),
        ("subject", json!({"pods": {"podSelector": {}}})),
        ("subject", json!({"namespaces": {"matchLabel": {}}})),
        ("ingress", json!({})),
        ("ingress", json!(vec![json!({"action": "Deny", "from": [{"namespaces": {}}]}); 26])),
    ] {
        let mut spec = spec(&json!([]));
        spec[field] = value;
        let (object, faults) = decode(&spec);
        assert!(object.is_none() && faults.len() == 1, "{field}: {faults:?}");
        assert!(faults[0].starts_with("spec") && faults[0].ends_with(": the policy is not used"), "{faults:?}");
    }
    for priority in [0, 1000] {
        let mut spec = spec(&json!([]));
        spec["priority"] = json!(priority);
        assert_eq!(decode(&spec).0.unwrap().priority, priority);
    }
}

/// CNP-6, CNP-21 to CNP-23: an unusable peer accepts nothing; other rules with it deny everything.
#[test]
fn rule_with_an_unusable_peer_is_closed() {
    for peer in [
        json!({}),
        json!(null),
        json!({"namespaces": {}, "networks": ["10.0.0.0/8"]}),
        json!({"nodes": {}}),
        json!({"domainNames": ["example.org"]}),
        json!({"networks": []}),
        json!({"networks": ["10.0.0.1/8"]}),
        json!({"networks": ["10.0.0.0"]}),
        json!({"networks": ["10.0.0.0/255.0.0.0"]}),
        json!({"networks": ["010.0.0.0/8"]}),
        json!({"networks": ["::ffff:10.0.0.0/104"]}),
        json!({"pods": {"namespaceSelector": {}}}),
        json!({"namespaces": {"matchLabel": {"a": "b"}}}),
    ] {
        let rule = |action: &str| egress(&json!({"action": action, "to": [peer]}));
        assert!(accepts_nothing(&rule("Accept").0), "{peer}");
        for action in ["Deny", "Pass"] {
            let (rule, faults) = rule(action);
            assert!(denies_everything(&rule) && !faults.is_empty(), "{action} {peer}");
        }
    }
    let (rule, faults) = egress(&json!({"action": "Accept", "to": [{"nodes": {}}, {"networks": ["::/0"]}]}));
    assert!(matches!(&rule.matches.peers, Peers::Only(peers) if peers.len() == 1));
    assert_eq!(faults, ["spec.egress[0].to[0].nodes: is not a known field: the part accepts nothing"]);
}

/// CNP-5, CNP-7: an unusable entry of protocols, list or rule is closed in the same way.
#[test]
fn rule_with_an_unusable_part_is_closed() {
    let port = |port: Value| json!({"to": [{"namespaces": {}}], "protocols": [port]});
    for rule in [
        json!({}),
        json!({"to": []}),
        json!({"from": [{"namespaces": {}}]}),
        json!({"to": [{"namespaces": {}}], "until": "tomorrow"}),
        json!({"to": [{"namespaces": {}}], "protocols": []}),
        port(json!({})),
        port(json!({"tcp": {}})),
        port(json!({"icmp": {}})),
        port(json!({"tcp": {"destinationPort": {"number": 0}}})),
        port(json!({"tcp": {"destinationPort": {"range": {"start": 80, "end": 80}}}})),
        port(json!({"tcp": {"destinationPort": {"number": 80, "range": {"start": 1, "end": 2}}}})),
        port(json!({"tcp": {"destinationPort": {"number": 80}}, "udp": {"destinationPort": {"number": 80}}})),
        port(json!({"destinationNamedPort": ""})),
    ] {
        for action in ["Accept", "Deny", "Pass"] {
            let mut rule = rule.clone();
            rule["action"] = json!(action);
            let (decoded, faults) = egress(&rule);
            let closed = if action == "Accept" { accepts_nothing(&decoded) } else { denies_everything(&decoded) };
            assert!(closed && !faults.is_empty(), "{rule}: {decoded:?}");
        }
    }
    let (rule, faults) = egress(&json!({"action": "Log", "to": [{"namespaces": {}}]}));
    assert!(denies_everything(&rule));
    assert_eq!(faults, ["spec.egress[0]: action is not Accept, Deny or Pass: the rule denies everything"]);
}
