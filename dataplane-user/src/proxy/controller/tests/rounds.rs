//! Tests of single changes of objects: the map operations, and the maps after them.

use std::sync::Arc;
use std::time::Duration;

use dataplane_common::types::address::octets16;
use dataplane_common::types::pod::address_kind;

use super::view::view;
use super::*;
use crate::proxy::apply::memory::MemoryMaps;
use crate::proxy::reconcile::ids::ServiceId;
use crate::proxy::source::object::{Scheduling, ServiceExtra, Weights};

#[test]
fn rule_2_1_3_nothing_is_written_before_everything_is_in_sync() {
    let memory = memory();
    let mut core = Core::new(memory.tables(), CLOCK, NOW).unwrap();
    core.handle(SourceEvent::Service(key("web"), Some(service(&["10.96.0.10"], &[("http", 80)]))));
    let steps: [fn(&mut Core); 4] = [
        |c| c.handle(SourceEvent::InSync(ObjectKind::Service)),
        |c| c.handle(SourceEvent::InSync(ObjectKind::Slice)),
        |c| c.handle(SourceEvent::InSync(ObjectKind::Node)),
        |c| c.set_node_context(context()),
    ];
    for step in steps {
        core.reconcile(NOW);
        assert_eq!(core.operations().total(), 0);
        assert!(!core.snapshot().waiting_for.is_empty());
        step(&mut core);
    }
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends.len(), 1);
    assert!(core.snapshot().waiting_for.is_empty());
}

#[test]
fn service_frontends_resolve_to_its_endpoints() {
    let memory = memory();
    serving(&memory);
    let seen = view(&memory);
    let (frontend, leads) = seen.frontends.first_key_value().unwrap();
    assert_eq!(*frontend, (ip("10.96.0.10"), 80, 6));
    assert_eq!(leads.service, "shop/web:http");
    let endpoints: Vec<_> = leads.internal.iter().map(|b| (b.0, b.1)).collect();
    assert_eq!(endpoints, [(ip("10.1.0.5"), 8080), (ip("10.1.0.6"), 8080)]);
    assert_eq!(seen.addresses[&ip("10.96.0.10")], address_kind::SERVICE);
    assert_eq!(seen.addresses[&ip("192.0.2.1")], address_kind::NODE);
}

#[test]
fn unchanged_objects_cause_no_writes() {
    let memory = memory();
    let mut core = serving(&memory);
    let before = core.operations().total();
    core.handle(SourceEvent::Service(key("web"), Some(service(&["10.96.0.10"], &[("http", 80)]))));
    core.reconcile(NOW);
    core.mark(ServiceId::new(0));
    core.reconcile(NOW);
    assert_eq!(core.operations().total(), before);
}

#[test]
fn restart_with_unchanged_state_writes_nothing() {
    let memory = memory();
    let mut core1 = serving(&memory);
    let mut local = service(&["10.96.0.11", "fd00:96::11"], &[("a", 1), ("b", 2)]);
    local.external = crate::proxy::source::object::Policy::Local;
    local.affinity = 30;
    local.ports[0].node_port = 30_001;
    core1.handle(SourceEvent::Service(key("local"), Some(local.clone())));
    let flags = READY | endpoint_flags::LOCAL;
    let ends = slice_of("local", &[("a", 1001), ("b", 1002)], &[("10.1.0.9", flags), ("10.1.0.5", READY)]);
    core1.handle(SourceEvent::Slice(key("local-1"), Some(ends.clone())));
    core1.reconcile(NOW);
    let before = view(&memory);
    assert_eq!(before.frontends.len(), 1 + 4 + 4, "with node ports at the node's addresses and at loopback");
    for loopback in ["127.0.0.1", "::1"].map(ip) {
        assert!(before.frontends.contains_key(&(loopback, 30_001, 6)));
        assert!(!before.addresses.contains_key(&loopback), "no packet may find it");
    }
    let mut core2 = core(&memory, NOW);
    core2.handle(SourceEvent::Service(key("local"), Some(local)));
    core2.handle(SourceEvent::Slice(key("local-1"), Some(ends)));
    core2.handle(SourceEvent::Service(key("web"), Some(service(&["10.96.0.10"], &[("http", 80)]))));
    core2.handle(SourceEvent::Slice(key("web-1"), Some(slice("web", &[("http", 8080)], &["10.1.0.5", "10.1.0.6"]))));
    in_sync(&mut core2);
    core2.reconcile(NOW);
    assert_eq!(core2.operations().total(), 0, "{:?}", core2.operations());
    assert_eq!(view(&memory), before);
}

