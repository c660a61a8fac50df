//! A stand-in for a program that runs while the agent writes: it has read a frontend some time ago
//! and now reads the slots and backends.
//!
//! [`super::view`] checks the maps at one instant, after each write. A program does not read them
//! at one instant: the agent may write between its reads of a frontend, a slot and a backend. So
//! every published table is followed for as long as a program may be reading it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::service::{Backend, Frontend, FrontendKey, Slot, SlotTable};

use crate::proxy::apply::memory::MemoryMaps;
use crate::proxy::reconcile::slots::GRACE;

/// Service port and slot table, with the last time at which a frontend had the table.
type Published = BTreeMap<(u32, u32, u32), Duration>;

pub(super) struct Reader {
    memory: MemoryMaps,
    state: Mutex<(Duration, Published)>,
}

impl Reader {
    pub(super) fn new(memory: MemoryMaps, now: Duration) -> Self {
        Self { memory, state: Mutex::new((now, Published::new())) }
    }

    pub(super) fn set_clock(&self, now: Duration) {
        self.state.lock().unwrap().0 = now;
    }

    /// Clears the published tables: all programs that had begun have ended.
    pub(super) fn clear(&self) {
        self.state.lock().unwrap().1.clear();
    }

    /// Follows every recently published table. Each must lead to backends of its own service port
    /// or to ended ones, never to those of another service port.
    pub(super) fn look(&self) {
        let (now, published) = &mut *self.state.lock().unwrap();
        let v4 = self.memory.frontends4.typed::<FrontendKey<V4>, Frontend>().into_iter().map(|(_, f)| f);
        let v6 = self.memory.frontends6.typed::<FrontendKey<V6>, Frontend>().into_iter().map(|(_, f)| f);
        for f in v4.chain(v6) {
            for SlotTable { base, len } in [f.internal, f.external] {
                published.insert((f.service_port, base, len), *now);
            }
        }
        published.retain(|_, last| *now < *last + GRACE);
        for (service_port, base, len) in published.keys() {
            for Slot { backend: id, .. } in self.memory.slots.elements::<Slot>(*base, *len) {
                let [b]: [Backend; 1] = self.memory.backends.elements(id, 1).try_into().unwrap();
                let is_ours = b.state == 0 || b.service_port == *service_port;
                assert!(is_ours, "service port {service_port}, slots {base} and {len} more: {b:?} is another's");
            }
        }
    }
}
