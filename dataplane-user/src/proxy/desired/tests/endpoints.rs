//! Tests of the choice of endpoints that get new connections.
//!
//! Endpoints at 10.1.0.x are in this node's range, but local only with the flag `LOCAL`.

use super::*;

const HINTED: u8 = flags::NODE_HINTS | flags::THIS_NODE_HINTED;

#[test]
fn rule_2_1_5_families_are_independent() {
    let port = one_port(&web(), &[slice(&[("10.1.0.5", READY)]), slice(&[("fd00:1::5", LEAVING), ("fd00:1::6", 0)])]);
    assert_eq!(members(&port, sets::CLUSTER), ["10.1.0.5", "fd00:1::5"], "IPv6 has its own fallback");
    let port = one_port(&web(), &[slice(&[("10.1.0.5", READY)]), slice(&[("fd00:1::6", 0)])]);
    assert_eq!(members(&port, sets::CLUSTER), ["10.1.0.5"], "and IPv4 does not stand in for it");
}

#[test]
fn rule_2_1_6_an_endpoint_in_two_slices_is_one_backend() {
    for slices in [
        [slice(&[("10.1.0.5", READY | LOCAL)]), slice(&[("10.1.0.5", 0)])],
        [slice(&[("10.1.0.5", 0)]), slice(&[("10.1.0.5", READY | LOCAL)])],
    ] {
        let port = one_port(&web(), &slices);
        assert_eq!(port.backends.len(), 1);
        assert_ne!(port.backends[0].state & state::LOCAL, 0);
        assert_eq!(members(&port, sets::CLUSTER), ["10.1.0.5"]);
    }
}

#[test]
fn rule_2_1_6_ports_match_by_name_and_protocol_and_may_differ_between_slices() {
    let mut other = slice(&[("10.1.0.6", READY)]);
    other.ports = [
        SlicePort { name: "http".into(), port: 9090, proto: proto::TCP },
        SlicePort { name: "metrics".into(), port: 9100, proto: proto::TCP },
    ]
    .into();
    let mut udp = slice(&[("10.1.0.7", READY)]);
    udp.ports[0].proto = proto::UDP;
    let port = one_port(&web(), &[slice(&[("10.1.0.5", READY)]), other, udp]);
    let endpoints: Vec<_> = port.backends.iter().map(|b| (b.addr.to_string(), b.port)).collect();
    assert_eq!(endpoints, [("10.1.0.5".to_owned(), 8080), ("10.1.0.6".to_owned(), 9090)]);
}

#[test]
fn rule_2_1_7_ready_is_taken_as_given_even_while_terminating() {
    let published = READY | flags::TERMINATING;
    let port = one_port(&web(), &[slice(&[("10.1.0.5", published), ("10.1.0.6", READY)])]);
    assert_eq!(members(&port, sets::CLUSTER), ["10.1.0.5", "10.1.0.6"]);
}

#[test]
fn rule_2_2_1_terminating_endpoints_are_used_if_none_is_ready() {
    let cases: [(&[(&str, u8)], &[&str]); 4] = [
        (&[("10.1.0.5", READY), ("10.1.0.6", LEAVING), ("10.1.0.7", 0)], &["10.1.0.5"]),
        (&[("10.1.0.6", LEAVING), ("10.1.0.7", 0)], &["10.1.0.6"]),
        (&[("10.1.0.7", flags::TERMINATING), ("10.1.0.8", 0)], &[]),
        (&[("10.1.0.8", flags::SERVING)], &[]),
    ];
    for (endpoints, wanted) in cases {
        let port = one_port(&web(), &[slice(endpoints)]);
        assert_eq!(members(&port, sets::CLUSTER), wanted, "{endpoints:?}");
        assert_eq!(port.backends.len(), endpoints.len(), "all are listed for their existing flows");
    }
}

#[test]
fn rule_2_2_1_the_local_set_has_its_own_fallback() {
    let s = exposed(Policy::Local);
    let port = one_port(&s, &[slice(&[("10.1.0.5", LEAVING | LOCAL), ("10.1.1.6", READY)])]);
    assert_eq!(members(&port, sets::CLUSTER), ["10.1.1.6"]);
    assert_eq!(members(&port, sets::LOCAL), ["10.1.0.5"]);
    let port = one_port(&s, &[slice(&[("10.1.0.5", LEAVING | LOCAL), ("10.1.0.7", READY | LOCAL)])]);
    assert_eq!(members(&port, sets::LOCAL), ["10.1.0.7"]);
}

#[test]
fn rule_2_2_2_hints_for_this_node_come_first_then_for_its_zone() {
    let all = ["10.1.0.5", "10.1.0.6", "10.1.0.7"];
    let cases: [(&str, [(u8, &[&str]); 3], &[&str]); 7] = [
        ("no hints", [(0, &[]), (0, &[]), (0, &[])], &all),
        ("zones", [(0, &["z1"]), (0, &["z2"]), (0, &["z2", "z1"])], &["10.1.0.5", "10.1.0.7"]),
        ("an endpoint without hints", [(0, &["z1"]), (0, &["z2"]), (0, &[])], &all),
        ("no endpoint for our zone", [(0, &["z2"]), (0, &["z2"]), (0, &["z3"])], &all),
        ("our node", [(HINTED, &["z1"]), (flags::NODE_HINTS, &["z1"]), (flags::NODE_HINTS, &["z1"])], &["10.1.0.5"]),
        (
            "other nodes, our zone",
            [(flags::NODE_HINTS, &["z1"]), (flags::NODE_HINTS, &["z2"]), (flags::NODE_HINTS, &["z2"])],
            &["10.1.0.5"],
        ),
        ("not all have node hints", [(HINTED, &["z1"]), (0, &["z1"]), (0, &["z2"])], &["10.1.0.5", "10.1.0.6"]),
    ];
    for (case, hints, wanted) in cases {
        let endpoints: Vec<_> = all.iter().zip(hints).map(|(a, (f, z))| (*a, READY | f, z)).collect();
        let port = one_port(&web(), &[zoned(&endpoints)]);
        assert_eq!(members(&port, sets::CLUSTER), wanted, "{case}");
    }
}