#[test]
fn restart_removes_services_deleted_in_between() {
    let memory = memory();
    serving(&memory);
    let mut core = core(&memory, NOW);
    core.handle(SourceEvent::Service(key("other"), Some(service(&["10.96.0.10"], &[("http", 80)]))));
    in_sync(&mut core);
    core.reconcile(NOW);
    let seen = view(&memory);
    assert_eq!(seen.names.iter().collect::<Vec<_>>(), ["shop/other:http"]);
    assert_eq!(seen.frontends.len(), 1, "its address was free for the other Service");
    assert!(seen.backends.is_empty());
}

#[test]
fn endpoint_state_change_writes_one_backend_and_no_table() {
    let memory = memory();
    let mut core = serving(&memory);
    let before = *core.operations();
    // A third endpoint that is not ready: a backend, but in no table.
    let ends = [("10.1.0.5", READY), ("10.1.0.6", READY), ("10.1.0.7", 0)];
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice_of("web", &[("http", 8080)], &ends))));
    core.reconcile(NOW);
    let after = *core.operations();
    assert_eq!((after.backends - before.backends, after.total() - before.total()), (1, 1));
}

#[test]
fn endpoint_keeps_its_id_and_ended_endpoint_gets_new_generation() {
    let memory = memory();
    let mut core = serving(&memory);
    let backends = || memory.tables().backends;
    let (first, second) = (backends().get(1).unwrap(), backends().get(2).unwrap());
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice("web", &[("http", 8080)], &["10.1.0.6", "10.1.0.9"]))));
    core.reconcile(NOW);
    assert_eq!(backends().get(2).unwrap(), second);
    let ended = backends().get(1).unwrap();
    assert_eq!(ended.state, 0);
    assert_ne!(ended.generation, first.generation);
    assert_eq!(backends().get(3).unwrap().addr, octets16(ip("10.1.0.9")));
}

#[test]
fn new_slot_table_uses_new_slots_and_old_slots_rest() {
    let memory = memory();
    let mut core = serving(&memory);
    let table = || memory.frontends4.typed::<[u8; 8], dataplane_common::types::service::Frontend>()[0].1.internal;
    let mut seen = vec![table()];
    for i in 0..4_u8 {
        let addr = format!("10.1.1.{i}");
        core.handle(SourceEvent::Slice(key("web-1"), Some(slice("web", &[("http", 8080)], &["10.1.0.5", &addr]))));
        core.reconcile(NOW);
        assert!(seen.iter().all(|t| t.base != table().base), "{seen:?} {:?}", table());
        seen.push(table());
    }
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice("web", &[("http", 8080)], &["10.1.0.5", "10.1.2.1"]))));
    core.reconcile(NOW + Duration::from_secs(2));
    assert_eq!(table().base, seen[0].base, "after the grace time space is used again");
}

#[test]
fn renamed_port_keeps_its_frontend_without_gap() {
    let memory = memory();
    let mut core = serving(&memory);
    let watched = memory.clone();
    memory.observe(Some(Arc::new(move || assert_eq!(view(&watched).frontends.len(), 1))));
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice("web", &[("web", 8080)], &["10.1.0.5"]))));
    core.handle(SourceEvent::Service(key("web"), Some(service(&["10.96.0.10"], &[("web", 80)]))));
    core.reconcile(NOW);
    memory.observe(None);
    assert_eq!(view(&memory).names.iter().collect::<Vec<_>>(), ["shop/web:web"]);
}

