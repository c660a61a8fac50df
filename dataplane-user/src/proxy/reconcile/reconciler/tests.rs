//! Tests of the reconciler without objects and maps: assignment, frontends that move between
//! Services, Services that do not fit, and the rollback after a failed write.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dataplane_common::types::service::{SlotTable, backend_state as state, proto, scheduler};

use super::super::ids::ServicePortId;
use super::super::ownership::Claimant;
use super::*;
use crate::proxy::desired::{DesiredBackend, DesiredFrontend, DesiredPort, sets};

const NOW: Duration = Duration::from_secs(100);
/// The time of invariant I2 in ARCHITECTURE.md.
const SLOTS_REST: Duration = Duration::from_secs(2);
const CLOCK: Clock = Clock { jiffies_per_second: 250 };
const OLD: ServiceId = ServiceId::new(0);
const YOUNG: ServiceId = ServiceId::new(1);

const CAPACITIES: Capacities =
    Capacities { services: 8, frontends4: 8, frontends6: 8, sources4: 8, sources6: 8, backends: 16, slots: 64 };

/// Namespace, name and creation time by Service id.
struct Services(Vec<(ObjectKey, Option<u32>)>);

impl Claimants for Services {
    fn claimant(&self, id: ServiceId) -> Option<Claimant<'_>> {
        self.0.get(id.index()).map(|(key, created)| Claimant { key, created: *created })
    }
}

fn services() -> Services {
    Services(vec![(ObjectKey::new("shop", "old"), Some(100)), (ObjectKey::new("shop", "young"), Some(200))])
}

const fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

/// The frontend that both Services claim.
const SHARED: FrontendAddr = FrontendAddr { addr: address(99), port: 80, proto: proto::TCP };

fn own(id: ServiceId) -> FrontendAddr {
    FrontendAddr { addr: address(1 + id.index() as u8), ..SHARED }
}

fn desired(frontends: &[FrontendAddr], endpoints: &[u8]) -> Desired {
    let backend = |last: &u8| {
        let state = state::LISTED | state::SERVING | state::INTERNAL | state::EXTERNAL;
        DesiredBackend { addr: address(*last), port: 8080, state, sets: sets::CLUSTER, weight: 1 }
    };
    let port = DesiredPort {
        name: Arc::from("http"),
        frontends: frontends.iter().map(|key| DesiredFrontend { key: *key, flags: 0 }).collect(),
        backends: endpoints.iter().map(backend).collect(),
        sources: None,
        affinity: 0,
        scheduler: scheduler::RANDOM,
        maglev_size: 0,
    };
    Desired { ports: vec![port], rejections: Vec::new() }
}

/// Returns the desired state of a Service: a frontend of its own and the shared one.
fn claiming(id: ServiceId) -> Desired {
    desired(&[own(id), SHARED], &[100 + id.index() as u8])
}

fn reconciler(capacities: Capacities) -> Reconciler {
    Reconciler::new(TableContents::default(), capacities, CLOCK, NOW)
}

type Conflicts = Vec<(FrontendAddr, Option<ServiceId>)>;

fn planned(reconciled: Option<Reconciled>) -> (Part, Conflicts) {
    match reconciled {
        Some(Reconciled::Planned { part, conflicts }) => (part, conflicts),
        other => panic!("{other:?}"),
    }
}

/// Reconciles and commits one Service, as a round whose writes all succeed.
fn round(reconciler: &mut Reconciler, id: ServiceId, desired: &Desired, services: &Services) -> Conflicts {
    let mut plan = Plan::default();
    let (part, conflicts) = planned(reconciler.reconcile(id, desired, services, &mut plan, NOW, false));
    reconciler.plan_addresses(&mut plan);
    reconciler.commit(part, NOW);
    conflicts
}

fn has(reconciler: &Reconciler, id: ServiceId, key: &FrontendAddr) -> bool {
    reconciler.published(id).iter().any(|p| p.find(key).is_some())
}