#[test]
fn rule_2_2_2_unready_endpoints_need_no_hints_and_terminating_ones_ignore_hints() {
    let hinted = zoned(&[("10.1.0.5", READY, &["z1"]), ("10.1.0.6", READY, &["z2"]), ("10.1.0.7", 0, &[])]);
    assert_eq!(members(&one_port(&web(), &[hinted]), sets::CLUSTER), ["10.1.0.5"]);
    let leaving = zoned(&[("10.1.0.5", LEAVING, &["z1"]), ("10.1.0.6", LEAVING, &["z2"])]);
    assert_eq!(members(&one_port(&web(), &[leaving]), sets::CLUSTER), ["10.1.0.5", "10.1.0.6"]);
}

#[test]
fn rule_2_2_2_a_local_policy_wins_over_topology() {
    let s = exposed(Policy::Local);
    let endpoints = zoned(&[("10.1.0.5", READY | LOCAL, &["z2"]), ("10.1.1.6", READY, &["z1"])]);
    let port = one_port(&s, &[endpoints]);
    assert_eq!(members(&port, sets::CLUSTER), ["10.1.1.6"]);
    assert_eq!(members(&port, sets::LOCAL), ["10.1.0.5"]);
}

#[test]
fn rule_2_3_4_internal_clients_of_a_local_service_reach_all_endpoints() {
    let port = one_port(&exposed(Policy::Local), &[slice(&[("10.1.1.6", READY)])]);
    assert_eq!(members(&port, sets::CLUSTER), ["10.1.1.6"]);
    assert_eq!(members(&port, sets::LOCAL), [""; 0]);
    for at in ["203.0.113.1", "203.0.113.2", "192.0.2.1"] {
        assert_eq!(frontend_flags_at(&port, at) & frontend_flags::INTERNAL_DROP, 0, "{at}");
    }
}

#[test]
fn rule_2_3_3_internal_policy_local_uses_endpoints_of_this_node() {
    let s = ServiceObject { internal: Policy::Local, ..web() };
    let port = one_port(&s, &[slice(&[("10.1.0.5", READY | LOCAL), ("10.1.1.6", READY)])]);
    assert_eq!(members(&port, sets::LOCAL), ["10.1.0.5"]);
    assert_eq!(members(&port, sets::CLUSTER), [""; 0], "no frontend uses the set");
}

#[test]
fn rule_2_2_4_state_bits_describe_each_endpoint() {
    let endpoints = slice(&[("10.1.0.5", READY | LOCAL), ("10.1.1.6", LEAVING), ("10.1.1.7", 0), ("192.0.2.2", READY)]);
    let port = one_port(&exposed(Policy::Local), &[endpoints]);
    let states: Vec<_> = port.backends.iter().map(|b| b.state).collect();
    let listed = state::LISTED;
    assert_eq!(
        states,
        [
            listed | state::INTERNAL | state::EXTERNAL | state::SERVING | state::LOCAL,
            listed | state::SERVING | state::TERMINATING,
            listed,
            // External clients may also use the cluster IP, which has all endpoints.
            listed | state::INTERNAL | state::EXTERNAL | state::SERVING | state::HOST,
        ]
    );
}

#[test]
fn rule_2_4_1_with_affinity_a_remembered_backend_satisfies_every_frontend() {
    let endpoints = slice(&[("10.1.0.5", READY | LOCAL), ("10.1.1.6", READY)]);
    let s = ServiceObject { internal: Policy::Local, affinity: 60, ..exposed(Policy::Cluster) };
    let port = one_port(&s, &[endpoints]);
    let internal: Vec<_> = port.backends.iter().map(|b| b.state & state::INTERNAL != 0).collect();
    assert_eq!(internal, [true, false]);
    assert_eq!(port.affinity, 60);
}

/// L7: a tenant names the node of an endpoint. Packets to one on this node keep the pod's own
/// address, and nothing masquerades them.
#[test]
fn endpoint_is_local_only_at_an_address_that_can_be_on_this_node() {
    let derive_on = |networks: Option<&[&str]>, at: &str| {
        let mut context = context();
        context.node.local_networks = networks.map(|all| all.iter().map(|n| n.parse().unwrap()).collect());
        let (s, slices) = (exposed(Policy::Local), [slice(&[(at, READY | LOCAL)])]);
        let desired = service(&ObjectKey::new("shop", "web"), &s, slices.iter(), &context, |_| false);
        let backend = desired.ports[0].backends[0];
        (backend.state & state::LOCAL != 0, backend.sets & sets::LOCAL != 0)
    };
    let own: &[&str] = &["10.1.0.0/24", "fd00:1::/64", "172.17.0.0/16"];
    for at in ["10.1.0.5", "fd00:1::5", "172.17.0.9", "192.0.2.1"] {
        assert_eq!(derive_on(Some(own), at), (true, true), "{at}");
    }
    for at in ["198.51.100.7", "2001:db8:9::7", "10.1.1.5", "192.0.2.2"] {
        assert_eq!(derive_on(Some(own), at), (false, false), "{at}");
        assert_eq!(derive_on(None, at), (true, true), "{at}, with pods of another plugin");
    }
}