#[test]
fn first_owner_keeps_address_and_successor_gets_it_after_deletion() {
    let memory = memory();
    let mut core = serving(&memory);
    let extra = ServiceExtra { external_ips: [ip("203.0.113.1")].into(), ..ServiceExtra::default() };
    let with_external =
        |cluster| ServiceObject { extra: Some(Box::new(extra.clone())), ..service(&[cluster], &[("http", 80)]) };
    core.handle(SourceEvent::Service(key("first"), Some(with_external("10.96.0.20"))));
    core.reconcile(NOW);
    core.handle(SourceEvent::Service(key("second"), Some(with_external("10.96.0.21"))));
    core.reconcile(NOW);
    let owner = || view(&memory).frontends[&(ip("203.0.113.1"), 80, 6)].service.clone();
    assert_eq!(owner(), "shop/first:http");
    let snapshot = core.snapshot();
    assert_eq!(
        snapshot.rejections[0].to_string(),
        "Service shop/second, spec.ports: 203.0.113.1 port 80 is taken by Service shop/first"
    );
    assert_eq!(view(&memory).frontends.len(), 4, "the other frontends of the second are served");
    core.handle(SourceEvent::Service(key("first"), None));
    core.reconcile(NOW);
    assert_eq!(owner(), "shop/second:http");
    assert_eq!(core.snapshot().rejected, 0);
}

#[test]
fn older_claimant_wins_at_start() {
    let memory = memory();
    let mut core = core(&memory, NOW);
    let created = |created| ServiceObject { created, ..service(&["10.96.0.10"], &[("http", 80)]) };
    core.handle(SourceEvent::Service(key("a"), Some(created(200))));
    core.handle(SourceEvent::Service(key("b"), Some(created(100))));
    in_sync(&mut core);
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends.values().next().unwrap().service, "shop/b:http");
}

#[test]
fn external_address_yields_to_cluster_ip() {
    let memory = memory();
    let mut core = serving(&memory);
    let extra = ServiceExtra { external_ips: [ip("10.96.0.77")].into(), ..ServiceExtra::default() };
    let greedy = ServiceObject { extra: Some(Box::new(extra)), ..service(&["10.96.0.20"], &[("http", 80)]) };
    core.handle(SourceEvent::Service(key("greedy"), Some(greedy)));
    core.reconcile(NOW);
    core.handle(SourceEvent::Service(key("dns"), Some(service(&["10.96.0.77"], &[("dns", 80), ("more", 81)]))));
    core.reconcile(NOW);
    let services: Vec<_> = view(&memory).frontends.values().map(|f| f.service.clone()).collect();
    assert_eq!(services, ["shop/web:http", "shop/greedy:http", "shop/dns:dns", "shop/dns:more"]);
    assert!(core.snapshot().rejections[0].to_string().contains("is the cluster IP of another Service"));
    core.handle(SourceEvent::Service(key("dns"), None));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends.len(), 3);
}

#[test]
fn external_address_is_removed_while_inside_a_service_cidr() {
    let memory = memory();
    let mut core = serving(&memory);
    let extra = ServiceExtra { external_ips: [ip("10.112.0.9")].into(), ..ServiceExtra::default() };
    let greedy = ServiceObject { extra: Some(Box::new(extra)), ..service(&["10.96.0.20"], &[("http", 80)]) };
    core.handle(SourceEvent::Service(key("greedy"), Some(greedy)));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends.len(), 3);
    core.handle(SourceEvent::ServiceCidr("extra".into(), Some(["10.112.0.0/16".parse().unwrap()].into())));
    core.reconcile(NOW);
    assert_eq!(core.service_ranges().len(), 1);
    assert_eq!(view(&memory).frontends.len(), 2);
    assert!(core.snapshot().rejections[0].to_string().contains("10.112.0.9 is in the range of cluster IPs"));
    // gone while the watch was interrupted
    core.handle(SourceEvent::Relist(ObjectKind::ServiceCidr));
    core.handle(SourceEvent::InSync(ObjectKind::ServiceCidr));
    core.reconcile(NOW);
    assert_eq!((core.service_ranges().len(), view(&memory).frontends.len()), (0, 3));
}

