//! Random histories of events, faults and restarts.
//!
//! Whenever the controller has nothing left to do, the maps are those of [`super::oracle`]. After
//! each single write a client finds what the oracle has said of one of the states in between, and
//! a program that is still reading finds nothing of another Service ([`super::reader`]). In the
//! end, the maps and counts are also equal to those of an agent that has just started.

mod generate;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytemuck::Zeroable;
use dataplane_common::types::address::{V4, V6, octets16};
use dataplane_common::types::service::{Backend, Frontend, FrontendKey};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use self::generate::{ENOUGH, FOREIGN, Sizes, any_sizes, any_step, node_context};
use super::objects::Objects;
use super::oracle::{Expected, evaluate};
use super::reader::Reader;
use super::view::{FrontendView, view};
use super::*;
use crate::proxy::apply::memory::{Killed, Operation};

#[derive(Clone, Debug)]
enum Step {
    /// An object changes, and its watch says so.
    Change(SourceEvent),
    Context(Box<NodeContext>),
    /// The connection was lost, objects changed meanwhile, and all are listed again.
    Relist(Vec<SourceEvent>),
    Restart,
    /// The agent is killed after so many writes of a reconciliation, and started again.
    Kill(u32),
    /// The agent starts again with larger maps.
    Grow,
    /// An operation fails after so many that succeed.
    Fault(&'static str, Operation, u32),
    Reconcile,
    Wait(u64),
}

/// An agent, its maps and its API server.
struct History {
    objects: Objects,
    memory: MemoryMaps,
    reader: Arc<Reader>,
    core: Core,
    now: Duration,
    /// What the maps have had to contain since the controller was last without work.
    states: Arc<Mutex<Vec<Expected>>>,
    /// All that is asked for fits into the maps.
    fits: bool,
}

impl History {
    fn new(sizes: &Sizes) -> Self {
        let mut objects = Objects { node: node_context(), ..Objects::new() };
        let (entries, slots, backends) = sizes.capacities;
        let memory = MemoryMaps::sized(entries, slots, backends);
        if let Some(generation) = sizes.generation {
            let ended = Backend { generation, ..Backend::zeroed() };
            assert!(memory.tables().backends.set(1, &[ended; 3]));
        }
        let reader = Arc::new(Reader::new(memory.clone(), NOW));
        let states = Arc::new(Mutex::new(vec![Expected::default()]));
        let core = objects.start(&memory, NOW);
        let (watched, reading, known) = (memory.clone(), reader.clone(), states.clone());
        let fits = sizes.capacities == ENOUGH;
        memory.observe(Some(Arc::new(move || {
            Expected::check_between(&known.lock().unwrap(), &view(&watched), !fits || watched.failed() > 0);
            reading.look();
        })));
        Self { objects, memory, reader, core, now: NOW, states, fits }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Reconcile => self.reconcile(),
            Step::Wait(ms) => self.wait_until(self.now + Duration::from_millis(*ms)),
            Step::Restart => self.restart(),
            Step::Kill(writes) => self.kill(*writes),
            Step::Grow => self.grow(),
            Step::Fault(map, operation, after) => self.memory.fail(map, *operation, *after),
            Step::Context(c) => {
                self.objects.node = (**c).clone();
                self.core.set_node_context((**c).clone());
            }
            Step::Relist(unseen) => {
                unseen.iter().for_each(|event| self.objects.apply(event));
                self.objects.list(&mut self.core);
            }
            Step::Change(event) => {
                self.objects.apply(event);
                self.core.handle(event.clone());
            }
        }
    }

    fn wait_until(&mut self, at: Duration) {
        self.now = at.max(self.now);
        self.reader.set_clock(self.now);
    }

    fn restart(&mut self) {
        // no program runs as long as that takes
        self.reader.clear();
        self.core = self.objects.start(&self.memory, self.now);
    }

    fn kill(&mut self, writes: u32) {
        self.states.lock().unwrap().push(evaluate(&self.objects));
        self.memory.kill_after(Some(writes));
        let ended = catch_unwind(AssertUnwindSafe(|| self.core.reconcile(self.now)));
        self.memory.kill_after(None);
        if let Err(payload) = ended
            && !payload.is::<Killed>()
        {
            resume_unwind(payload);
        }
        self.restart();
    }

    fn grow(&mut self) {
        let (entries, slots, backends) = ENOUGH;
        self.memory = self.memory.resized(entries, slots, backends);
        self.fits = true;
        self.restart();
    }

