//! Compares maps with what the oracle expects: exactly when the controller has nothing left to do,
//! and at any other instant with the states between which it is.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Mutex;

use dataplane_common::types::service::scheduler;

use super::{Claim, Expected, FrontendId, Range, Table};
use crate::proxy::controller::Core;
use crate::proxy::controller::tests::view::{FrontendView, Seen, View};
use crate::proxy::source::{ObjectKey, Rejection};

/// Address and port of an endpoint.
type Place = (IpAddr, u16);

const fn place(seen: &Seen) -> Place {
    (seen.0, seen.1)
}

impl Expected {
    /// Checks maps and reports of a controller that has nothing left to do. `read` is what the
    /// source has rejected.
    pub(in super::super) fn check(&self, view: &View, core: &mut Core, read: &[Rejection]) {
        let (seen, wanted) = (view.frontends.keys().collect::<Vec<_>>(), self.claims.keys().collect::<Vec<_>>());
        assert_eq!(seen, wanted, "frontends");
        for (id, seen) in &view.frontends {
            let wanted = &self.claims[id][0];
            assert!(wanted.is(seen), "{id:?}: {seen:?} instead of {wanted:?}");
        }
        assert_eq!(view.backends, self.backends, "backends");
        assert_eq!(view.orphans, 0, "backends without a Service");
        assert_eq!(view.names, self.names, "names");
        assert_eq!(view.sources, self.sources, "source ranges");
        assert_eq!(view.addresses, self.addresses, "addresses");
        let snapshot = core.snapshot();
        let mut rejections: Vec<_> = snapshot.rejections.iter().map(ToString::to_string).collect();
        rejections.sort_unstable();
        let mut wanted: Vec<_> = self.rejections.iter().cloned().chain(read.iter().map(ToString::to_string)).collect();
        wanted.sort_unstable();
        assert_eq!(rejections, wanted, "rejections");
        let health: Vec<_> =
            snapshot.health_checks.iter().map(|(port, c)| (*port, &*c.name, c.local_endpoints)).collect();
        let wanted: Vec<_> = self.health.iter().map(|(port, (key, count))| (*port, &*key.name, *count)).collect();
        assert_eq!(health, wanted, "health checks");
    }

    /// Checks maps in the middle of a change. Each frontend is as in one of `states`, and is there
    /// if one Service asks for it in all of them, whether that Service has it or waits for it;
    /// unless a write has `failed` or a map is full, and with it perhaps the takeover. Each backend
    /// and range of clients is in one of them.
    pub(in super::super) fn check_between(states: &[Self], view: &View, failed: bool) {
        let claims = |id: &FrontendId| {
            let id = *id;
            states.iter().filter_map(move |state| state.claims.get(&id)).flatten()
        };
        for (id, seen) in &view.frontends {
            let ranges: BTreeSet<Range> = view
                .sources
                .range((seen.service.clone(), IpAddr::from([0; 4]), 0)..)
                .take_while(|(name, ..)| *name == seen.service)
                .map(|(_, addr, bits)| (*addr, *bits))
                .collect();
            let is_one = |claim: &Claim| claim.is(seen) && claim.ranges.is_subset(&ranges);
            let known: Vec<_> = claims(id).collect();
            assert!(known.iter().any(|claim| is_one(claim)), "{id:?}: {seen:?} {ranges:?} is none of {known:?}");
        }
        let Some((first, later)) = states.split_first() else { return };
        for (id, claims) in first.claims.iter().filter(|(id, _)| !failed && !view.frontends.contains_key(*id)) {
            let asks = |state: &Self, service: &ObjectKey| {
                state.claims.get(id).is_some_and(|c| c.iter().any(|c| c.service == *service))
            };
            let asked = claims.iter().any(|c| later.iter().all(|state| asks(state, &c.service)));
            assert!(!asked, "{id:?} is missing");
        }
        let known = |backend| states.iter().any(|state| state.backends.contains(backend));
        assert!(view.backends.iter().all(known), "{:?}", view.backends.iter().find(|b| !known(b)));
        let known = |range| states.iter().any(|state| state.sources.contains(range));
        assert!(view.sources.iter().all(known), "{:?}", view.sources.iter().find(|r| !known(r)));
    }
}

impl Claim {
    fn is(&self, seen: &FrontendView) -> bool {
        seen.service == self.port
            && (seen.flags, seen.affinity_ticks) == (self.flags, self.affinity_ticks)
            && seen.scheduler == self.internal.scheduler
            && self.internal.is(&seen.internal)
            && self.external.is(&seen.external)
    }
}

impl Table {
    /// Returns true if the slots are a table of these members, by docs/schedulers.md.
    fn is(&self, slots: &[Seen]) -> bool {
        let slots: Vec<Place> = slots.iter().map(place).collect();
        if self.members.is_empty() {
            return slots.is_empty();
        }
        let total: u64 = self.members.iter().map(|m| u64::from(m.3)).sum();
        match self.scheduler {
            scheduler::RANDOM | scheduler::SH => {
                let divisor =
                    (1..=total).rev().find(|d| self.members.iter().all(|m| u64::from(m.3).is_multiple_of(*d)));
                let times = |m: &Seen| (u64::from(m.3) / divisor.unwrap_or(1)) as usize;
                slots == self.members.iter().flat_map(|m| std::iter::repeat_n(place(m), times(m))).collect::<Vec<_>>()
            }
            scheduler::WRR => self.is_in_turn(&slots, total) && self.is_the_same_everywhere(&slots),
            scheduler::MH => self.is_maglev(&slots, total) && self.is_the_same_everywhere(&slots),
            _ => slots == self.members.iter().map(place).collect::<Vec<_>>(),
        }
    }

    /// "After any number of connections in turn, each backend has had its exact share, rounded up
    /// or down."
    fn is_in_turn(&self, slots: &[Place], total: u64) -> bool {
        let all_had_their_share = |turns: usize| {
            self.members.iter().all(|m| {
                let had = slots[..turns].iter().filter(|slot| **slot == place(m)).count() as u64;
                (had * total).abs_diff(turns as u64 * u64::from(m.3)) < total
            })
        };
        // Each share is whole at the end: it divides the sum of weights.
        (total as usize).is_multiple_of(slots.len()) && (0..=slots.len()).all(all_had_their_share)
    }

    /// Each backend has its share of the slots. Backends claim slots one after the other, so that
    /// it may be off by one for each of them.
    fn is_maglev(&self, slots: &[Place], total: u64) -> bool {
        let fits = |m: &Seen| {
            let has = slots.iter().filter(|slot| **slot == place(m)).count() as u64;
            let off = (has * total).abs_diff(slots.len() as u64 * u64::from(m.3));
            has > 0 && off <= total * self.members.len() as u64
        };
        slots.len() == self.maglev_size as usize && self.members.iter().all(fits)
    }

    /// "Tables depend on addresses, ports and weights of the endpoints alone": compares the slots
    /// with those of all histories so far.
    fn is_the_same_everywhere(&self, slots: &[Place]) -> bool {
        static KNOWN: Mutex<BTreeMap<(u8, u32, u64), u64>> = Mutex::new(BTreeMap::new());
        let members: Vec<_> = self.members.iter().map(|m| (place(m), m.3)).collect();
        let table = (self.scheduler, self.maglev_size, digest(&members));
        *KNOWN.lock().unwrap().entry(table).or_insert_with(|| digest(&slots)) == digest(&slots)
    }
}

fn digest(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