/// Returns a reconciler in which the younger Service owns the shared frontend and no Service is
/// woken.
fn young_has_it(services: &Services) -> Reconciler {
    let mut reconciler = reconciler(CAPACITIES);
    assert!(round(&mut reconciler, YOUNG, &claiming(YOUNG), services).is_empty());
    assert_eq!(reconciler.take_woken(), []);
    reconciler
}

#[test]
fn published_state_follows_the_commit_and_not_the_plan() {
    let mut reconciler = reconciler(CAPACITIES);
    let mut plan = Plan::default();
    let (part, _) = planned(reconciler.reconcile(OLD, &claiming(OLD), &services(), &mut plan, NOW, false));
    assert!(reconciler.published(OLD).is_empty());
    assert_eq!((plan.v4.frontends.sets.keys.len(), plan.backends.keys.len(), plan.slots.ids.len()), (2, 1, 1));
    reconciler.commit(part, NOW);
    let ports = reconciler.published(OLD);
    assert_eq!((ports.len(), ports[0].frontends.len(), ports[0].backends.len()), (1, 2, 1));
}

#[test]
fn older_service_takes_a_frontend_with_one_write() {
    let services = services();
    let mut reconciler = young_has_it(&services);
    let mut plan = Plan::default();
    let (part, conflicts) = planned(reconciler.reconcile(OLD, &claiming(OLD), &services, &mut plan, NOW, false));
    assert_eq!((conflicts, part.affected().collect::<Vec<_>>()), (vec![], vec![YOUNG]));
    assert!(plan.v4.frontends.removals.keys.is_empty(), "the entry is overwritten, not removed");
    assert!(has(&reconciler, YOUNG, &SHARED), "the young Service has the frontend until the write is done");
    reconciler.commit(part, NOW);
    assert!(has(&reconciler, OLD, &SHARED) && !has(&reconciler, YOUNG, &SHARED));
    assert_eq!(reconciler.take_woken(), [YOUNG]);
    let conflicts = round(&mut reconciler, YOUNG, &claiming(YOUNG), &services);
    assert_eq!(conflicts, [(SHARED, Some(OLD))]);
    assert!(has(&reconciler, YOUNG, &own(YOUNG)), "the young Service keeps its other frontend");
}

#[test]
fn younger_service_waits_and_is_woken_when_the_frontend_is_free() {
    let services = services();
    let mut reconciler = reconciler(CAPACITIES);
    round(&mut reconciler, OLD, &claiming(OLD), &services);
    assert_eq!(round(&mut reconciler, YOUNG, &claiming(YOUNG), &services), [(SHARED, Some(OLD))]);
    assert!(!has(&reconciler, YOUNG, &SHARED) && reconciler.has_contested_frontends());
    // the owner gives it up: the successor takes it first, so that clients always find the entry
    let mut plan = Plan::default();
    let gives_up = desired(&[own(OLD)], &[100]);
    for deferred in [false, true] {
        let reconciled = reconciler.reconcile(OLD, &gives_up, &services, &mut plan, NOW, deferred);
        assert!(matches!(reconciled, Some(Reconciled::Deferred)) && plan.is_empty());
        assert!(has(&reconciler, OLD, &SHARED));
        assert_eq!(reconciler.take_woken(), if deferred { vec![YOUNG] } else { vec![] });
    }
    assert!(round(&mut reconciler, YOUNG, &claiming(YOUNG), &services).is_empty());
    assert!(has(&reconciler, YOUNG, &SHARED) && !has(&reconciler, OLD, &SHARED));
    let (part, _) = planned(reconciler.reconcile(OLD, &gives_up, &services, &mut plan, NOW, true));
    assert!(plan.v4.frontends.removals.keys.is_empty(), "the entry is the young one's now");
    reconciler.commit(part, NOW);
    assert_eq!(reconciler.allocator().frontend_counts(), (3, 0));
}