    fn reconcile(&mut self) {
        let expected = evaluate(&self.objects);
        self.states.lock().unwrap().push(expected.clone());
        self.core.reconcile(self.now);
        if self.core.next_retry().is_none() {
            expected.check(&view(&self.memory), &mut self.core, &self.objects.read);
            self.check_use();
            *self.states.lock().unwrap() = vec![expected];
            self.memory.clear_failed();
        }
    }

    /// Checks that nothing is in use but what the maps show.
    fn check_use(&self) {
        let v4 = self.memory.frontends4.typed::<FrontendKey<V4>, Frontend>().into_iter().map(|(_, f)| f);
        let v6 = self.memory.frontends6.typed::<FrontendKey<V6>, Frontend>().into_iter().map(|(_, f)| f);
        let tables = v4.chain(v6).flat_map(|f| [f.internal, f.external]).map(|t| (t.base, t.len));
        let slots = tables.collect::<BTreeSet<_>>().into_iter().map(|(_, len)| len).sum();
        let backends = self.memory.backends.typed::<u32, Backend>().into_iter().filter(|(_, b)| b.state != 0).count();
        let ports = self.memory.services.content().len();
        assert_eq!(self.core.in_use(), (slots, backends, ports), "slots, backends and service ports");
    }

    /// Reconciles until no retry is due, or until one can only fail because a map is full.
    fn settle(&mut self) {
        self.reconcile();
        let begin = self.now;
        while let Some(at) = self.core.next_retry() {
            if !self.fits && at > begin + Duration::from_secs(120) {
                assert!(self.core.snapshot().rejected > 0);
                self.grow();
            }
            self.wait_until(at);
            self.reconcile();
        }
    }
}

fn check(sizes: &Sizes, steps: &[Step]) {
    let mut history = History::new(sizes);
    steps.iter().for_each(|step| history.step(step));
    history.settle();
    history.settle();
    let History { mut objects, memory, mut core, now, .. } = history;
    assert_eq!((core.pending().services(), core.pending().endpoints()), (0, 0));
    memory.clear_faults();
    memory.observe(None);
    let (entries, slots, backends) = ENOUGH;
    let fresh = MemoryMaps::sized(entries, slots, backends);
    let mut started = objects.start(&fresh, now);
    started.reconcile(now);
    assert_eq!(core.snapshot().no_local, started.snapshot().no_local);
    let (seen, wanted) = (view(&memory), view(&fresh));
    assert_eq!(seen, wanted);
    // only at the end: a backend gets weight 0 first, and is taken out of the slot tables
    // afterwards
    let drained = |f: &FrontendView| f.internal.iter().chain(&f.external).any(|b| b.3 == 0);
    assert!(!seen.frontends.values().any(drained), "a backend without weight takes new connections: {seen:?}");
    assert!(seen.backends.iter().all(|(_, (addr, ..))| octets16(*addr)[14] & FOREIGN == 0), "of another namespace");
    let before = *core.operations();
    core.mark_all();
    core.reconcile(now);
    assert_eq!(*core.operations(), before, "a second reconcile writes nothing");
    let mut restarted = objects.start(&memory, now);
    restarted.reconcile(now);
    assert_eq!(restarted.operations().total(), 0, "a restart writes nothing: {:?}", restarted.operations());
}

/// Number of histories, shared by all tests: 55 s of processor time, 22 ms each without
/// optimization. `PROPTEST_CASES` sets the number of each test instead.
const HISTORIES: u32 = 2500;
/// Number of tests among which they are divided, so that they run on several processors.
const TESTS: u32 = 4;

/// The histories are the same in each run, and others in each test, unless `PROPTEST_CASES` asks
/// for a number of random ones.
fn config(test: u64) -> ProptestConfig {
    let default = ProptestConfig::default();
    let is_search = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if is_search { default.cases } else { HISTORIES.div_ceil(TESTS) },
        rng_seed: if is_search { default.rng_seed } else { RngSeed::Fixed(test) },
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..default
    }
}

macro_rules! tests {
    ($($name:ident $number:literal)*) => {
        $(
            proptest! {
                #![proptest_config(config($number))]
                #[test]
                fn $name(sizes in any_sizes(), steps in prop::collection::vec(any_step(), 0..40)) {
                    check(&sizes, &steps);
                }
            }
        )*
    };
}

mod histories_end_as_a_fresh_start_does {
    use super::*;

    tests! { first 1 second 2 third 3 fourth 4 }
}
