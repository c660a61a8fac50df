//! Valid objects and their defaults.

use super::*;
use crate::policy::object::Labels;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn rule_of(rule: &Value) -> Rule {
    let (rule, faults) = ingress_rule(rule);
    assert_eq!(faults, [""; 0]);
    rule
}

/// NP-2: an absent and an empty podSelector select all pods of the namespace.
#[test]
fn absent_and_empty_subject_select_every_pod() {
    for spec in [json!({}), json!({"podSelector": null}), json!({"podSelector": {}})] {
        assert_eq!(policy(&spec).subject, Selector::everything(), "{spec}");
    }
    let without_spec = network_policy(&json!({"metadata": {"name": "p"}}));
    assert_eq!(without_spec.key.to_string(), "default/p");
    assert_eq!((without_spec.object.unwrap().ingress, without_spec.faults), (Some(Vec::new()), Vec::new()));
}

/// NP-3: all requirements must hold; `NotIn` and `DoesNotExist` hold for a pod without the label.
#[test]
fn selectors_match_labels() {
    let pod = labels(&[("app", "web"), ("tier", "")]);
    let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    let both =
        json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]});
    for (value, expected) in [
        (json!({}), true),
        (json!({"matchLabels": {"app": "web", "tier": ""}}), true),
        (json!({"matchLabels": {"app": "web", "tier": "a"}}), false),
        (json!({"matchLabels": {"zone": "a"}}), false),
        (expression("app", "In", json!(["db", "web"])), true),
        (expression("zone", "In", json!(["a"])), false),
        (expression("app", "NotIn", json!(["web"])), false),
        (expression("zone", "NotIn", json!(["a"])), true),
        (expression("tier", "Exists", json!(null)), true),
        (expression("zone", "Exists", json!([])), false),
        (expression("zone", "DoesNotExist", json!(null)), true),
        (expression("tier", "DoesNotExist", json!(null)), false),
        (both, false),
    ] {
        assert_eq!(selector(&value).matches(&pod), expected, "{value}");
    }
}

/// NP-4: values that are no valid labels are compared as plain strings.
#[test]
fn selector_value_that_is_no_label_value_matches_as_a_string() {
    let with = |operator: &str| {
        selector(&json!({"matchExpressions": [{"key": "app", "operator": operator, "values": ["not a label!"]}]}))
    };
    let pod = labels(&[("app", "web")]);
    assert!(!with("In").matches(&pod) && with("NotIn").matches(&pod));
}

/// NP-10, NP-11, NP-12, NP-14: policyTypes and its default decide which directions are isolated.
#[test]
fn policy_types_and_their_default_isolate() {
    for (spec, ingress, egress) in [
        (json!({}), Some(0), None),
        (json!({"policyTypes": []}), Some(0), None),
        (json!({"egress": []}), Some(0), None),
        (json!({"egress": [{}]}), Some(0), Some(1)),
        (json!({"ingress": [{}], "policyTypes": []}), Some(1), None),
        (json!({"policyTypes": ["Egress"], "ingress": [{}]}), None, Some(0)),
        (json!({"policyTypes": ["Ingress"], "egress": [{}]}), Some(0), None),
        (json!({"policyTypes": ["Egress", "Ingress"]}), Some(0), Some(0)),
        (json!({"policyTypes": ["Ingress", "Ingress"]}), Some(0), None),
    ] {
        let policy = policy(&spec);
        assert_eq!(policy.ingress.map(|rules| rules.len()), ingress, "{spec}");
        assert_eq!(policy.egress.map(|rules| rules.len()), egress, "{spec}");
    }
}

/// NP-13, NP-15, NP-37: absent and empty lists of peers and ports are "every" and "all".
#[test]
fn absent_and_empty_lists_are_everything() {
    let all = Rule { peers: Peers::Every, ports: Ports::All };
    for rule in [json!({}), json!({"from": []}), json!({"from": null, "ports": null}), json!({"ports": []})] {
        assert_eq!(rule_of(&rule), all, "{rule}");
    }
    let ports = rule_of(&json!({"ports": [{"port": 80}]}));
    assert_eq!(ports.peers, Peers::Every);
    assert_ne!(ports.ports, Ports::All);
}

/// NP-17 to NP-20: an absent selector of a peer and an empty one differ.
#[test]
fn absent_and_empty_selectors_of_peers_differ() {
    let everything = Selector::everything;
    let own = Peer::Pods { namespaces: Namespaces::Own, pods: everything() };
    let all = Peer::Pods { namespaces: Namespaces::Matching(everything()), pods: everything() };
    for (peers, expected) in [
        (json!([{"podSelector": {}}]), vec![own.clone()]),
        (json!([{"podSelector": {}, "namespaceSelector": null}]), vec![own.clone()]),
        (json!([{"namespaceSelector": {}}]), vec![all.clone()]),
        (json!([{"namespaceSelector": {}, "podSelector": {}}]), vec![all.clone()]),
        (json!([{"namespaceSelector": {}}, {"podSelector": {}}]), vec![all, own]),
    ] {
        assert_eq!(rule_of(&json!({"from": peers})).peers, Peers::Only(expected), "{peers}");
    }
}

