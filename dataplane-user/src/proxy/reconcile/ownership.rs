//! Decides which Service owns a frontend, and records which Services wait for it.
//!
//! Of all Services that claim an address, port and protocol, the one created first owns it, then
//! the one whose name sorts first. All nodes agree on that, and so does an agent that has just
//! started. The others wait, and their rejection names the owner.
//!
//! Ownership moves with a single map write. The new owner overwrites the entry with its slot tables
//! first; only then is the previous owner's state changed, so a client always finds the entry. A
//! Service that is about to give up a frontend for which others wait proposes it to its successor
//! first, and is deferred until the successor has taken it.
//!
//! [`super::Reconciler`] calls it and hands its [`Decisions`] to [`super::assign`] as a value. It
//! changes no published state and plans nothing.

use hashbrown::HashMap;

use super::allocator::Allocator;
use super::ids::ServiceId;
use super::published::PublishedPort;
use crate::proxy::desired::{Desired, FrontendAddr};
use crate::proxy::source::ObjectKey;

/// The owner of a frontend that another Service has and this one claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// The Service that has it keeps it.
    Theirs,
    /// The claimant takes it in this round.
    Ours,
    /// The claimant takes it in a later round, because the other Service is part of this one.
    Later,
}

/// The decision on each contested frontend of one Service. Empty unless the Service may take some.
#[derive(Debug, Default)]
pub struct Decisions(Vec<(FrontendAddr, Ownership)>);

impl Decisions {
    /// Returns the decision on a frontend; the Service that has it keeps it unless decided
    /// otherwise.
    #[must_use]
    pub fn get(&self, key: &FrontendAddr) -> Ownership {
        self.0.iter().find(|(k, _)| k == key).map_or(Ownership::Theirs, |(_, ownership)| *ownership)
    }
}

impl FromIterator<(FrontendAddr, Ownership)> for Decisions {
    fn from_iter<I: IntoIterator<Item = (FrontendAddr, Ownership)>>(decisions: I) -> Self {
        Self(decisions.into_iter().collect())
    }
}

/// A Service as far as ownership depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// Namespace and name.
    pub key: &'a ObjectKey,
    /// Creation time in seconds since 1970; `None` after the object was deleted.
    pub created: Option<u32>,
}

impl<'a> Claimant<'a> {
    /// Returns the rank of the claim: of two claimants the one with the smaller rank owns the
    /// frontend.
    #[must_use]
    pub fn rank(&self) -> (u32, &'a ObjectKey) {
        (self.created.unwrap_or(u32::MAX), self.key)
    }
}

/// The Services that exist, or existed and still have entries in the maps.
pub trait Claimants {
    /// Returns a Service; `None` if nothing is left of it.
    fn claimant(&self, id: ServiceId) -> Option<Claimant<'_>>;
}

/// The Services that wait for frontends of others. Empty as long as no two Services claim the same
/// frontend.
#[derive(Debug, Default)]
pub(super) struct FrontendOwnership {
    waiting: HashMap<FrontendAddr, Vec<ServiceId>>,
    /// The frontends that each waiting Service claims.
    of: HashMap<ServiceId, Vec<FrontendAddr>>,
    /// Frontends that their owners give up once the successor has had a round to take them, with
    /// the number of rounds that their owners have waited for that.
    proposed: HashMap<FrontendAddr, u8>,
}

/// Rounds that an owner waits for a successor, which may itself wait for another Service to take
/// something first. Two Services that wait for each other end it so.
const PATIENCE: u8 = 8;

impl FrontendOwnership {
    /// Returns true if no Service waits and no frontend is proposed.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.of.is_empty() && self.proposed.is_empty()
    }

    /// Records that the Service claims a frontend that another one has.
    pub(super) fn wait(&mut self, id: ServiceId, key: FrontendAddr) {
        let waiting = self.waiting.entry(key).or_default();
        if !waiting.contains(&id) {
            waiting.push(id);
            self.of.entry(id).or_default().push(key);
        }
    }

    /// Removes the Service's claims: it is about to be reconciled and claims again what it still
    /// wants.
    pub(super) fn remove(&mut self, id: ServiceId) {
        if self.of.is_empty() {
            return;
        }
        for key in self.of.remove(&id).into_iter().flatten() {
            if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.retain(|n| *n != id);
                if waiting.is_empty() {
                    self.waiting.remove(&key);
                }
            }
        }
    }

    /// Removes and returns the Services that wait for a frontend, because its owner has changed.
    pub(super) fn wake(&mut self, key: &FrontendAddr) -> Vec<ServiceId> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.waiting.remove(key).unwrap_or_default()
    }

    /// Returns the first in rank of the existing Services that wait for a frontend, other than
    /// `owner`.
    pub(super) fn successor(
        &self,
        key: &FrontendAddr,
        owner: ServiceId,
        services: &impl Claimants,
    ) -> Option<ServiceId> {
        let waiting = self.waiting.get(key)?.iter().filter_map(|id| Some((*id, services.claimant(*id)?)));
        let existing = waiting.filter(|(_, c)| c.created.is_some());
        existing.min_by_key(|(_, c)| c.rank()).map(|(id, _)| id).filter(|id| *id != owner)
    }

    /// Records a proposal to the successor. Returns false if it was proposed often enough.
    pub(super) fn propose(&mut self, key: FrontendAddr) -> bool {
        let rounds = self.proposed.entry(key).or_default();
        *rounds += 1;
        let patient = *rounds <= PATIENCE;
        if !patient {
            self.proposed.remove(&key);
        }
        patient
    }

    /// Ends a proposal.
    pub(super) fn end_proposal(&mut self, key: &FrontendAddr) {
        self.proposed.remove(key);
    }

    /// Decides on each frontend of `desired` that another Service has. `published` is by Service
    /// id.
    pub(super) fn decide(
        &self,
        id: ServiceId,
        desired: &Desired,
        allocator: &Allocator,
        published: &[Box<[PublishedPort]>],
        services: &impl Claimants,
    ) -> Decisions {
        let Some(own) = services.claimant(id) else { return Decisions::default() };
        let decide = |key: FrontendAddr| {
            let owner = allocator.ports.owner(allocator.frontend_owner(&key)?).filter(|owner| *owner != id)?;
            let other = services.claimant(owner)?;
            if own.rank() >= other.rank() && !self.proposed.contains_key(&key) {
                return None;
            }
            // a Service that takes part in this round has no published state until the round ends
            let has_it = published.get(owner.index()).is_some_and(|ports| ports.iter().any(|p| p.find(&key).is_some()));
            Some((key, if has_it { Ownership::Ours } else { Ownership::Later }))
        };
        desired.ports.iter().flat_map(|p| &p.frontends).filter_map(|f| decide(f.key)).collect()
    }
}