#[test]
fn slice_of_another_namespace_is_ignored() {
    let memory = memory();
    let mut core = serving(&memory);
    let foreign = ObjectKey::new("evil", "web-2");
    core.handle(SourceEvent::Slice(foreign, Some(slice("web", &[("http", 8080)], &["10.1.0.66"]))));
    core.reconcile(NOW);
    assert_eq!(view(&memory).backends.len(), 2);
}

/// Two agents, and an agent that restarts, would serve different endpoints otherwise.
#[test]
fn equal_entries_of_an_endpoint_do_not_depend_on_their_order_of_arrival() {
    let hinted = |zone: &str| {
        let mut slice = slice("web", &[("http", 8080)], &["10.1.0.5", "10.1.0.6"]);
        slice.endpoints[0].zones = Some(Arc::new([zone.into()].into()));
        slice.endpoints[1].zones = Some(Arc::new(["b".into()].into()));
        slice
    };
    for order in [["web-1", "web-2"], ["web-2", "web-1"]] {
        let memory = memory();
        let mut core = core(&memory, NOW);
        core.set_node_context(NodeContext { zone: Some("a".into()), ..context() });
        core.handle(SourceEvent::Service(key("web"), Some(service(&["10.96.0.10"], &[("http", 80)]))));
        for name in order {
            let zone = if name == "web-1" { "a" } else { "c" };
            core.handle(SourceEvent::Slice(key(name), Some(hinted(zone))));
        }
        in_sync(&mut core);
        core.reconcile(NOW);
        let seen = view(&memory);
        let internal = &seen.frontends.values().next().unwrap().internal;
        assert_eq!(
            internal.iter().map(|b| b.0).collect::<Vec<_>>(),
            [ip("10.1.0.5")],
            "{order:?}: that of web-1 counts"
        );
    }
}

#[test]
fn slice_moves_between_services() {
    let memory = memory();
    let mut core = serving(&memory);
    core.handle(SourceEvent::Service(key("api"), Some(service(&["10.96.0.12"], &[("http", 80)]))));
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice("api", &[("http", 8080)], &["10.1.0.5"]))));
    core.reconcile(NOW);
    let seen = view(&memory);
    assert_eq!(seen.backends.len(), 1);
    assert_eq!(seen.backends.first().unwrap().0, "shop/api:http");
}

#[test]
fn objects_missing_from_a_complete_relist_are_removed() {
    let memory = memory();
    let mut core = serving(&memory);
    core.handle(SourceEvent::Service(key("api"), Some(service(&["10.96.0.12"], &[("http", 80)]))));
    core.reconcile(NOW);
    core.handle(SourceEvent::Relist(ObjectKind::Service));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends.len(), 2);
    core.handle(SourceEvent::Relist(ObjectKind::Service));
    core.handle(SourceEvent::Service(key("api"), Some(service(&["10.96.0.12"], &[("http", 80)]))));
    core.handle(SourceEvent::InSync(ObjectKind::Service));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends.len(), 1);
    core.handle(SourceEvent::Relist(ObjectKind::Slice));
    core.handle(SourceEvent::InSync(ObjectKind::Slice));
    core.handle(SourceEvent::Service(key("web"), Some(service(&["10.96.0.10"], &[("http", 80)]))));
    core.reconcile(NOW);
    assert!(view(&memory).backends.is_empty());
}

