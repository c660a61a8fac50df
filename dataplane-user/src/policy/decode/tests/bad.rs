//! Invalid objects: each fault names its field, and the invalid part allows nothing.

use super::*;

/// Decodes one ingress rule whose peers are all unusable and returns the faults.
fn no_peer(peers: &Value) -> Vec<String> {
    let (rule, faults) = ingress_rule(&json!({"from": peers}));
    assert_eq!(rule.peers, Peers::Only(Vec::new()), "{peers}");
    faults
}

/// Decodes one ingress rule whose ports are all unusable and returns the faults.
fn no_port(ports: &Value) -> Vec<String> {
    let (rule, faults) = ingress_rule(&json!({"ports": ports}));
    assert_eq!(rule.ports, Ports::Only(Vec::new()), "{ports}");
    faults
}

/// NP-21, NP-22: `from: [{}]` is a list without a usable peer, and not the absent list.
#[test]
fn peer_without_exactly_one_form_matches_nothing() {
    for (peer, fault) in [
        (json!({}), ": has no podSelector, namespaceSelector or ipBlock"),
        (json!({"podSelector": null}), ": has no podSelector, namespaceSelector or ipBlock"),
        (json!(null), ": is not an object"),
        (json!({"serviceAccounts": {}}), ".serviceAccounts: is not a known field"),
        (json!({"podSelector": {}, "nodeSelector": {}}), ".nodeSelector: is not a known field"),
        (json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}), ": has an ipBlock and a selector"),
    ] {
        let expected = format!("spec.ingress[0].from[0]{fault}: the peer matches nothing");
        assert_eq!(no_peer(&json!([peer])), [expected]);
    }
}

/// NP-16: a usable peer keeps its meaning beside an unusable one.
#[test]
fn fault_of_a_peer_leaves_the_other_peers() {
    let (rule, faults) = ingress_rule(&json!({"from": [{}, {"podSelector": {}}]}));
    let own = Peer::Pods { namespaces: Namespaces::Own, pods: Selector::everything() };
    assert_eq!((rule.peers, faults.len()), (Peers::Only(vec![own]), 1));
}

/// NP-4: a selector with a part that can't be read matches nothing as a peer.
#[test]
fn peer_with_an_unusable_selector_matches_nothing() {
    let expression = |value: Value| json!({"matchExpressions": [value]});
    let values = "has values, which its operator does not take";
    let values = format!(".matchExpressions[0]: {values}");
    for (selector, fault) in [
        (json!("app=web"), ": is not an object"),
        (json!({"matchLabel": {"app": "web"}}), ".matchLabel: is not a known field"),
        (json!({"matchLabels": {"app": 1}}), ".matchLabels: the value of \"app\" is not a string"),
        (json!({"matchLabels": ["app"]}), ".matchLabels: is not an object"),
        (json!({"matchExpressions": {}}), ".matchExpressions: is not a list"),
        (expression(json!({"key": "a", "operator": "Gt"})), ".matchExpressions[0]: \"Gt\" is not a known operator"),
        (expression(json!({"key": "a", "operator": "NotIn"})), ".matchExpressions[0]: has no values"),
        (expression(json!({"key": "a"})), ".matchExpressions[0].operator: is missing"),
        (expression(json!({"operator": "Exists"})), ".matchExpressions[0].key: is missing"),
        (expression(json!({"key": "", "operator": "Exists"})), ".matchExpressions[0]: has an empty key"),
        (expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})), &values),
        (
            expression(json!({"key": "a", "operator": "NotIn", "values": [1]})),
            ".matchExpressions[0].values[0]: is not a string",
        ),
    ] {
        for field in ["podSelector", "namespaceSelector"] {
            let faults = no_peer(&json!([{field: selector}]));
            let expected = format!("spec.ingress[0].from[0].{field}{fault}: the peer matches nothing");
            assert_eq!(faults, [expected]);
        }
    }
}

/// NP-4: a policy with an unusable subject is no object, so that its last usable version stays.
#[test]
fn policy_with_an_unusable_subject_is_refused() {
    let (object, faults) = decoded(&json!({"podSelector": {"matchLabel": {"app": "web"}}}));
    assert_eq!(object, None);
    assert_eq!(faults, ["spec.podSelector.matchLabel: is not a known field: the policy is not used"]);
    let unnamed = network_policy(&json!({"spec": {}}));
    assert!(unnamed.object.is_none());
    assert_eq!(unnamed.faults[0].to_string(), "metadata.name: is missing: the policy is not used");
}

/// NP-13: a rule that can't be read does not become the rule `{}`.
#[test]
fn unusable_rule_allows_nothing() {
    for (rule, fault) in [
        (json!(null), ": is not an object"),
        (json!({"to": [{"podSelector": {}}]}), ".to: is not a known field"),
        (json!({"form": [{"podSelector": {}}]}), ".form: is not a known field"),
        (json!({"from": {"podSelector": {}}}), ".from: is not a list"),
        (json!({"ports": {"port": 80}}), ".ports: is not a list"),
    ] {
        let (usable, faults) = ingress_rule(&rule);
        assert_eq!(usable, Rule::nothing(), "{rule}");
        assert_eq!(faults, [format!("spec.ingress[0]{fault}: the rule allows nothing")]);
    }
    let (object, faults) = decoded(&json!({"ingress": {}, "egress": {}}));
    let object = object.unwrap();
    assert_eq!((object.ingress, object.egress), (Some(Vec::new()), Some(Vec::new())));
    let expected = ["ingress", "egress"].map(|list| format!("spec.{list}: is not a list: nothing is allowed"));
    assert_eq!(faults, expected);
}