#[test]
fn frontend_of_a_service_in_the_same_round_moves_in_a_later_one() {
    let services = services();
    let mut reconciler = young_has_it(&services);
    let mut plan = Plan::default();
    let (young, _) = planned(reconciler.reconcile(YOUNG, &claiming(YOUNG), &services, &mut plan, NOW, false));
    let (old, conflicts) = planned(reconciler.reconcile(OLD, &claiming(OLD), &services, &mut plan, NOW, false));
    assert_eq!((conflicts, old.affected().count()), (vec![], 0));
    assert_eq!(reconciler.take_woken(), [OLD], "it is reconciled again");
    reconciler.commit(young, NOW);
    reconciler.commit(old, NOW);
    assert!(has(&reconciler, YOUNG, &SHARED));
    round(&mut reconciler, OLD, &claiming(OLD), &services);
    assert!(has(&reconciler, OLD, &SHARED));
}

#[test]
fn service_that_does_not_fit_is_refused_whole_and_keeps_its_entries() {
    let services = services();
    let mut reconciler = reconciler(Capacities { backends: 3, ..CAPACITIES });
    round(&mut reconciler, OLD, &desired(&[own(OLD)], &[100]), &services);
    let before = reconciler.published(OLD).to_vec();
    let used =
        |r: &Reconciler| (r.allocator().ports.used(), r.allocator().slots.used(), r.allocator().frontend_counts());
    let figures = used(&reconciler);
    let mut plan = Plan::default();
    for id in [OLD, YOUNG] {
        let refused = reconciler.reconcile(
            id,
            &desired(&[own(id), SHARED], &[100, 101, 102, 103]),
            &services,
            &mut plan,
            NOW,
            false,
        );
        assert!(matches!(refused, Some(Reconciled::Refused(Refusal::Full { map: "backends", .. }))), "{refused:?}");
        assert!(plan.is_empty(), "{plan:?}");
    }
    assert_eq!((reconciler.published(OLD), reconciler.published(YOUNG).len()), (before.as_slice(), 0));
    assert_eq!(used(&reconciler), figures);
}

#[test]
fn rollback_writes_the_owners_entry_again() {
    let services = services();
    let mut reconciler = young_has_it(&services);
    let mut plan = Plan::default();
    let (mut part, _) = planned(reconciler.reconcile(OLD, &claiming(OLD), &services, &mut plan, NOW, false));
    let mut rollback = Plan::default();
    reconciler.plan_rollback(&mut part, &services, &mut rollback);
    let sets = &rollback.v4.frontends.sets;
    let (key, value) = (sets.keys[0], sets.values[0]);
    assert_eq!((IpAddr::from(key.addr), sets.services.as_slice()), (SHARED.addr, &[OLD][..]));
    assert_eq!(value.service_port, reconciler.published(YOUNG)[0].id.get());
    let removed: Vec<_> = rollback.v4.frontends.removals.keys.iter().map(|k| IpAddr::from(k.addr)).collect();
    assert_eq!(removed, [own(OLD).addr], "the shared one is not removed");
    reconciler.roll_back(part, NOW);
    assert!(reconciler.published(OLD).is_empty());
    assert!(has(&reconciler, YOUNG, &SHARED) && !reconciler.published(YOUNG)[0].uncertain);
}

/// A slot table that was published is never edited, so a rollback has none to write.
#[test]
fn rollback_writes_no_slot_table() {
    let services = services();
    let mut reconciler = reconciler(CAPACITIES);
    round(&mut reconciler, OLD, &desired(&[own(OLD)], &[100]), &services);
    let mut plan = Plan::default();
    let wanted = desired(&[own(OLD)], &[100, 101]);
    let (mut part, _) = planned(reconciler.reconcile(OLD, &wanted, &services, &mut plan, NOW, false));
    assert_eq!(plan.slots.ids.len(), 2);
    let mut rollback = Plan::default();
    reconciler.plan_rollback(&mut part, &services, &mut rollback);
    assert!(rollback.slots.ranges.is_empty() && rollback.slots.ids.is_empty(), "{rollback:?}");
    let led_to = rollback.v4.frontends.sets.values[0].internal;
    assert_eq!(led_to, SlotTable { base: 0, len: 1 }, "the frontend leads to the first table again");
}

