//! Tests of assignment, diff and restore on one allocator, without maps and without the controller.
//!
//! `publish` does to one Service what the controller's round does: assign, plan, commit. `contents`
//! turns the planned operations into the tables that an agent finds after a restart.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use dataplane_common::types::clock::{Clock, TICK_SHIFT};
use dataplane_common::types::pod::address_kind;
use dataplane_common::types::service::{SlotTable, backend_state as state, frontend_flags, proto, scheduler};

use super::assign::affinity_ticks;
use super::diff::{plan_tables, port_name};
use super::ids::{BackendId, Generation, ServiceId, ServicePortId};
use super::plan::{Plan, Sets};
use super::restore::{Restored, TableContents, restore};
use super::{Allocator, Assigned, Capacities, Decisions, Ownership, PublishedPort, Refusal, assign};
use crate::proxy::desired::{Desired, DesiredBackend, DesiredFrontend, DesiredPort, FrontendAddr, sets};

const NOW: Duration = Duration::from_secs(100);
/// The times of invariant I2 in ARCHITECTURE.md.
const SLOTS_REST: Duration = Duration::from_secs(2);
const BACKENDS_REST: Duration = Duration::from_secs(5);
const CLOCK: Clock = Clock { jiffies_per_second: 250 };
const WEB: ServiceId = ServiceId::new(1);
const API: ServiceId = ServiceId::new(2);

const CAPACITIES: Capacities =
    Capacities { services: 8, frontends4: 8, frontends6: 8, sources4: 8, sources6: 8, backends: 16, slots: 64 };

const fn v4(octets: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_octets(octets))
}

const fn cluster_ip(port: u16) -> FrontendAddr {
    FrontendAddr { addr: v4([10, 96, 0, 10]), port, proto: proto::TCP }
}

fn backend(last: u8) -> DesiredBackend {
    let state = state::LISTED | state::SERVING | state::INTERNAL | state::EXTERNAL;
    DesiredBackend { addr: v4([10, 1, 0, last]), port: 8080, state, sets: sets::CLUSTER, weight: 1 }
}

fn desired(frontends: &[FrontendAddr], endpoints: &[u8]) -> Desired {
    let port = DesiredPort {
        name: Arc::from("http"),
        frontends: frontends.iter().map(|key| DesiredFrontend { key: *key, flags: 0 }).collect(),
        backends: endpoints.iter().map(|last| backend(*last)).collect(),
        sources: None,
        affinity: 0,
        scheduler: scheduler::RANDOM,
        maglev_size: 0,
    };
    Desired { ports: vec![port], rejections: Vec::new() }
}

fn assigned(
    allocator: &mut Allocator,
    before: &[PublishedPort],
    desired: &Desired,
    service: ServiceId,
    ownership: Ownership,
) -> Result<Assigned, Refusal> {
    let keys = desired.ports.iter().flat_map(|p| &p.frontends).map(|f| f.key);
    let decisions: Decisions = keys.map(|key| (key, ownership)).collect();
    assign(before, desired, service, allocator, CLOCK, NOW, &decisions)
}

/// Brings one Service from `before` to `desired` and returns what it has then, with the operations.
fn publish_as(
    service: ServiceId,
    allocator: &mut Allocator,
    before: &[PublishedPort],
    desired: &Desired,
    now: Duration,
) -> (Box<[PublishedPort]>, Plan) {
    let after = assign(before, desired, service, allocator, CLOCK, now, &Decisions::default()).unwrap().ports;
    let mut plan = Plan::default();
    allocator.plan(("shop", "web"), before, &after, service, &mut plan);
    plan_tables(before, &after, service, &mut plan);
    allocator.plan_addresses(&mut plan);
    allocator.commit(before, &after, now, |_| {});
    (after, plan)
}

fn publish(allocator: &mut Allocator, before: &[PublishedPort], desired: &Desired) -> (Box<[PublishedPort]>, Plan) {
    publish_as(WEB, allocator, before, desired, NOW)
}

fn ids(port: &PublishedPort) -> Vec<u32> {
    port.backends.iter().map(|b| b.id.get()).collect()
}

fn entries<K: Copy, V: Copy>(sets: &Sets<K, V>) -> Vec<(K, V)> {
    sets.keys.iter().copied().zip(sets.values.iter().copied()).collect()
}

