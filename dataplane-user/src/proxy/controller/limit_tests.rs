//! Tests of the core with Services beyond the limits of `desired::limits`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dataplane_common::types::address::V4;
use dataplane_common::types::clock::Clock;
use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::{Backend, Frontend, FrontendKey, Slot, proto};
use hashbrown::HashMap;

use super::Core;
use crate::proxy::apply::memory::MemoryMaps;
use crate::proxy::desired::NodeContext;
use crate::proxy::desired::limits::MAX_FRONTENDS;
use crate::proxy::source::object::{DualAddr, Endpoint, ServiceExtra, ServicePort, SlicePort, endpoint_flags};
use crate::proxy::source::{Cause, ObjectKey, ObjectKind, ServiceObject, SliceObject, SourceEvent};

const NOW: Duration = Duration::from_secs(1000);

/// Returns a Service with one cluster IP and these numbers of ports and external addresses.
fn service(ports: u16, external: u32) -> ServiceObject {
    let port = |n: u16| ServicePort { name: format!("p{n}").into(), port: n, node_port: 0, proto: proto::TCP };
    let external_ips = (0..external).map(|n| IpAddr::from(Ipv4Addr::from_bits(0xcb00_7100 + n))).collect();
    ServiceObject {
        cluster_ips: DualAddr { v4: Some(Ipv4Addr::new(10, 96, 0, 10)), v6: None },
        ports: (1..=ports).map(port).collect(),
        extra: Some(Box::new(ServiceExtra { external_ips, ..ServiceExtra::default() })),
        ..ServiceObject::default()
    }
}

/// Returns a core with complete lists and these numbers of slots in the map, and at most.
fn core_with(memory: &MemoryMaps, max_slots: u32) -> Core {
    let mut core = Core::new(memory.tables(), Clock { jiffies_per_second: 250 }, NOW).unwrap();
    core.set_node_context(NodeContext { name: "n1".into(), ipv4: true, max_slots, ..NodeContext::default() });
    for kind in ObjectKind::ALL {
        core.handle(SourceEvent::InSync(kind));
    }
    core
}

/// Adds a Service with this many endpoints, each of which has a slot.
fn add(core: &mut Core, namespace: &str, number: u8, endpoints: u8) {
    let name = format!("s{number}");
    let ports = [ServicePort { name: "p".into(), port: 80, node_port: 0, proto: proto::TCP }].into();
    let cluster_ips = DualAddr { v4: Some(Ipv4Addr::new(10, 96, namespace.len() as u8, number)), v6: None };
    let object = ServiceObject { cluster_ips, ports, ..ServiceObject::default() };
    core.handle(SourceEvent::Service(ObjectKey::new(namespace, &name), Some(object)));
    set_endpoints(core, namespace, number, 0, endpoints);
}

/// Gives a Service the endpoints from `first` on.
fn set_endpoints(core: &mut Core, namespace: &str, number: u8, first: u8, endpoints: u8) {
    let flags = endpoint_flags::READY | endpoint_flags::SERVING;
    let endpoint = |n| Endpoint { addr: Ipv4Addr::new(10, 1, number, n).into(), zones: None, node: 0, flags };
    let slice = SliceObject {
        service: format!("s{number}").into(),
        ports: [SlicePort { name: "p".into(), port: 80, proto: proto::TCP }].into(),
        endpoints: (first..first + endpoints).map(endpoint).collect(),
        triggered: 0,
        family: IpFamily::V4,
    };
    core.handle(SourceEvent::Slice(ObjectKey::new(namespace, &format!("s{number}-1")), Some(slice)));
}

fn causes(core: &mut Core) -> Vec<(Cause, String)> {
    core.snapshot().rejections.iter().map(|r| (r.cause, r.to_string())).collect()
}

#[test]
fn service_and_namespace_have_a_share_of_the_slots() {
    let memory = MemoryMaps::new(10_000, 10_000);
    let mut core = core_with(&memory, 1600);
    add(&mut core, "shop", 0, 101);
    core.reconcile(NOW);
    let text = "Service shop/s0: the Service needs more than 100 slots, and one Service has no more; its entries stay \
                as they are";
    assert_eq!(causes(&mut core), [(Cause::LimitExceeded, text.to_owned())]);
    assert_eq!(core.snapshot().failing, 0, "nothing to try again");
    set_endpoints(&mut core, "shop", 0, 0, 100);
    for number in 1..5 {
        add(&mut core, "shop", number, 100);
    }
    core.reconcile(NOW);
    assert_eq!(core.snapshot().slots, 400);
    assert!(
        causes(&mut core)[0]
            .1
            .ends_with("needs more than 0 slots, and its namespace has no more; its entries stay as they are")
    );
    // Others are not concerned, and a Service of the namespace can exchange its endpoints.
    add(&mut core, "other", 9, 50);
    set_endpoints(&mut core, "shop", 1, 100, 100);
    core.reconcile(NOW);
    assert_eq!((core.snapshot().rejected, core.snapshot().slots), (1, 550), "100 of them are at rest");
    // Another one takes the place of a deleted one when it is tried again.
    core.handle(SourceEvent::Service(ObjectKey::new("shop", "s2"), None));
    core.reconcile(NOW);
    core.reconcile(NOW + Duration::from_secs(60));
    assert_eq!(core.snapshot().rejected, 0);
}