#[test]
fn address_freed_by_relist_goes_to_waiting_service() {
    let memory = memory();
    let mut core = serving(&memory);
    let extra = ServiceExtra { external_ips: [ip("10.96.0.10")].into(), ..ServiceExtra::default() };
    let api = ServiceObject { extra: Some(Box::new(extra)), ..service(&["10.96.0.12"], &[("http", 81)]) };
    core.handle(SourceEvent::Service(key("api"), Some(api.clone())));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends.len(), 2, "10.96.0.10 is the cluster IP of web");
    // web went while the watch was interrupted
    core.handle(SourceEvent::Relist(ObjectKind::Service));
    core.handle(SourceEvent::Service(key("api"), Some(api)));
    core.handle(SourceEvent::InSync(ObjectKind::Service));
    core.reconcile(NOW);
    assert_eq!(view(&memory).frontends.len(), 2, "10.96.0.12 and 10.96.0.10");
    assert!(core.snapshot().rejections.is_empty());
}

#[test]
fn new_node_address_becomes_a_node_entry() {
    let memory = memory();
    let mut core = serving(&memory);
    let mut moved = context();
    moved.addresses.push(ip("198.51.100.9"));
    moved.addresses.retain(|a| *a != ip("192.0.2.1"));
    core.set_node_context(moved);
    core.reconcile(NOW);
    let addresses = view(&memory).addresses;
    assert_eq!(addresses.get(&ip("198.51.100.9")), Some(&address_kind::NODE));
    assert_eq!(addresses.get(&ip("192.0.2.1")), None);
}

#[test]
fn health_checks_count_ready_local_endpoints() {
    let memory = memory();
    let mut core = serving(&memory);
    let extra = ServiceExtra { health_check_node_port: 32_000, ..ServiceExtra::default() };
    let checked = ServiceObject { extra: Some(Box::new(extra)), ..service(&["10.96.0.10"], &[("http", 80)]) };
    core.handle(SourceEvent::Service(key("web"), Some(checked)));
    let leaving = endpoint_flags::SERVING | endpoint_flags::TERMINATING | endpoint_flags::LOCAL;
    let ends = [("10.1.0.5", READY | endpoint_flags::LOCAL), ("10.1.0.6", leaving), ("10.1.0.7", READY)];
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice_of("web", &[("http", 8080)], &ends))));
    core.reconcile(NOW);
    assert_eq!(core.snapshot().health_checks[&32_000].local_endpoints, [1, 0]);
    let mut draining = service(&["10.96.0.10"], &[("http", 80)]);
    let weights = Weights { networks: [(ip("10.1.0.5").into(), 0)].into(), ..Weights::default() };
    let scheduling = Some(Box::new(Scheduling { weights, ..Scheduling::default() }));
    draining.extra =
        Some(Box::new(ServiceExtra { health_check_node_port: 32_000, scheduling, ..ServiceExtra::default() }));
    core.handle(SourceEvent::Service(key("web"), Some(draining)));
    core.reconcile(NOW);
    assert_eq!(
        core.snapshot().health_checks[&32_000].local_endpoints,
        [0, 0],
        "one that drains is no reason to come here"
    );
    core.handle(SourceEvent::Service(key("web"), None));
    core.reconcile(NOW);
    assert!(core.snapshot().health_checks.is_empty());
}

#[test]
fn deleting_all_objects_empties_all_maps() {
    let memory: MemoryMaps = memory();
    let mut core = serving(&memory);
    core.handle(SourceEvent::Service(key("web"), None));
    core.reconcile(NOW);
    core.handle(SourceEvent::Slice(key("web-1"), None));
    core.reconcile(NOW);
    let seen = view(&memory);
    assert!(seen.frontends.is_empty() && seen.backends.is_empty() && seen.names.is_empty(), "{seen:?}");
    assert_eq!(seen.addresses.len(), 2, "the node's own");
    assert_eq!(core.services().count(), 0);
}
