//! Tests of the routes to other nodes.

use super::*;

fn node(addresses: &[&str], ranges: &[&str]) -> NodeObject {
    NodeObject {
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        pod_cidrs: ranges.iter().map(|r| r.parse().unwrap()).collect(),
        ..NodeObject::default()
    }
}

fn make(nodes: &[(&str, NodeObject)], metric: Option<u32>) -> Plan {
    let own = ["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()];
    let on_link = [("192.168.50.11/24".parse().unwrap(), 3), ("fd00:50::11/64".parse().unwrap(), 3)];
    let around = Surroundings { node: "n1", pod_cidrs: &own, on_link: &on_link, metric };
    plan(nodes.iter().map(|(name, node)| (*name, node)), &around)
}

fn show(routes: &BTreeSet<Route>) -> Vec<String> {
    let hop = |r: &Route| match r.hop {
        Hop::Gateway { via, index, .. } => format!("{} via {via} dev {}", r.destination, index.unwrap_or(0)),
        Hop::Blackhole => format!("{} nowhere", r.destination),
        Hop::Device { .. } => "?".into(),
    };
    routes.iter().map(hop).collect()
}

#[test]
fn neighbours_get_routes() {
    let nodes = [
        ("n1", node(&["192.168.50.11"], &["10.244.1.0/24"])),
        ("n2", node(&["192.168.50.12", "fd00:50::12"], &["10.244.2.0/24", "fd00:2::/64"])),
        ("n3", node(&["172.16.0.1", "192.168.50.13"], &["10.244.3.0/24"])),
    ];
    let plan = make(&nodes, None);
    assert_eq!(plan.problems, [""; 0]);
    let expected = [
        "10.244.1.0/24 nowhere",
        "10.244.2.0/24 via 192.168.50.12 dev 3",
        "10.244.3.0/24 via 192.168.50.13 dev 3",
        "fd00:1::/64 nowhere",
        "fd00:2::/64 via fd00:50::12 dev 3",
    ];
    assert_eq!(show(&plan.routes), expected);
    assert!(make(&nodes, Some(7)).routes.iter().all(|r| r.metric == 7 && r.protocol == PROTOCOL));
}

#[test]
fn what_cannot_be_routed_is_said() {
    let nodes = [
        ("n2", node(&["172.16.0.1"], &["10.244.2.0/24"])),
        ("n3", node(&["192.168.50.13"], &["fd00:3::/64"])),
        ("n4", node(&["192.168.50.14"], &["10.244.1.128/25"])),
        ("n5", node(&["192.168.50.15"], &["10.244.5.0/24"])),
        ("n6", node(&["192.168.50.16"], &["10.244.4.0/23"])),
    ];
    let plan = make(&nodes, None);
    assert_eq!(show(&plan.routes).len(), 3, "{:?}", plan.routes);
    let expected = [
        "range 10.244.2.0/24 of node n2: its address 172.16.0.1 is behind a router: no route",
        "range fd00:3::/64 of node n3: the node has no IPv6 address: no route",
        "range 10.244.1.128/25 of node n4 overlaps 10.244.1.0/24 of node n1: no route",
        "range 10.244.4.0/23 of node n6 overlaps 10.244.5.0/24 of node n5: no route",
    ];
    assert_eq!(plan.problems, expected);
}

#[test]
fn only_the_difference_is_done_and_others_routes_are_left() {
    let wanted = make(&[("n2", node(&["192.168.50.12"], &["10.244.2.0/24"]))], None).routes;
    let range = |r: &str| r.parse().unwrap();
    let via = |a: &str| Hop::Gateway { via: a.parse().unwrap(), index: Some(3), onlink: false };
    let stale = Route::new(range("10.244.9.0/24"), via("192.168.50.19"));
    let moved = Route::new(range("10.244.2.0/24"), via("192.168.50.99"));
    let pod = Route::new(range("10.244.1.5/32"), Hop::Device { index: 9 });
    let foreign = Route { protocol: 4, ..Route::new(range("10.0.0.0/8"), via("192.168.50.1")) };
    let changes = Changes::between(&[stale, moved, pod, foreign], &wanted);
    assert_eq!(changes.remove, [stale]);
    assert_eq!(changes.replace, [Route::new(range("10.244.2.0/24"), via("192.168.50.12"))]);
    assert_eq!(changes.add.len(), 2);

    let right: Vec<_> = wanted.iter().copied().chain([pod, foreign]).collect();
    assert!(Changes::between(&right, &wanted).is_empty());
    assert_eq!(Changes::between(&right, &BTreeSet::new()).remove.len(), 3);
}
