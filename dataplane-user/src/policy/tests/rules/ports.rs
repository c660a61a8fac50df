//! Ports of rules.

use super::*;

/// Decides if `y/a` reaches `x/a` under an ingress rule with these ports.
fn ingress(ports: &Value, port: (u8, u16)) -> bool {
    cluster(&[("x", json!({"ingress": [{"ports": ports}]}))]).passes("y/a", "x/a", port)
}

/// NP-37, NP-48: without ports all protocols pass, and by a rule with ports no ICMP does.
#[test]
fn rule_without_ports_allows_protocols_without_ports() {
    for ports in [json!(null), json!([])] {
        for port in [(TCP, 80), (UDP, 1), (ICMP, 0), (58, 0), (47, 0), (136, 0)] {
            assert!(ingress(&ports, port), "{ports} {port:?}");
        }
    }
    let all = json!([{"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "SCTP"}]);
    for (port, expected) in [((SCTP, 9), true), ((ICMP, 0), false), ((58, 0), false), ((136, 0), false)] {
        assert_eq!(ingress(&all, port), expected, "{port:?}");
    }
}

/// NP-38, NP-46, NP-47: the protocol is TCP by default; protocols are separate; no container port
/// needs to be declared.
#[test]
fn protocols_are_separate_number_spaces() {
    for (ports, port, expected) in [
        (json!([{"port": 80}]), (TCP, 80), true),
        (json!([{"port": 80}]), (TCP, 81), false),
        (json!([{"port": 80}]), (UDP, 80), false),
        (json!([{"port": 80, "protocol": "SCTP"}]), (TCP, 80), false),
        (json!([{"port": 80, "protocol": "SCTP"}]), (SCTP, 80), true),
        (json!([{}]), (TCP, 65535), true),
        (json!([{}]), (UDP, 65535), false),
        (json!([{"protocol": "UDP"}]), (UDP, 53), true),
    ] {
        assert_eq!(ingress(&ports, port), expected, "{ports} {port:?}");
    }
}

/// NP-40: endPort is inclusive.
#[test]
fn range_of_ports_is_inclusive() {
    let ports = json!([{"port": 80, "endPort": 82}, {"port": 90, "endPort": 90}, {"port": 100, "endPort": 99}]);
    for (port, expected) in [(79, false), (80, true), (82, true), (83, false), (90, true), (99, false), (100, false)] {
        assert_eq!(ingress(&ports, (TCP, port)), expected, "{port}");
    }
}

/// NP-41, NP-42: a name is that of the destination's container port, with name and protocol.
#[test]
fn port_name_is_looked_up_on_the_destination() {
    let web = json!([{"port": "web"}]);
    // `web` is 8001 in x, 8002 in y and 8003 in z.
    assert!(ingress(&web, (TCP, 8001)) && !ingress(&web, (TCP, 8002)));
    let egress = cluster(&[("x", json!({"policyTypes": ["Egress"], "egress": [{"ports": web}]}))]);
    for (to, port, expected) in
        [("y/a", 8002, true), ("y/a", 8001, false), ("z/a", 8003, true), ("z/a", 8002, false), ("x/b", 8001, true)]
    {
        assert_eq!(egress.passes("x/a", to, (TCP, port)), expected, "{to} {port}");
    }
    assert!(ingress(&json!([{"port": "dns", "protocol": "UDP"}]), (UDP, 53)));
    assert!(!ingress(&json!([{"port": "dns"}]), (TCP, 53)) && !ingress(&json!([{"port": "dns"}]), (UDP, 53)));
}

/// NP-43: containers with the same name and protocol count all.
#[test]
fn name_of_several_ports_means_all_of_them() {
    let mut cluster = cluster(&[("x", json!({"ingress": [{"ports": [{"port": "web"}]}]}))]);
    let port = |number: u16| json!({"ports": [{"name": "web", "containerPort": number}]});
    cluster.change("x", "a", |pod| pod["spec"]["containers"] = json!([port(90), port(92)]));
    for (port, expected) in [(90, true), (91, false), (92, true), (8001, false)] {
        assert_eq!(cluster.passes("y/a", "x/a", (TCP, port)), expected, "{port}");
    }
    assert!(cluster.passes("y/a", "x/b", (TCP, 8001)), "another pod under the same policy");
}

/// NP-44, NP-45: a name that the destination does not have allows nothing; a pod that a block
/// matches has its names.
#[test]
fn unknown_port_name_allows_nothing() {
    for port in [0, 80, 8001] {
        assert!(!ingress(&json!([{"port": "metrics"}]), (TCP, port)), "{port}");
    }
    let rule = json!({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": "web"}]});
    let cluster = cluster(&[("x", json!({"egress": [rule]}))]);
    for (to, port, expected) in [("10.0.2.1", 8002, true), ("10.0.2.1", 80, false), ("192.0.2.1", 8002, false)] {
        assert_eq!(cluster.decide("10.0.1.1", to, (TCP, port), &[Direction::Egress]), expected, "{to} {port}");
    }
}

/// NP-44: a list of ports that are all unusable allows nothing.
#[test]
fn list_of_unusable_ports_allows_nothing() {
    for ports in [json!([{"port": 0}]), json!([{"protocol": "ICMP"}]), json!([null]), json!([{"endPort": 90}])] {
        for port in [(TCP, 80), (UDP, 80), (ICMP, 0)] {
            assert!(!ingress(&ports, port), "{ports} {port:?}");
        }
    }
}