/// NP-27, NP-30: both families; host bits and leading zeros of old objects are accepted.
#[test]
fn blocks_are_read_like_the_api_server_reads_them() {
    for (text, expected) in [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("010.001.0.0/016", "10.1.0.0/16"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("fd00::1/64", "fd00::/64"),
        ("::/0", "::/0"),
    ] {
        let block = Block { cidr: expected.parse().unwrap(), excepts: Vec::new() };
        let rule = rule_of(&json!({"from": [{"ipBlock": {"cidr": text}}]}));
        assert_eq!(rule.peers, Peers::Only(vec![Peer::Block(block)]), "{text}");
    }
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.5/16", "10.2.0.0/16"]}});
    let Peers::Only(peers) = rule_of(&json!({"from": [block]})).peers else { panic!() };
    let Peer::Block(block) = &peers[0] else { panic!() };
    for (address, expected) in [("10.3.0.1", true), ("10.1.9.9", false), ("10.2.0.1", false), ("11.0.0.1", false)] {
        assert_eq!(block.contains(address.parse().unwrap()), expected, "{address}");
    }
}

/// NP-38, NP-40: defaults of a port, and ranges.
#[test]
fn ports_and_their_defaults() {
    let ports = json!([{}, {"port": 80}, {"protocol": "UDP"}, {"protocol": "SCTP", "port": "dns"},
                       {"port": 80, "endPort": 80}, {"port": 1, "endPort": 65535}]);
    let expected = [
        (protocol::TCP, PortRange::All),
        (protocol::TCP, PortRange::Numbers(80, 80)),
        (protocol::UDP, PortRange::All),
        (protocol::SCTP, PortRange::Named("dns".into())),
        (protocol::TCP, PortRange::Numbers(80, 80)),
        (protocol::TCP, PortRange::Numbers(1, 65535)),
    ];
    let expected = expected.map(|(protocol, port)| PortMatch { protocol, port });
    assert_eq!(rule_of(&json!({"ports": ports})).ports, Ports::Only(expected.into()));
}

/// NP-23: a namespace has the label with its name, whatever a manifest says.
#[test]
fn namespace_has_the_label_with_its_name() {
    for given in [json!(null), json!({"team": "a"}), json!({NAMESPACE_NAME: "other"})] {
        let wire = serde_json::from_value(json!({"metadata": {"name": "shop", "labels": given}})).unwrap();
        let decoded = namespace(&wire).object.unwrap();
        assert_eq!(decoded.get(NAMESPACE_NAME).map(|name| &**name), Some("shop"), "{given}");
        assert_eq!(decoded.len(), 1 + usize::from(given.get("team").is_some()));
    }
}

fn pod_of(spec: &Value, status: &Value) -> Decoded<crate::policy::object::Pod> {
    let value = json!({"metadata": {"name": "a", "namespace": "x", "deletionTimestamp": "2026-01-02T03:04:05Z"},
                       "spec": spec, "status": status});
    pod(&serde_json::from_value(value).unwrap())
}

fn named_port(name: &str, number: i64) -> Value {
    json!({"name": name, "containerPort": number})
}

/// NP-43, NP-80: named ports are those of all containers and sidecars; addresses of both families.
#[test]
fn pod_has_the_named_ports_of_containers_and_sidecars() {
    let port = named_port;
    let spec = json!({"nodeName": "n1",
        "containers": [{"ports": [port("web", 80), {"containerPort": 9}]},
                       {"ports": [port("web", 81), {"name": "web", "containerPort": 82, "protocol": "UDP"}]}],
        "initContainers": [{"ports": [port("web", 83)]}, {"restartPolicy": "Always", "ports": [port("web", 84)]}]});
    let status = json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
    let decoded = pod_of(&spec, &status);
    let pod = decoded.object.unwrap();
    let ports: Vec<_> = pod.named_ports.iter().map(|port| (&*port.name, port.protocol, port.number)).collect();
    assert_eq!(ports, [("web", 6, 80), ("web", 6, 81), ("web", 6, 84), ("web", 17, 82)]);
    assert_eq!((pod.addresses.len(), decoded.faults.len()), (2, 0));
    assert!(pod.is_selectable() && pod.terminating && &*pod.node == "n1");
}

/// NP-55, NP-72, NP-73: ended and host-network pods can't be selected, all others can.
#[test]
fn phase_and_host_network_decide_if_a_pod_is_selectable() {
    for (phase, selectable) in [("Succeeded", false), ("Failed", false), ("Pending", true), ("Unknown", true)] {
        let pod = pod_of(&json!({}), &json!({"phase": phase})).object.unwrap();
        assert_eq!(pod.is_selectable(), selectable, "{phase}");
    }
    assert!(!pod_of(&json!({"hostNetwork": true}), &json!({})).object.unwrap().is_selectable());
}

#[test]
fn unusable_parts_of_a_pod_are_reported() {
    let ports = [named_port("a", 0), named_port("b", 70000)];
    let bad = pod_of(&json!({"containers": [{"ports": ports}]}), &json!({"podIP": "10.0"}));
    let faults: Vec<_> = bad.faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "status.podIPs: \"10.0\" is not an IP address",
            "spec.containers[0].ports[0].containerPort: 0 is not a port from 1 to 65535",
            "spec.containers[0].ports[1].containerPort: 70000 is not a port from 1 to 65535",
        ]
    );
    assert!(bad.object.unwrap().named_ports.is_empty());
}
