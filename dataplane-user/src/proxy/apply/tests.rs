//! Tests of the map writer: the order of writes, and the entries that are written despite a
//! failure.

use std::sync::{Arc, Mutex};

use dataplane_common::types::service::{Frontend, FrontendKey, SlotTable};

use super::memory::{MemoryMap, MemoryMaps};
use super::*;
use crate::proxy::reconcile::ids::ServiceId;

fn key(n: u8) -> FrontendKey<V4> {
    FrontendKey { addr: V4 { octets: [10, 96, 0, n] }, port: 80, proto: 6, pad: 0 }
}

fn frontend(service_port: u32) -> Frontend {
    let (internal, external) = (SlotTable::default(), SlotTable::default());
    Frontend { service_port, affinity_ticks: 0, internal, external, flags: 0, scheduler: 0, pad: 0 }
}

fn range(n: u8) -> Prefix<SourceRange<V4>> {
    Prefix { len: 56, data: SourceRange { service_port: 1, client: V4 { octets: [192, 0, n, 0] } } }
}

fn backend(state: u8) -> Backend {
    Backend { addr: [0; 16], port: 1, state, pad: 0, generation: 1, service_port: 1, weight: 1 }
}

/// Returns a plan that has operations of every phase, for two Services.
fn plan() -> Plan {
    let mut plan = Plan::default();
    for n in [1, 2_u8] {
        let (id, service) = (u32::from(n), ServiceId::new(u32::from(n)));
        plan.backends.push(service, id, backend(1));
        plan.slots.ranges.push((id * 10, 1, service));
        plan.slots.ids.push(id);
        plan.names.sets.push(service, id, ServiceName { name: [0; dataplane_common::types::service::NAME_LEN] });
        plan.v4.sources.sets.push(service, range(n), 1);
        plan.v4.addresses.sets.push(service, key(n).addr, AddressInfo { ifindex: 0, kind: 2, flags: 0, mac: [0; 6] });
        plan.v4.frontends.sets.push(service, key(n), frontend(id));
        plan.v4.frontends.removals.push(service, key(n + 100));
        plan.v4.sources.removals.push(service, range(n + 100));
        plan.ended_backends.push(service, id + 50, backend(0));
    }
    plan
}

#[test]
fn frontends_come_after_all_that_they_lead_to() {
    let memory = MemoryMaps::new(10, 100);
    let order = Arc::new(Mutex::new(Vec::new()));
    let (watched, seen) = (memory.clone(), order.clone());
    memory.observe(Some(Arc::new(move || {
        let counts = [
            &watched.backends,
            &watched.slots,
            &watched.services,
            &watched.sources4,
            &watched.addresses4,
            &watched.frontends4,
        ];
        seen.lock().unwrap().push(counts.map(|m| m.content().len()));
    })));
    let mut writer = MapWriter::new(memory.tables());
    assert!(writer.apply(&plan()).is_complete());
    let order = order.lock().unwrap();
    let first_frontend = order.iter().position(|c| c[5] > 0).unwrap();
    assert_eq!(order[first_frontend], [2, 2, 2, 2, 2, 1]);
    assert_eq!(
        *writer.operations(),
        Operations { services: 2, frontends: 4, sources: 4, addresses: 2, slots: 2, backends: 4 }
    );
    assert_eq!(writer.operations().total(), 18);
}

#[test]
fn failure_stops_its_service_and_no_other() {
    for map in ["backends", "slots", "services", "source_ranges4", "addresses4", "frontends4"] {
        let memory = MemoryMaps::new(10, 100);
        memory.fail_next(map);
        let failures = MapWriter::new(memory.tables()).apply(&plan()).failures;
        assert_eq!(failures.keys().collect::<Vec<_>>(), [&ServiceId::new(1)], "{map}");
        assert!(
            failures[&ServiceId::new(1)].to_string().starts_with(&format!("map {map}: ")),
            "{}",
            failures[&ServiceId::new(1)]
        );
        let keys: Vec<_> = memory.frontends4.typed::<FrontendKey<V4>, Frontend>();
        assert_eq!(keys, [(key(2), frontend(2))], "{map}");
    }
}

#[test]
fn plan_that_failed_in_part_can_be_applied_again() {
    let undisturbed = MemoryMaps::new(10, 100);
    assert!(MapWriter::new(undisturbed.tables()).apply(&plan()).is_complete());
    for map in ["backends", "slots", "services", "source_ranges4", "addresses4", "frontends4"] {
        let memory = MemoryMaps::new(10, 100);
        let mut writer = MapWriter::new(memory.tables());
        memory.fail_next(map);
        let outcome = writer.apply(&plan());
        assert!(outcome.failed(ServiceId::new(1)) && !outcome.failed(ServiceId::new(2)), "{map}");
        assert!(writer.apply(&plan()).is_complete(), "{map}");
        let contents = |m: &MemoryMaps| {
            [&m.services, &m.sources4, &m.addresses4, &m.frontends4, &m.slots, &m.backends].map(MemoryMap::content)
        };
        assert_eq!(contents(&memory), contents(&undisturbed), "{map}");
    }
}

#[test]
fn array_write_beyond_the_end_fails_its_service_and_is_not_counted() {
    // two backends and one slot of Service 2 are beyond the end
    let memory = MemoryMaps::sized(10, 20, 52);
    let mut writer = MapWriter::new(memory.tables());
    let outcome = writer.apply(&plan());
    assert_eq!(outcome.failures.keys().collect::<Vec<_>>(), [&ServiceId::new(2)]);
    assert!(
        outcome.failures[&ServiceId::new(2)].to_string().starts_with("map slots: 1 elements from 20 on"),
        "{outcome:?}"
    );
    assert_eq!((writer.operations().backends, writer.operations().slots), (3, 1));
    assert_eq!(memory.frontends4.typed::<FrontendKey<V4>, Frontend>(), [(key(1), frontend(1))]);
}

#[test]
fn full_map_is_reported() {
    let memory = MemoryMaps::new(1, 100);
    let failures = MapWriter::new(memory.tables()).apply(&plan()).failures;
    assert_eq!(failures[&ServiceId::new(2)].to_string(), "map services is full");
    assert!(!failures.contains_key(&ServiceId::NODE));
}
