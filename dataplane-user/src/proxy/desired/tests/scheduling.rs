//! Tests of schedulers and weights of Services.
//!
//! The settings are given as decoded annotations; their syntax is tested in `decode`.

use dataplane_common::types::service::scheduler::{MH, RR, WRR};

use super::*;
use crate::proxy::source::object::{Scheduling, Weights, name_hash};

fn with(scheduling: Scheduling) -> ServiceObject {
    let extra = ServiceExtra { scheduling: Some(Box::new(scheduling)), ..ServiceExtra::default() };
    ServiceObject { extra: Some(Box::new(extra)), ..web() }
}

fn weighted(networks: &[(&str, u16)], others: Option<u16>) -> ServiceObject {
    let networks = networks.iter().map(|(n, w)| (n.parse().unwrap(), *w)).collect();
    with(Scheduling { weights: Weights { networks, nodes: Box::default(), others }, ..Scheduling::default() })
}

#[test]
fn scheduler_of_the_service_overrides_the_nodes_default() {
    let mut node = context();
    (node.node.scheduler, node.node.maglev_size) = (WRR, 251);
    let derive = |s: &ServiceObject| {
        let desired = service(&ObjectKey::new("shop", "web"), s, [].iter(), &node, |_| false);
        (desired.ports[0].scheduler, desired.ports[0].maglev_size)
    };
    assert_eq!(derive(&web()), (WRR, 251));
    assert_eq!(derive(&with(Scheduling { scheduler: Some(RR), ..Scheduling::default() })), (RR, 251));
    let both = Scheduling { scheduler: Some(MH), maglev_size: Some(1021), ..Scheduling::default() };
    assert_eq!(derive(&with(both)), (MH, 1021));
}

#[test]
fn all_frontends_hash_ports_if_one_does() {
    let mut s = exposed(Policy::Cluster);
    s.extra.as_mut().unwrap().scheduling = Some(Box::new(Scheduling { hash_port: true, ..Scheduling::default() }));
    let port = one_port(&s, &[]);
    assert!(port.frontends.iter().all(|f| f.flags & frontend_flags::HASH_PORT != 0));
    let port = one_port(&exposed(Policy::Cluster), &[]);
    assert!(port.frontends.iter().all(|f| f.flags & frontend_flags::HASH_PORT == 0));
}

#[test]
fn most_specific_weight_is_used() {
    let mut s = weighted(&[("10.1.7.9/32", 6), ("10.1.7.0/24", 5), ("10.1.0.0/16", 4)], Some(2));
    let weights = &mut s.extra.as_mut().unwrap().scheduling.as_mut().unwrap().weights;
    weights.nodes = [(name_hash("n1"), 3)].into();
    let mut web_slice = slice(&[
        ("10.1.0.5", READY),
        ("10.1.7.8", READY),
        ("10.1.7.9", READY),
        ("10.2.0.1", READY),
        ("10.2.0.2", READY),
    ]);
    for (e, node) in web_slice.endpoints.iter_mut().zip(["n1", "n1", "n1", "n1", "n2"]) {
        e.node = name_hash(node);
    }
    let port = one_port(&s, &[web_slice]);
    assert_eq!(port.backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [4, 5, 6, 3, 2]);
    let port = one_port(&weighted(&[("10.1.7.9/32", 6)], None), &[slice(&[("10.1.0.5", READY)])]);
    assert_eq!(port.backends[0].weight, 1, "the default weight");
}

#[test]
fn weight_0_keeps_existing_flows_and_gets_no_new_ones() {
    let s = weighted(&[("10.1.0.5/32", 0)], None);
    let port = one_port(&s, &[slice(&[("10.1.0.5", READY | LOCAL), ("10.1.0.6", READY)])]);
    assert_eq!(members(&port, sets::CLUSTER), ["10.1.0.6"]);
    let draining = &port.backends[0];
    assert_ne!(draining.state & state::LISTED, 0);
    assert_ne!(draining.state & state::SERVING, 0);
    assert_eq!(draining.state & (state::INTERNAL | state::EXTERNAL), 0, "affinity does not use it any more");
}

/// A draining endpoint must not keep clients of its zone or node from endpoints elsewhere.
#[test]
fn weight_0_does_not_count_for_topology_or_policy() {
    let s = weighted(&[("10.1.0.5/32", 0)], None);
    let zones = zoned(&[("10.1.0.5", READY, &["z1"]), ("10.1.0.6", READY, &["z2"])]);
    assert_eq!(members(&one_port(&s, &[zones]), sets::CLUSTER), ["10.1.0.6"]);
    let mut s = weighted(&[("10.1.0.5/32", 0)], None);
    s.internal = Policy::Local;
    let web_slice = slice(&[("10.1.0.5", READY | LOCAL), ("10.1.0.6", LEAVING | LOCAL)]);
    assert_eq!(members(&one_port(&s, &[web_slice]), sets::LOCAL), ["10.1.0.6"], "the terminating one still serves");
    let all = weighted(&[], Some(0));
    assert_eq!(members(&one_port(&all, &[slice(&[("10.1.0.5", READY)])]), sets::CLUSTER), [""; 0]);
}
