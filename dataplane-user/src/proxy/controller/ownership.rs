//! Who waits for frontends that others have, and how a frontend goes from one Service to another.
//!
//! Of all Services that claim an address, port and protocol, the one that was created first has it, then the one whose name comes first: so that all
//! nodes agree, and an agent that starts agrees with one that has been there all the time. Whoever came later waits, and is told.
//!
//! A frontend is handed over by one write: whoever gets it writes it anew, with its own tables, and only then forgets the books that the other one had
//! it. So a client never finds it missing. A Service that is about to give up a frontend for which others wait offers it first, and is put off
//! until the first of them has taken it.

use hashbrown::{HashMap, HashSet};

use super::core::Core;
use super::store::{Entry, Store};
use crate::proxy::desired::{Desired, FrontendAddr, is_v4};
use crate::proxy::reconcile::plan::{Plan, Tag};
use crate::proxy::reconcile::published::frontend_key;
use crate::proxy::reconcile::{PublishedPort, Standing};

/// Empty as long as no two Services want the same.
#[derive(Debug, Default)]
pub(super) struct Claims {
    waiting: HashMap<FrontendAddr, Vec<u32>>,
    /// What each waits for.
    of: HashMap<u32, Vec<FrontendAddr>>,
    /// Whoever has these gives them up as soon as the first who waits has had the chance to take them.
    offered: HashSet<FrontendAddr>,
}

impl Claims {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.of.is_empty() && self.offered.is_empty()
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
    fn first(&self, key: &FrontendAddr, store: &Store) -> Option<u32> {
        let others = self.waiting.get(key)?.iter().filter_map(|n| Some((*n, store.get(*n)?)));
        others.filter(|(_, e)| e.service.is_some()).min_by(|(_, a), (_, b)| a.rank().cmp(&b.rank())).map(|(n, _)| n)
    }

    /// Whose the frontend is that `owner` has and `own` wants.
    pub(super) fn standing(&self, key: &FrontendAddr, own: &Entry, owner: u32, store: &Store) -> Standing {
        match store.get(owner) {
            Some(other) if own.rank() < other.rank() || self.offered.contains(key) => {
                // who takes part in the round has nothing in the books until it ends
                if other.published.iter().any(|p| p.find(key).is_some()) { Standing::Ours } else { Standing::Later }
            }
            _ => Standing::Theirs,
        }
    }
}

impl Core {
    /// Offers what the Service is about to give up to those who wait for it. Says whether there was something: then the Service keeps all that it
    /// has until they have taken it.
    pub(super) fn offer(&mut self, number: u32, before: &[PublishedPort], desired: &Desired) -> bool {
        if self.claims.is_empty() {
            return false;
        }
        let mut offered = false;
        for key in before.iter().flat_map(|p| &p.frontends).map(|f| f.key) {
            let was_offered = self.claims.offered.remove(&key);
            let is_wanted = || desired.ports.iter().any(|p| p.frontends.iter().any(|f| f.key == key));
            let Some(heir) = self.claims.first(&key, &self.store).filter(|h| *h != number && !is_wanted()) else {
                continue;
            };
            if !was_offered {
                self.claims.offered.insert(key);
                self.mark(heir);
                offered = true;
            }
        }
        offered
    }

    /// Asks those again who wait for what the Service has, and come before it now: it was made anew.
    pub(super) fn mark_earlier(&mut self, number: u32, after: &[PublishedPort]) {
        if self.claims.is_empty() {
            return;
        }
        for key in after.iter().flat_map(|p| &p.frontends).map(|f| f.key) {
            let Some(heir) = self.claims.first(&key, &self.store).filter(|h| *h != number) else { continue };
            let rank = |n: u32| self.store.get(n).map(Entry::rank);
            if rank(heir) < rank(number) {
                self.mark(heir);
            }
        }
    }

    /// The frontend leads to another Service now: `from` has it no more, and waits. All who wait are told anew who has it.
    pub(super) fn hand_over(&mut self, key: &FrontendAddr, from: u32) {
        let Some(entry) = self.store.get_mut(from) else { return };
        for port in &mut entry.published {
            let Some(frontend) = port.find(key).copied() else { continue };
            port.frontends = port.frontends.iter().filter(|f| f.key != *key).copied().collect();
            self.ledger.leave_addr(&frontend, from);
        }
        self.claims.offered.remove(key);
        self.mark(from);
        self.tell_waiting(key);
    }

    fn tell_waiting(&mut self, key: &FrontendAddr) {
        self.claims.wake(key).into_iter().for_each(|n| self.mark(n));
    }

    /// Plans, on the account of the Service that could not take a frontend over, that it leads to its owner. All who wait are told anew who has it.
    pub(super) fn plan_return(&mut self, key: &FrontendAddr, owner: u32, tag: Tag, plan: &mut Plan) {
        self.tell_waiting(key);
        let Some(entry) = self.store.get(owner) else { return };
        let Some((port, frontend)) = entry.published.iter().find_map(|p| Some((p, p.find(key)?))) else { return };
        self.ledger.enter_frontend(*key, port.id);
        let value = port.value(frontend);
        if is_v4(&key.addr) {
            plan.frontends4.push(tag, frontend_key(key), value);
        } else {
            plan.frontends6.push(tag, frontend_key(key), value);
        }
    }

    /// Nobody knows where the frontend leads: its owner writes it again.
    pub(super) fn doubt_frontend(&mut self, key: &FrontendAddr, owner: u32) {
        let Some(entry) = self.store.get_mut(owner) else { return };
        entry.published.iter_mut().filter(|p| p.find(key).is_some()).for_each(|p| p.uncertain = true);
        self.mark(owner);
    }
}
