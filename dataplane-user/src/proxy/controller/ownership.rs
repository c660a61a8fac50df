//! Decides which Service owns a frontend, and moves frontends from one Service to another.
//!
//! Of all Services that claim an address, port and protocol, the one created first owns it, then the one whose name
//! sorts first. All nodes agree on that, and so does an agent that has just started. The others wait, and their
//! rejection names the owner.
//!
//! Ownership moves with a single map write. The new owner overwrites the entry with its slot tables first; only then is
//! the previous owner's state changed, so a client always finds the entry. A Service that is about to give up a
//! frontend for which others wait proposes it to its successor first, and is deferred until the successor has taken it.

use hashbrown::{HashMap, HashSet};

use super::core::Core;
use super::store::{ObjectStore, ServiceEntry};
use crate::proxy::desired::{Desired, FrontendAddr};
use crate::proxy::reconcile::plan::{Plan, Tag};
use crate::proxy::reconcile::{Ownership, PublishedPort};

/// The Services that wait for frontends of others. Empty as long as no two Services claim the same frontend.
#[derive(Debug, Default)]
pub(super) struct FrontendOwnership {
    waiting: HashMap<FrontendAddr, Vec<u32>>,
    /// The frontends that each waiting Service claims.
    of: HashMap<u32, Vec<FrontendAddr>>,
    /// Frontends that their owners give up once the successor has had a round to take them.
    proposed: HashSet<FrontendAddr>,
}

impl FrontendOwnership {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.of.is_empty() && self.proposed.is_empty()
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

    /// The first of those who wait for a frontend.
    fn first(&self, key: &FrontendAddr, store: &ObjectStore) -> Option<u32> {
        let others = self.waiting.get(key)?.iter().filter_map(|n| Some((*n, store.get(*n)?)));
        others.filter(|(_, e)| e.service.is_some()).min_by(|(_, a), (_, b)| a.rank().cmp(&b.rank())).map(|(n, _)| n)
    }

    /// Decides between `owner`, which has the frontend, and `own`, which claims it.
    pub(super) fn decide(&self, key: &FrontendAddr, own: &ServiceEntry, owner: u32, store: &ObjectStore) -> Ownership {
        match store.get(owner) {
            Some(other) if own.rank() < other.rank() || self.proposed.contains(key) => {
                // `published` of a Service that takes part in this round is empty until the round ends
                if other.published.iter().any(|p| p.find(key).is_some()) { Ownership::Ours } else { Ownership::Later }
            }
            _ => Ownership::Theirs,
        }
    }
}

impl Core {
    /// Proposes the frontends that the Service is about to give up to their successors. Returns true if there were any;
    /// the Service then keeps everything until they have taken them.
    pub(super) fn propose(&mut self, number: u32, before: &[PublishedPort], desired: &Desired) -> bool {
        if self.ownership.is_empty() {
            return false;
        }
        let mut proposed = false;
        for key in before.iter().flat_map(|p| &p.frontends).map(|f| f.key) {
            let was_proposed = self.ownership.proposed.remove(&key);
            let is_wanted = || desired.ports.iter().any(|p| p.frontends.iter().any(|f| f.key == key));
            let Some(successor) = self.ownership.first(&key, &self.store).filter(|h| *h != number && !is_wanted())
            else {
                continue;
            };
            if !was_proposed {
                self.ownership.proposed.insert(key);
                self.mark(successor);
                proposed = true;
            }
        }
        proposed
    }

    /// Asks those again who wait for what the Service has, and come before it now: it was made anew.
    pub(super) fn mark_earlier(&mut self, number: u32, after: &[PublishedPort]) {
        if self.ownership.is_empty() {
            return;
        }
        for key in after.iter().flat_map(|p| &p.frontends).map(|f| f.key) {
            let Some(successor) = self.ownership.first(&key, &self.store).filter(|h| *h != number) else { continue };
            let rank = |n: u32| self.store.get(n).map(ServiceEntry::rank);
            if rank(successor) < rank(number) {
                self.mark(successor);
            }
        }
    }

    /// The frontend leads to another Service now: `from` has it no more, and waits. All who wait are told anew who has it.
    pub(super) fn transfer(&mut self, key: &FrontendAddr, from: u32) {
        let Some(entry) = self.store.get_mut(from) else { return };
        for port in &mut entry.published {
            let Some(frontend) = port.find(key).copied() else { continue };
            port.frontends = port.frontends.iter().filter(|f| f.key != *key).copied().collect();
            self.allocator.leave_addr(&frontend, from);
        }
        self.ownership.proposed.remove(key);
        self.mark(from);
        self.tell_waiting(key);
    }

    fn tell_waiting(&mut self, key: &FrontendAddr) {
        self.ownership.wake(key).into_iter().for_each(|n| self.mark(n));
    }

    /// Plans, on the account of the Service that could not take a frontend over, that it leads to its owner. All who wait are told anew who has it.
    pub(super) fn plan_return(&mut self, key: &FrontendAddr, owner: u32, tag: Tag, plan: &mut Plan) {
        self.tell_waiting(key);
        let Some(entry) = self.store.get(owner) else { return };
        let Some((port, frontend)) = entry.published.iter().find_map(|p| Some((p, p.find(key)?))) else { return };
        self.allocator.enter_frontend(*key, port.id);
        let value = port.value(frontend);
        plan.set_frontend(tag, key, value);
    }

    /// Nobody knows where the frontend leads: its owner writes it again.
    pub(super) fn mark_frontend_uncertain(&mut self, key: &FrontendAddr, owner: u32) {
        let Some(entry) = self.store.get_mut(owner) else { return };
        entry.published.iter_mut().filter(|p| p.find(key).is_some()).for_each(|p| p.uncertain = true);
        self.mark(owner);
    }
}