#[test]
fn failed_rollback_keeps_both_states_until_a_commit() {
    let services = services();
    let mut reconciler = reconciler(CAPACITIES);
    round(&mut reconciler, OLD, &desired(&[own(OLD)], &[100]), &services);
    let first = reconciler.published(OLD)[0].tables[0];
    let mut plan = Plan::default();
    let wanted = desired(&[own(OLD)], &[100, 101]);
    let (mut part, _) = planned(reconciler.reconcile(OLD, &wanted, &services, &mut plan, NOW, false));
    let second = (plan.slots.ranges[0].0, plan.slots.ranges[0].1);
    reconciler.plan_rollback(&mut part, &services, &mut Plan::default());
    reconciler.keep_both(part, &services);
    let port = &reconciler.published(OLD)[0];
    assert!(port.uncertain);
    assert_eq!((port.backends.len(), port.tables[0]), (2, first));
    // the retry writes a third table; the other two are free again after the grace time
    assert!(round(&mut reconciler, OLD, &wanted, &services).is_empty());
    let port = &reconciler.published(OLD)[0];
    assert!(!port.uncertain && port.tables[0].base >= second.0 + second.1);
    let used = reconciler.allocator().slots.used();
    assert_eq!(used, 1 + 2 + 2);
    reconciler.allocator_mut().slots.take(1, NOW + SLOTS_REST);
    assert_eq!(reconciler.allocator().slots.used(), 2 + 1);
}

/// A rollback took the frontend back; later the old owner removed the entry, and the new owner did
/// not know.
#[test]
fn rollback_of_an_uncertain_service_leaves_what_another_has_taken() {
    let services = services();
    let mut reconciler = young_has_it(&services);
    let changed = desired(&[own(YOUNG), SHARED], &[101, 102]);
    let (mut part, _) = planned(reconciler.reconcile(YOUNG, &changed, &services, &mut Plan::default(), NOW, false));
    reconciler.plan_rollback(&mut part, &services, &mut Plan::default());
    reconciler.keep_both(part, &services);
    round(&mut reconciler, OLD, &claiming(OLD), &services);
    assert!(has(&reconciler, OLD, &SHARED) && !has(&reconciler, YOUNG, &SHARED));
    let (mut part, _) = planned(reconciler.reconcile(YOUNG, &changed, &services, &mut Plan::default(), NOW, false));
    let mut rollback = Plan::default();
    reconciler.plan_rollback(&mut part, &services, &mut rollback);
    let written: Vec<_> = rollback.v4.frontends.sets.keys.iter().map(|k| IpAddr::from(k.addr)).collect();
    assert_eq!(written, [own(YOUNG).addr]);
    reconciler.roll_back(part, NOW);
    let owner = reconciler.allocator().frontend_owner(&SHARED);
    assert_eq!(owner, Some(reconciler.published(OLD)[0].id));
    assert!(has(&reconciler, OLD, &SHARED) && !has(&reconciler, YOUNG, &SHARED));
}

#[test]
fn stale_entries_are_adopted_by_name_or_listed() {
    let names = [(1, "shop/old:http"), (2, "shop/gone")]
        .map(|(id, name)| {
            let (service, port) = name.split_once(':').unwrap_or((name, ""));
            let (namespace, service) = service.split_once('/').unwrap_or_default();
            (ServicePortId::new(id), super::super::diff::port_name(namespace, service, port))
        })
        .into();
    let found = TableContents { names, ..TableContents::default() };
    let mut reconciler = Reconciler::new(found, CAPACITIES, CLOCK, NOW);
    reconciler.adopt(OLD, &ObjectKey::new("shop", "old"));
    assert_eq!(reconciler.published(OLD).iter().map(|p| p.id.get()).collect::<Vec<_>>(), [1]);
    assert_eq!(reconciler.stale(), [ObjectKey::new("shop", "gone")]);
}
