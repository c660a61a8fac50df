//! Tests of an agent that starts on maps which another one has left that was killed between any two
//! writes, and of what happens if its own writes fail then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use dataplane_common::types::service::frontend_flags;

use super::objects::Objects;
use super::oracle::evaluate;
use super::reader::Reader;
use super::view::view;
use super::*;
use crate::proxy::apply::memory::{Killed, Operation};
use crate::proxy::source::object::{Scheduling, ServiceExtra, Weights};

/// Returns a Service with two addresses, one of which has source ranges, and two ports. Its first
/// endpoint has this weight.
fn weighted(weight: u16) -> ServiceObject {
    let weights = Weights { networks: [(ip("10.1.0.5").into(), weight)].into(), ..Weights::default() };
    let scheduling = Some(Box::new(Scheduling { weights, ..Scheduling::default() }));
    let extra = ServiceExtra {
        load_balancer_ips: [ip("203.0.113.1")].into(),
        source_ranges: ["198.51.100.0/24".parse().unwrap()].into(),
        restricted: [true, false],
        scheduling,
        ..ServiceExtra::default()
    };
    ServiceObject { extra: Some(Box::new(extra)), ..service(&["10.96.0.10"], &[("http", 80), ("more", 81)]) }
}

/// An agent whose Services are about to change, with a program that reads all the time.
struct Scene {
    objects: Objects,
    memory: MemoryMaps,
    reader: Arc<Reader>,
    core: Core,
    now: Duration,
}

impl Scene {
    /// Starts an agent with three Services and kills it after so many writes for changes of all
    /// three and a new one. Then starts another one. Returns `None` if there were fewer writes.
    fn new(writes: u32) -> Option<Self> {
        let mut objects = Objects::new();
        let memory = MemoryMaps::sized(100, 60, 40);
        let ports = [("http", 8080), ("more", 8081)];
        let first = [
            SourceEvent::Service(key("web"), Some(weighted(1))),
            SourceEvent::Service(key("api"), Some(service(&["10.96.0.11"], &[("http", 80)]))),
            SourceEvent::Service(key("gone"), Some(service(&["10.96.0.12"], &[("http", 80)]))),
            SourceEvent::Slice(key("web-1"), Some(slice("web", &ports, &["10.1.0.5", "10.1.0.6"]))),
            SourceEvent::Slice(key("api-1"), Some(slice("api", &ports, &["10.1.1.1", "10.1.1.2"]))),
            SourceEvent::Slice(key("gone-1"), Some(slice("gone", &ports, &["10.1.2.1"]))),
        ];
        first.iter().for_each(|event| objects.apply(event));
        let mut core = objects.start(&memory, NOW);
        core.reconcile(NOW);
        let changes = [
            SourceEvent::Service(key("web"), Some(weighted(3))),
            SourceEvent::Service(key("gone"), None),
            SourceEvent::Service(key("new"), Some(service(&["10.96.0.13"], &[("http", 80)]))),
            SourceEvent::Slice(key("api-1"), Some(slice("api", &ports, &["10.1.1.2", "10.1.1.3"]))),
            SourceEvent::Slice(key("new-1"), Some(slice("new", &ports, &["10.1.3.1"]))),
        ];
        for event in changes {
            objects.apply(&event);
            core.handle(event);
        }
        memory.kill_after(Some(writes));
        let ended = catch_unwind(AssertUnwindSafe(|| core.reconcile(NOW)));
        memory.kill_after(None);
        assert!(ended.err()?.is::<Killed>());
        let reader = Arc::new(Reader::new(memory.clone(), NOW));
        reader.look();
        let (watched, reading) = (memory.clone(), reader.clone());
        memory.observe(Some(Arc::new(move || {
            let seen = view(&watched);
            let guarded = seen.frontends.values().filter(|f| f.flags & frontend_flags::SOURCE_RANGES != 0);
            for f in guarded {
                assert!(seen.sources.iter().any(|(name, ..)| *name == f.service), "{f:?} has no ranges");
            }
            reading.look();
        })));
        let core = objects.start(&memory, NOW);
        Some(Self { objects, memory, reader, core, now: NOW })
    }

    fn change(&mut self, event: SourceEvent) {
        self.objects.apply(&event);
        self.core.handle(event);
    }

    fn reconcile(&mut self, later: Duration) {
        self.now += later;
        self.reader.set_clock(self.now);
        self.core.reconcile(self.now);
    }

    /// Reconciles until nothing is left to do; then all maps must be as expected.
    fn settle(&mut self) {
        self.reconcile(Duration::ZERO);
        for _ in 0..20 {
            let Some(at) = self.core.next_retry() else { break };
            self.reconcile(at.saturating_sub(self.now));
        }
        assert_eq!(self.core.next_retry(), None, "{:?}", self.core.snapshot().rejections);
        evaluate(&self.objects).check(&view(&self.memory), &mut self.core, &[]);
    }
}

/// Runs `test` for an agent that was killed before its first write, before its second one, and so
/// on.
fn at_every_write(test: impl Fn(&mut Scene)) {
    let mut writes = 0;
    while let Some(mut scene) = Scene::new(writes) {
        test(&mut scene);
        scene.settle();
        writes += 1;
    }
    assert!(writes > 20, "{writes}");
}

#[test]
fn agent_killed_between_any_two_writes_is_followed_by_one_that_finishes() {
    at_every_write(|_| {});
}

/// The rollback wrote the tables of the half-written Service as well, by the wrong number of slots,
/// and shifted the slots of all Services after it.
#[test]
fn rollback_after_a_kill_leaves_all_slot_tables_as_they_are() {
    at_every_write(|scene| {
        let more = slice("api", &[("http", 8080)], &["10.1.1.2", "10.1.1.3", "10.1.1.4"]);
        scene.change(SourceEvent::Slice(key("api-1"), Some(more)));
        (0..4).for_each(|_| scene.memory.fail_next("frontends4"));
        scene.reconcile(Duration::ZERO);
    });
}

/// Slots of which a half-written frontend still made use were free after the first round, even if
/// that had failed.
#[test]
fn slots_of_a_half_written_service_are_not_free_before_it_is_written() {
    at_every_write(|scene| {
        // Only half-written and new Services write names.
        (0..8).for_each(|_| scene.memory.fail_next("services"));
        for last in 10..16 {
            let addr = format!("10.1.1.{last}");
            let other = slice("api", &[("http", 8080)], &["10.1.1.2", &addr]);
            scene.change(SourceEvent::Slice(key("api-1"), Some(other)));
            scene.reconcile(Duration::from_secs(3));
        }
    });
}

/// A failed removal of garbage was never tried again, and its ids were given out.
#[test]
fn garbage_is_removed_even_if_that_fails_at_first() {
    at_every_write(|scene| {
        scene.memory.fail_next("backends");
        scene.reconcile(Duration::ZERO);
    });
}

/// The frontends that were found were written again, and their source ranges and backends not.
#[test]
fn rollback_of_a_removal_after_a_kill_is_complete() {
    for (map, operation) in [("addresses4", Operation::Remove), ("services", Operation::Remove)] {
        at_every_write(|scene| {
            scene.change(SourceEvent::Service(key("web"), None));
            (0..3).for_each(|_| scene.memory.fail(map, operation, 0));
            scene.reconcile(Duration::ZERO);
        });
    }
}