/// NP-40, NP-44, NP-47: an unusable port allows nothing, and never all ports.
#[test]
fn unusable_port_allows_nothing() {
    for (port, fault) in [
        (json!(null), ": is not an object"),
        (json!(80), ": is not an object"),
        (json!({"port": 0}), ".port: 0 is not a port from 1 to 65535"),
        (json!({"port": 65536}), ".port: 65536 is not a port from 1 to 65535"),
        (json!({"port": 80.5}), ".port: 80.5 is not a port from 1 to 65535"),
        (json!({"port": true}), ".port: true is not a port from 1 to 65535"),
        (json!({"port": ""}), ".port: \"\" is not the name of a port"),
        (json!({"port": "80"}), ".port: \"80\" is not the name of a port"),
        (json!({"port": "Web"}), ".port: \"Web\" is not the name of a port"),
        (json!({"protocol": "ICMP"}), ".protocol: is not TCP, UDP or SCTP"),
        (json!({"protocol": "tcp", "port": 80}), ".protocol: is not TCP, UDP or SCTP"),
        (json!({"endPort": 90}), ".endPort: needs a port"),
        (json!({"port": "web", "endPort": 90}), ": has an endPort and a named port"),
        (json!({"port": 80, "endPort": 79}), ": has an endPort below its port"),
        (json!({"port": 80, "endPort": 65536}), ".endPort: 65536 is not a port from 1 to 65535"),
        (json!({"ports": 80}), ".ports: is not a known field"),
    ] {
        let faults = no_port(&json!([port]));
        assert_eq!(faults, [format!("spec.ingress[0].ports[0]{fault}: the port allows nothing")]);
    }
}

/// NP-28, NP-36: a block that can't be read matches nothing, also if only an exception can't be.
#[test]
fn unusable_block_matches_nothing() {
    let mapped = "::ffff:10.0.0.0/104";
    let refused = format!(": cidr \"{mapped}\" is an IPv4 range written as IPv6");
    for (block, fault) in [
        (json!({}), ".cidr: is missing"),
        (json!({"cidr": 10}), ".cidr: is not a string"),
        (json!({"cidr": "10.0.0.0"}), ": cidr \"10.0.0.0\" is not a CIDR"),
        (json!({"cidr": "10.0.0.0/33"}), ": cidr \"10.0.0.0/33\" is not a CIDR"),
        (json!({"cidr": "10.0.0.0/+8"}), ": cidr \"10.0.0.0/+8\" is not a CIDR"),
        (json!({"cidr": "10.0.0/8"}), ": cidr \"10.0.0/8\" is not a CIDR"),
        (json!({"cidr": mapped}), &refused),
        (json!({"cidr": "10.0.0.0/8", "excepts": []}), ".excepts: is not a known field"),
        (json!({"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}), ".except: is not a list"),
        (json!({"cidr": "10.0.0.0/8", "except": ["10.1"]}), ".except[0]: \"10.1\" is not a CIDR"),
    ] {
        let faults = no_peer(&json!([{"ipBlock": block}]));
        assert_eq!(faults, [format!("spec.ingress[0].from[0].ipBlock{fault}: the peer matches nothing")]);
    }
}

/// NP-28: an exception that is no strict part of its block subtracts what it covers.
#[test]
fn exception_outside_its_block_subtracts_what_it_covers() {
    for (except, left) in [("10.0.0.0/8", false), ("0.0.0.0/0", false), ("11.0.0.0/8", true), ("fd00::/8", true)] {
        let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": [except]}});
        let (rule, faults) = ingress_rule(&json!({"from": [block]}));
        let Peers::Only(peers) = rule.peers else { panic!() };
        let Peer::Block(block) = &peers[0] else { panic!() };
        assert_eq!(block.contains("10.1.1.1".parse().unwrap()), left, "{except}");
        let reason = format!("\"{except}\" is not a part of 10.0.0.0/8: it excepts only what it covers");
        assert_eq!(faults, [format!("spec.ingress[0].from[0].ipBlock.except[0]: {reason}")]);
    }
}

/// NP-14: an unknown policy type isolates what the default would isolate.
#[test]
fn unknown_policy_type_does_not_open() {
    for (spec, egress) in [
        (json!({"policyTypes": ["ingress"]}), false),
        (json!({"policyTypes": ["Egres"], "egress": [{"to": []}]}), true),
        (json!({"policyTypes": "Egress", "egress": {}}), true),
        (json!({"policyTypes": ["Egress", null]}), true),
    ] {
        let (object, faults) = decoded(&spec);
        let object = object.unwrap();
        assert_eq!((object.ingress.is_some(), object.egress.is_some()), (true, egress), "{spec}");
        assert!(faults[0].starts_with("spec.policyTypes"), "{faults:?}");
    }
}

#[test]
fn faults_of_one_object_are_limited() {
    let (object, faults) = decoded(&json!({"ingress": vec![json!({"from": [{}]}); 100]}));
    assert_eq!((object.unwrap().ingress.unwrap().len(), faults.len()), (100, MAX_FAULTS));
}