/// Returns the tables after these operations, on tables that were empty before.
fn contents(plan: &Plan) -> TableContents {
    let mut found = TableContents {
        names: entries(&plan.names.sets).into_iter().map(|(id, name)| (ServicePortId::new(id), name)).collect(),
        backends: entries(&plan.backends).into_iter().map(|(id, b)| (BackendId::new(id), b)).collect(),
        ..TableContents::default()
    };
    found.add_frontends(entries(&plan.v4.frontends.sets));
    found.add_addresses(entries(&plan.v4.addresses.sets));
    found.generations =
        vec![Generation::default(); found.backends.iter().map(|(id, _)| id.get() as usize + 1).max().unwrap_or(1)];
    for (id, backend) in &found.backends {
        found.generations[id.get() as usize] = Generation::new(backend.generation);
    }
    found.slots = vec![0; CAPACITIES.slots as usize];
    let mut ids = plan.slots.ids.iter();
    for (base, len, _) in &plan.slots.ranges {
        let range = *base as usize..(*base + *len) as usize;
        found.slots[range].iter_mut().zip(&mut ids).for_each(|(slot, id)| *slot = *id);
    }
    found
}

fn published() -> (Box<[PublishedPort]>, Plan) {
    publish(&mut Allocator::new(CAPACITIES), &[], &desired(&[cluster_ip(80)], &[5, 6]))
}

#[test]
fn unchanged_service_needs_no_operation() {
    let mut allocator = Allocator::new(CAPACITIES);
    let (first, _) = publish(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5, 6]));
    let (second, plan) = publish(&mut allocator, &first, &desired(&[cluster_ip(80)], &[5, 6]));
    assert_eq!(second, first);
    assert!(plan.is_empty(), "{plan:?}");
}

#[test]
fn new_service_writes_every_map_once() {
    let (ports, plan) = published();
    assert_eq!(plan.names.sets.keys, [ports[0].id.get()]);
    assert_eq!(plan.names.sets.values, [port_name("shop", "web", "http")]);
    assert_eq!(plan.backends.keys, [1, 2]);
    assert_eq!((plan.slots.ranges.as_slice(), plan.slots.ids.as_slice()), (&[(0, 2, WEB)][..], &[1, 2][..]));
    assert_eq!(plan.v4.frontends.sets.values[0].internal, SlotTable { base: 0, len: 2 });
    assert_eq!(plan.v4.addresses.sets.values[0].kind, address_kind::SERVICE);
    assert_eq!(plan.len(), 1 + 2 + 2 + 1 + 1);
}

#[test]
fn new_endpoint_keeps_the_ids_of_the_others_and_gets_a_new_table() {
    let mut allocator = Allocator::new(CAPACITIES);
    let (before, _) = publish(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5, 7]));
    let (after, plan) = publish(&mut allocator, &before, &desired(&[cluster_ip(80)], &[5, 6, 7]));
    assert_eq!((ids(&before[0]), ids(&after[0])), (vec![1, 2], vec![1, 3, 2]));
    assert_eq!(plan.backends.keys, [3], "entries of other backends are not written");
    assert_eq!(plan.slots.ranges, [(2, 3, WEB)], "a published table is not edited");
    assert_eq!(plan.slots.ids, [1, 3, 2]);
    assert_eq!(plan.v4.frontends.sets.values[0].internal, SlotTable { base: 2, len: 3 });
    assert!(plan.names.sets.keys.is_empty() && plan.v4.addresses.sets.keys.is_empty());
}

#[test]
fn removed_endpoint_gets_the_next_generation_and_its_id_rests() {
    let mut allocator = Allocator::new(CAPACITIES);
    let (before, _) = publish(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5, 6]));
    let generation = allocator.backends.generation(BackendId::new(2)).get();
    let (after, plan) = publish(&mut allocator, &before, &desired(&[cluster_ip(80)], &[5]));
    assert_eq!(plan.ended_backends.keys, [2]);
    let entry = plan.ended_backends.values[0];
    assert_eq!((entry.state, entry.generation), (0, generation + 1));

    let both = desired(&[cluster_ip(80)], &[5, 9]);
    let (early, _) = publish(&mut allocator, &after, &both);
    assert_eq!(ids(&early[0]), [1, 3], "id 2 is still at rest");
    let three = desired(&[cluster_ip(80)], &[5, 9, 10]);
    let (late, plan) = publish_as(WEB, &mut allocator, &early, &three, NOW + BACKENDS_REST);
    assert_eq!(ids(&late[0]), [1, 3, 2]);
    assert_eq!(plan.backends.values[0].generation, generation + 1);
}

