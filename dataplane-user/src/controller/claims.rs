//! Who waits for frontends that others have.
//!
//! Of all Services that claim an address, port and protocol, the one that was created first has it, then the one whose name comes first: so that all
//! nodes agree, and an agent that starts agrees with one that has been there all the time. Whoever came later gives it up, and is told.

use hashbrown::HashMap;

use super::store::{Entry, Store};
use crate::desired::FrontendAddr;

/// Empty as long as no two Services want the same.
#[derive(Debug, Default)]
pub(super) struct Claims {
    waiting: HashMap<FrontendAddr, Vec<u32>>,
    /// What each waits for.
    of: HashMap<u32, Vec<FrontendAddr>>,
}

impl Claims {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.of.is_empty()
    }

    /// The Service claims a frontend that another one has.
    pub(super) fn wait(&mut self, number: u32, key: FrontendAddr) {
        let waiting = self.waiting.entry(key).or_default();
        if !waiting.contains(&number) {
            waiting.push(number);
            self.of.entry(number).or_default().push(key);
        }
    }

    /// The Service claims anew.
    pub(super) fn forget(&mut self, number: u32) {
        if self.of.is_empty() {
            return;
        }
        for key in self.of.remove(&number).into_iter().flatten() {
            if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.retain(|n| *n != number);
                if waiting.is_empty() {
                    self.waiting.remove(&key);
                }
            }
        }
    }

    /// The frontend is free: who should ask for it.
    pub(super) fn wake(&mut self, key: &FrontendAddr) -> Vec<u32> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.waiting.remove(key).unwrap_or_default()
    }

    /// The Service to which `own` has to leave a frontend, if there is one.
    pub(super) fn first(&self, key: &FrontendAddr, own: &Entry, store: &Store) -> Option<u32> {
        if self.waiting.is_empty() {
            return None;
        }
        let others = self.waiting.get(key)?.iter().filter_map(|n| Some((*n, store.get(*n)?)));
        let earlier = others.filter(|(_, other)| other.service.is_some() && other.rank() < own.rank());
        earlier.min_by(|(_, a), (_, b)| a.rank().cmp(&b.rank())).map(|(n, _)| n)
    }
}
