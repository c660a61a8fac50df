//! A stand-in for programs that run while the agent writes: one has read a frontend some time ago
//! and now reads the slots and backends, another has remembered a backend in a flow.
//!
//! [`super::view`] checks the maps at one instant, after each write. A program does not read them
//! at one instant: the agent may write between its reads of a frontend, a slot and a backend. So
//! every published table is followed for as long as a program may be reading it. The times are
//! those that invariant I2 of ARCHITECTURE.md promises, not the constants of the allocator.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::service::{Backend, Frontend, FrontendKey, Slot, SlotTable};

use crate::proxy::apply::memory::MemoryMaps;

/// "Freed slots rest 2 s".
const SLOTS_REST: Duration = Duration::from_secs(2);
/// "backend ids 5 s".
const BACKENDS_REST: Duration = Duration::from_secs(5);

/// A slot table with the service port of its frontend.
type Published = (u32, SlotTableKey);
/// First slot and length.
type SlotTableKey = (u32, u32);

#[derive(Default)]
struct State {
    now: Duration,
    /// The backend ids in each table, and when a frontend last had the table.
    tables: BTreeMap<Published, (Duration, Vec<u32>)>,
    /// The backend ids that a program may have read, by service port, and when a frontend last had
    /// a table with the id.
    read: BTreeMap<(u32, u32), Duration>,
    /// The endpoint and service port of each id and generation that was ever in use: flows,
    /// affinity and sockets remember these two.
    remembered: BTreeMap<(u32, u32), (u32, [u8; 16], u16)>,
}

pub(super) struct Reader {
    memory: MemoryMaps,
    state: Mutex<State>,
}

impl Reader {
    pub(super) fn new(memory: MemoryMaps, now: Duration) -> Self {
        Self { memory, state: Mutex::new(State { now, ..State::default() }) }
    }

    pub(super) fn set_clock(&self, now: Duration) {
        self.state.lock().unwrap().now = now;
    }

    /// Forgets the published tables: all programs that had begun have ended. Flows stay.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock().unwrap();
        state.tables.clear();
        state.read.clear();
    }

    /// Follows every recently published table and every backend that may be remembered.
    pub(super) fn look(&self) {
        let state = &mut *self.state.lock().unwrap();
        let backends: BTreeMap<u32, Backend> =
            self.memory.backends.typed::<u32, Backend>().into_iter().map(|(id, b)| (u32::from_be(id), b)).collect();
        let v4 = self.memory.frontends4.typed::<FrontendKey<V4>, Frontend>().into_iter().map(|(_, f)| f);
        let v6 = self.memory.frontends6.typed::<FrontendKey<V6>, Frontend>().into_iter().map(|(_, f)| f);
        for f in v4.chain(v6) {
            for SlotTable { base, len } in [f.internal, f.external] {
                let ids = || self.ids(base, len);
                state.tables.entry((f.service_port, (base, len))).or_insert_with(|| (state.now, ids())).0 = state.now;
            }
        }
        state.tables.retain(|_, (last, _)| state.now < *last + SLOTS_REST);
        for ((service_port, (base, len)), (last, ids)) in &state.tables {
            assert_eq!(self.ids(*base, *len), *ids, "slots {base} and {len} more of service port {service_port}");
            state.read.extend(ids.iter().map(|id| ((*service_port, *id), *last)));
        }
        state.read.retain(|_, last| state.now < *last + BACKENDS_REST);
        for (service_port, id) in state.read.keys() {
            let b = &backends[id];
            let is_ours = b.state == 0 || b.service_port == *service_port;
            assert!(is_ours, "service port {service_port}: {b:?} is another's");
        }
        for (id, b) in &backends {
            let known = state.remembered.get(&(*id, b.generation));
            let endpoint = (b.service_port, b.addr, b.port);
            if b.state == 0 {
                assert_eq!(known, None, "backend {id} has ended, and flows to it have not");
            } else if known.is_none() {
                state.remembered.insert((*id, b.generation), endpoint);
            } else {
                assert_eq!(known, Some(&endpoint), "backend {id} of generation {} is two endpoints", b.generation);
            }
        }
    }

    fn ids(&self, base: u32, len: u32) -> Vec<u32> {
        self.memory.slots.elements::<Slot>(base, len).into_iter().map(|slot| slot.backend).collect()
    }
}