#[test]
fn slots_of_a_replaced_table_are_free_after_the_grace_time() {
    let mut allocator = Allocator::new(CAPACITIES);
    let (two, _) = publish(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5, 6]));
    let (one, _) = publish(&mut allocator, &two, &desired(&[cluster_ip(80)], &[5]));
    assert_eq!((one[0].tables[0], allocator.slots.used()), (SlotTable { base: 2, len: 1 }, 3));
    assert_eq!(allocator.slots.next_wake(), Some(NOW + SLOTS_REST));
    let early = allocator.slots.take(2, NOW).unwrap();
    assert_eq!(early.base, 3);
    let late = allocator.slots.take(2, NOW + SLOTS_REST).unwrap();
    assert_eq!(late.base, 0);
}

#[test]
fn changed_state_writes_the_backend_alone() {
    let mut allocator = Allocator::new(CAPACITIES);
    let mut wanted = desired(&[cluster_ip(80)], &[5, 6]);
    let (before, _) = publish(&mut allocator, &[], &wanted);
    wanted.ports[0].backends[1].state |= state::TERMINATING;
    let (_, plan) = publish(&mut allocator, &before, &wanted);
    assert_eq!((plan.backends.keys.as_slice(), plan.len()), (&[2][..], 1));
    assert_eq!(plan.backends.values[0].state, wanted.ports[0].backends[1].state);
}

#[test]
fn changed_weight_writes_a_new_table() {
    let mut allocator = Allocator::new(CAPACITIES);
    let mut wanted = desired(&[cluster_ip(80)], &[5, 6]);
    let (before, _) = publish(&mut allocator, &[], &wanted);
    wanted.ports[0].backends[1].weight = 3;
    let (after, plan) = publish(&mut allocator, &before, &wanted);
    assert_eq!(after[0].tables[0].len, 4);
    assert_eq!(plan.slots.ids, [1, 2, 2, 2]);
    assert_eq!(plan.backends.keys, [2]);
}

#[test]
fn full_backends_refuse_the_service_and_return_all_it_took() {
    let mut allocator = Allocator::new(Capacities { backends: 3, ..CAPACITIES });
    let refusal = assigned(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5, 6, 7]), WEB, Ownership::Theirs);
    assert_eq!(refusal.unwrap_err(), Refusal::Full { map: "backends", capacity: 3, needed: 1 });
    assert_eq!((allocator.ports.used(), allocator.slots.used()), (0, 0));
    let (ports, _) = publish_as(API, &mut allocator, &[], &desired(&[cluster_ip(80)], &[5, 6]), NOW + BACKENDS_REST);
    assert_eq!((ports[0].id.get(), ids(&ports[0])), (1, vec![1, 2]));
}

#[test]
fn full_slots_refuse_the_service_and_return_all_it_took() {
    let mut allocator = Allocator::new(Capacities { slots: 2, ..CAPACITIES });
    let refusal = assigned(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5, 6, 7]), WEB, Ownership::Theirs);
    assert_eq!(refusal.unwrap_err(), Refusal::Full { map: "slots", capacity: 2, needed: 3 });
    assert_eq!((allocator.ports.used(), allocator.slots.used()), (0, 0));
    assert_eq!(allocator.backends.next_wake(), Some(NOW + BACKENDS_REST), "the ids are given back");
}

#[test]
fn full_services_and_frontends_refuse_the_service() {
    let mut allocator = Allocator::new(Capacities { services: 1, ..CAPACITIES });
    publish(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5]));
    let refusal = assigned(&mut allocator, &[], &desired(&[cluster_ip(443)], &[5]), API, Ownership::Theirs);
    assert_eq!(refusal.unwrap_err(), Refusal::Full { map: "services", capacity: 1, needed: 1 });

    let mut allocator = Allocator::new(Capacities { frontends4: 1, ..CAPACITIES });
    let two = desired(&[cluster_ip(80), cluster_ip(443)], &[5]);
    let refusal = assigned(&mut allocator, &[], &two, WEB, Ownership::Theirs);
    assert_eq!(refusal.unwrap_err(), Refusal::Full { map: "frontends4", capacity: 1, needed: 2 });
    assert_eq!(allocator.ports.used(), 0);
}