/// Scenario of a tenant with several namespaces, each of which has its share.
#[test]
fn served_service_can_exchange_its_endpoints_while_others_fill_the_slots() {
    let memory = MemoryMaps::sized(10_000, 1600, 10_000);
    let mut core = core_with(&memory, 1600);
    add(&mut core, "kube-system", 10, 2);
    core.reconcile(NOW);
    for namespace in ["a", "bb", "ccc", "dddd"] {
        for number in 0..5 {
            add(&mut core, namespace, number, 100);
        }
    }
    core.reconcile(NOW);
    let filled = core.snapshot();
    assert!(filled.slots <= 1400 && filled.slots > 1300 && filled.insufficient.contains_key("slots"), "{filled:?}");
    // Small changes of served Services use the reserve, growth and new Services do not.
    set_endpoints(&mut core, "kube-system", 10, 100, 3);
    set_endpoints(&mut core, "a", 0, 100, 100);
    add(&mut core, "kube-system", 11, 90);
    core.reconcile(NOW);
    let refused = |core: &mut Core, name: &str| causes(core).iter().any(|(_, text)| text.contains(name));
    assert!(!refused(&mut core, "kube-system/s10") && !refused(&mut core, "a/s0:"));
    assert!(refused(&mut core, "kube-system/s11"));
    let frontends = memory.frontends4.typed::<FrontendKey<V4>, Frontend>();
    let at = |octets| frontends.iter().find(|(key, _)| key.addr == V4 { octets }).unwrap().1.internal;
    let table = at([10, 96, 11, 10]);
    let slots: Vec<Slot> = memory.slots.elements(table.base, table.len);
    let backends: HashMap<u32, Backend> = memory.backends.typed().into_iter().collect();
    let ends: Vec<_> = slots.iter().map(|slot| backends[&slot.backend.to_be()].addr[15]).collect();
    assert_eq!(ends, [100, 101, 102], "it leads to the new endpoints");
}

#[test]
fn large_services_do_not_hold_up_small_ones() {
    let memory = MemoryMaps::new(60_000, 60_000);
    let mut core = core_with(&memory, 0);
    core.reconcile(NOW);
    let large = |n: u8| {
        let cluster_ips = DualAddr { v4: Some(Ipv4Addr::new(10, 97, 0, n)), v6: None };
        ServiceObject { cluster_ips, ..service(50, 0) }
    };
    for n in 0..3 {
        core.handle(SourceEvent::Service(ObjectKey::new("big", &format!("s{n}")), Some(large(n))));
        set_endpoints(&mut core, "big", n, 0, 100);
    }
    add(&mut core, "shop", 1, 2);
    core.reconcile(NOW);
    assert_eq!(
        (core.snapshot().service_ports, core.has_postponed()),
        (50 + 1, true),
        "one of three, and the small one"
    );
    core.reconcile(NOW);
    assert!(core.has_work(NOW) && core.has_postponed());
    core.reconcile(NOW);
    assert_eq!((core.snapshot().service_ports, core.has_postponed()), (3 * 50 + 1, false));
}

#[test]
fn service_beyond_a_limit_keeps_what_it_has_and_says_so() {
    let memory = MemoryMaps::new(10_000, 1000);
    let mut core = Core::new(memory.tables(), Clock { jiffies_per_second: 250 }, NOW).unwrap();
    core.set_node_context(NodeContext { name: "n1".into(), ipv4: true, ..NodeContext::default() });
    let key = ObjectKey::new("shop", "web");
    core.handle(SourceEvent::Service(key.clone(), Some(service(1, 1))));
    for kind in ObjectKind::ALL {
        core.handle(SourceEvent::InSync(kind));
    }
    core.reconcile(NOW);
    assert_eq!(core.snapshot().frontends.0, 2);

    core.handle(SourceEvent::Service(key.clone(), Some(service(40, 1 + MAX_FRONTENDS as u32 / 40))));
    core.reconcile(NOW);
    let snapshot = core.snapshot();
    assert_eq!((snapshot.frontends.0, snapshot.failing), (2, 0), "nothing to try again");
    assert_eq!((snapshot.rejected, snapshot.rejections[0].cause), (1, Cause::LimitExceeded));
    let text = snapshot.rejections[0].to_string();
    assert!(text.starts_with("Service shop/web: the Service has 4160 frontends (ports times addresses); at"), "{text}");

    core.handle(SourceEvent::Service(key.clone(), Some(service(40, 1))));
    core.reconcile(NOW);
    assert_eq!((core.snapshot().frontends.0, core.snapshot().rejected), (80, 0));
    core.handle(SourceEvent::Service(key.clone(), Some(service(40, 4000))));
    core.reconcile(NOW);
    core.handle(SourceEvent::Service(key, None));
    core.reconcile(NOW);
    assert_eq!((core.snapshot().frontends.0, core.snapshot().rejected), (0, 0));
}