#[test]
fn frontend_of_another_service_is_a_conflict_and_needs_no_table() {
    let mut allocator = Allocator::new(CAPACITIES);
    publish(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5]));
    let found = assigned(&mut allocator, &[], &desired(&[cluster_ip(80)], &[6]), API, Ownership::Theirs).unwrap();
    assert_eq!(found.conflicts, [(cluster_ip(80), Some(WEB))]);
    assert!(found.taken_over.is_empty() && !found.later && found.ports[0].frontends.is_empty());
    assert_eq!(found.ports[0].tables, [SlotTable::default(); 4]);
}

#[test]
fn better_claim_takes_the_frontend_over_or_waits() {
    let mut allocator = Allocator::new(CAPACITIES);
    publish(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5]));
    let found = assigned(&mut allocator, &[], &desired(&[cluster_ip(80)], &[6]), API, Ownership::Ours).unwrap();
    assert_eq!((found.taken_over.as_slice(), found.conflicts.len()), (&[(cluster_ip(80), WEB)][..], 0));
    assert_eq!((found.ports[0].frontends[0].key, found.ports[0].tables[0].len), (cluster_ip(80), 1));
    let found = assigned(&mut allocator, &[], &desired(&[cluster_ip(80)], &[6]), API, Ownership::Later).unwrap();
    assert!(found.later && found.conflicts.is_empty() && found.taken_over.is_empty());
}

#[test]
fn affinity_of_zero_seconds_is_none() {
    assert_eq!([0, 1, 10_800, u32::MAX].map(|seconds| affinity_ticks(seconds, CLOCK).0 > 0), [false, true, true, true]);
}

/// The packet path remembers a client while `now - last_used < affinity_ticks` (balance/select.rs).
/// Both are counted from the last jiffy of a tick, where the difference grows fastest.
#[test]
fn affinity_timeout_never_ends_early() {
    for jiffies_per_second in [100, 250, 300, 1000] {
        for seconds in [1, 2, 3, 60, 10_800] {
            let limit = affinity_ticks(seconds, Clock { jiffies_per_second });
            let last_used = u64::from(u8::MAX);
            let now = last_used + u64::from(seconds) * u64::from(jiffies_per_second) - 1;
            let elapsed = (now >> TICK_SHIFT) - (last_used >> TICK_SHIFT);
            assert!(elapsed < u64::from(limit.0), "{seconds} s at {jiffies_per_second} Hz: {limit:?}");
        }
    }
}

/// At most one tick for the rounding and one because the first tick has already begun.
#[test]
fn affinity_timeout_ends_at_most_two_ticks_late() {
    for jiffies_per_second in [100, 250, 300, 1000] {
        for seconds in [1, 2, 3, 60, 10_800] {
            let limit = affinity_ticks(seconds, Clock { jiffies_per_second });
            let exact = f64::from(seconds) * f64::from(jiffies_per_second) / 256.0;
            assert!(f64::from(limit.0) < exact + 2.0, "{seconds} s at {jiffies_per_second} Hz: {limit:?}");
        }
    }
}

#[test]
fn removed_service_leaves_no_entry() {
    let mut allocator = Allocator::new(CAPACITIES);
    let (before, _) = publish(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5, 6]));
    let (after, plan) = publish(&mut allocator, &before, &Desired::default());
    assert!(after.is_empty());
    assert_eq!(plan.names.removals.keys, [before[0].id.get()]);
    assert_eq!(plan.ended_backends.keys, [1, 2]);
    assert_eq!((plan.v4.frontends.removals.keys.len(), plan.v4.addresses.removals.keys.len(), plan.len()), (1, 1, 5));
    assert_eq!((allocator.frontend_owner(&cluster_ip(80)), allocator.frontend_counts()), (None, (0, 0)));
    assert_eq!(allocator.ports.used(), 0);
}

#[test]
fn uncertain_port_is_written_whole() {
    let mut allocator = Allocator::new(CAPACITIES);
    let wanted = desired(&[cluster_ip(80)], &[5, 6]);
    let (mut before, _) = publish(&mut allocator, &[], &wanted);
    before[0].uncertain = true;
    let (after, plan) = publish(&mut allocator, &before, &wanted);
    assert!(!after[0].uncertain);
    assert_eq!((plan.names.sets.keys.as_slice(), plan.backends.keys.as_slice()), (&[1][..], &[1, 2][..]));
    assert_eq!((plan.slots.ranges.as_slice(), plan.v4.frontends.sets.keys.len()), (&[(2, 2, WEB)][..], 1));
}

#[test]
fn shared_address_stays_until_the_last_service_leaves() {
    let mut allocator = Allocator::new(CAPACITIES);
    let (web, _) = publish_as(WEB, &mut allocator, &[], &desired(&[cluster_ip(80)], &[5]), NOW);
    let (api, plan) = publish_as(API, &mut allocator, &[], &desired(&[cluster_ip(443)], &[6]), NOW);
    assert!(plan.v4.addresses.sets.keys.is_empty(), "the address has an entry already");
    let (_, plan) = publish_as(WEB, &mut allocator, &web, &Desired::default(), NOW);
    assert_eq!((plan.v4.frontends.removals.keys.len(), plan.v4.addresses.removals.keys.len()), (1, 0));
    let (_, plan) = publish_as(API, &mut allocator, &api, &Desired::default(), NOW);
    assert_eq!(plan.v4.addresses.removals.keys.len(), 1);
}

#[test]
fn loopback_frontend_has_no_address_entry() {
    let mut allocator = Allocator::new(CAPACITIES);
    let loopback = FrontendAddr { addr: v4([127, 0, 0, 1]), port: 30_080, proto: proto::TCP };
    let (_, plan) = publish(&mut allocator, &[], &desired(&[loopback], &[5]));
    assert_eq!((plan.v4.frontends.sets.keys.len(), plan.v4.addresses.sets.keys.len()), (1, 0));
}

#[test]
fn external_address_that_becomes_a_cluster_ip_changes_its_kind() {
    let mut allocator = Allocator::new(CAPACITIES);
    let mut wanted = desired(&[cluster_ip(80)], &[5]);
    wanted.ports[0].frontends[0].flags = frontend_flags::EXTERNAL;
    let (before, plan) = publish(&mut allocator, &[], &wanted);
    assert_eq!(plan.v4.addresses.sets.values[0].kind, address_kind::EXTERNAL);
    let (_, plan) = publish(&mut allocator, &before, &desired(&[cluster_ip(80)], &[5]));
    assert_eq!(plan.v4.addresses.sets.values[0].kind, address_kind::SERVICE);
}

#[test]
fn failed_address_is_planned_again() {
    let mut allocator = Allocator::new(CAPACITIES);
    publish(&mut allocator, &[], &desired(&[cluster_ip(80)], &[5]));
    assert!(!allocator.has_addr_changes());
    allocator.addr_failed(cluster_ip(80).addr, WEB);
    let mut plan = Plan::default();
    allocator.plan_addresses(&mut plan);
    assert_eq!((plan.v4.addresses.sets.services.as_slice(), plan.len()), (&[WEB][..], 1));
}

#[test]
fn restored_tables_need_no_operation() {
    let (ports, plan) = published();
    let Restored { mut allocator, services, garbage } = restore(contents(&plan), CAPACITIES, NOW);
    assert!(garbage.plan.is_empty(), "{:?}", garbage.plan);
    assert_eq!(services["shop/web"].ports, ports.to_vec());
    assert_eq!(allocator.frontend_owner(&cluster_ip(80)), Some(ports[0].id));
    let (after, plan) = publish(&mut allocator, &services["shop/web"].ports, &desired(&[cluster_ip(80)], &[5, 6]));
    assert_eq!(after, ports);
    assert!(plan.is_empty(), "{plan:?}");
}

#[test]
fn restored_ids_and_slots_are_not_allocated_again() {
    let (_, plan) = published();
    let Restored { mut allocator, .. } = restore(contents(&plan), CAPACITIES, NOW);
    let (ports, plan) = publish_as(API, &mut allocator, &[], &desired(&[cluster_ip(443)], &[5]), NOW);
    assert_eq!((ports[0].id.get(), ids(&ports[0])), (2, vec![3]));
    assert_eq!(plan.slots.ranges, [(2, 1, API)]);
}

#[test]
fn restored_generations_are_used_after_the_quarantine() {
    let (_, plan) = published();
    let mut found = contents(&plan);
    found.generations.push(Generation::new(41));
    let Restored { mut allocator, .. } = restore(found, CAPACITIES, NOW);
    let (ports, plan) = publish_as(API, &mut allocator, &[], &desired(&[cluster_ip(443)], &[5]), NOW + BACKENDS_REST);
    assert_eq!((ids(&ports[0]), plan.backends.values[0].generation), (vec![3], 41));
}

#[test]
fn entries_without_a_service_name_are_garbage() {
    let (_, plan) = published();
    let mut found = contents(&plan);
    found.names.clear();
    let Restored { mut allocator, services, garbage } = restore(found, CAPACITIES, NOW);
    assert!(services.is_empty());
    assert_eq!(
        (garbage.plan.v4.frontends.removals.keys.len(), garbage.plan.v4.frontends.removals.services[0]),
        (1, ServiceId::NODE)
    );
    assert_eq!(garbage.plan.ended_backends.keys, [1, 2]);
    assert!(garbage.plan.ended_backends.values.iter().all(|b| b.state == 0 && b.generation == 2));
    assert_eq!((allocator.slots.used(), allocator.slots.next_wake()), (2, None), "used until the garbage is removed");
    garbage.release(&mut allocator, NOW);
    assert_eq!(allocator.slots.next_wake(), Some(NOW + SLOTS_REST));
    let mut plan = Plan::default();
    allocator.plan_addresses(&mut plan);
    assert_eq!((plan.v4.addresses.removals.keys.len(), plan.len()), (1, 1));
}

#[test]
fn damaged_slot_table_makes_the_port_uncertain() {
    let (ports, plan) = published();
    let mut found = contents(&plan);
    found.slots[1] = 9;
    let Restored { mut allocator, services, .. } = restore(found, CAPACITIES, NOW);
    let before = &services["shop/web"].ports;
    assert!(before[0].uncertain);
    let (after, plan) = publish(&mut allocator, before, &desired(&[cluster_ip(80)], &[5, 6]));
    assert_eq!((ids(&after[0]), plan.slots.ids), (ids(&ports[0]), vec![1, 2]));
}

#[test]
fn second_id_of_a_name_and_second_backend_of_an_endpoint_are_garbage() {
    let (_, plan) = published();
    let mut found = contents(&plan);
    found.names.push((ServicePortId::new(7), found.names[0].1));
    let mut twin = found.backends[0].1;
    twin.generation = 5;
    found.backends.push((BackendId::new(3), twin));
    found.generations.push(Generation::new(5));
    let Restored { services, garbage, .. } = restore(found, CAPACITIES, NOW);
    assert_eq!(garbage.plan.names.removals.keys, [7]);
    assert_eq!(
        (garbage.plan.ended_backends.keys.as_slice(), garbage.plan.ended_backends.values[0].generation),
        (&[3][..], 6)
    );
    assert_eq!(ids(&services["shop/web"].ports[0]), [1, 2]);
}

/// A tenant's Service of 38 kB kept every agent busy for 40 s.
#[test]
fn time_of_an_assignment_grows_with_its_frontends_and_not_faster() {
    let (ports, addresses) = (100_u16, 1_000_u32);
    let room = u32::from(ports) * addresses;
    let capacities = Capacities { services: room, frontends4: room, ..CAPACITIES };
    let port = |number: u16| {
        let address = |n: u32| FrontendAddr { addr: v4((0x0b00_0000 + n).to_be_bytes()), ..cluster_ip(number) };
        let frontends: Vec<_> = (0..addresses).map(address).collect();
        DesiredPort { name: format!("p{number}").into(), ..desired(&frontends, &[]).ports.remove(0) }
    };
    let large = Desired { ports: (1..=ports).map(port).collect(), rejections: Vec::new() };
    let begin = std::time::Instant::now();
    let assigned = assigned(&mut Allocator::new(capacities), &[], &large, WEB, Ownership::Theirs).unwrap();
    let took = begin.elapsed();
    assert_eq!(assigned.ports.iter().map(|port| port.frontends.len()).sum::<usize>(), room as usize);
    assert!(took < Duration::from_secs(5), "{took:?}");
}
