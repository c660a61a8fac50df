//! Computes the content of slot tables: the part of a scheduler that is done once for many
//! connections.
//!
//! Pure and the same on every node: members come sorted by address and port, whatever the order of
//! the objects was. The rule that picks a slot is in `dataplane_common::balance::select`.

pub mod maglev;
mod spread;
#[cfg(test)]
mod tests;

use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::scheduler;

use super::published::{PublishedBackend, PublishedPort};
use crate::config::maglev::LARGEST;

/// Greatest length of a table of weights; longer if there are more than a quarter as many backends.
/// Weights whose sum, divided by their greatest common divisor, is no larger are exact. Larger ones
/// are rounded, so that a share is wrong by at most (n + 1) / (16384 - n) with n backends.
pub const MAX_EXPANDED: u32 = 16384;

/// The scheduling settings of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// One of [`scheduler`].
    pub scheduler: u8,
    /// Size of Maglev tables: a prime, see [`maglev::size`].
    pub maglev_size: u32,
}

/// The figures of the members that decide about the length of a table.
#[derive(Clone, Copy, Default, Debug)]
pub struct MemberCounts {
    members: u32,
    sum: u64,
    divisor: u16,
}

impl MemberCounts {
    /// Adds a member.
    pub const fn add(&mut self, weight: u16) {
        self.members += 1;
        self.sum += weight as u64;
        if self.divisor != weight {
            self.divisor = gcd(self.divisor, weight);
        }
    }

    fn of<'a>(members: impl Iterator<Item = &'a PublishedBackend>) -> Self {
        let mut counts = Self::default();
        members.for_each(|b| counts.add(b.weight));
        counts
    }

    const fn reduced(&self) -> u64 {
        self.sum / if self.divisor == 0 { 1 } else { self.divisor as u64 }
    }

    fn limit(&self) -> u64 {
        u64::from(MAX_EXPANDED.max(self.members.saturating_mul(4)))
    }

    /// Returns the number of slots of a member.
    fn share(&self, weight: u16) -> u64 {
        if self.reduced() <= self.limit() {
            u64::from(weight) / u64::from(self.divisor.max(1))
        } else {
            ((u64::from(weight) * self.limit() + self.sum / 2) / self.sum).max(1)
        }
    }

    /// Returns the length of the table of these members.
    pub fn len<'a>(&self, rule: Rule, members: impl Iterator<Item = &'a PublishedBackend>) -> u32 {
        if self.members == 0 {
            return 0;
        }
        match rule.scheduler {
            scheduler::MH => maglev::size(rule.maglev_size, self.members),
            s if !expands(s) => self.members,
            _ if self.reduced() <= self.limit() => self.reduced() as u32,
            _ => members.map(|b| self.share(b.weight)).sum::<u64>() as u32,
        }
    }
}

/// Returns true if a backend has as many slots as its weight. Other schedulers take weights from
/// `backends`, or not at all.
const fn expands(s: u8) -> bool {
    matches!(s, scheduler::RANDOM | scheduler::WRR | scheduler::SH)
}

const fn gcd(mut a: u16, mut b: u16) -> u16 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl PublishedPort {
    /// Appends the content of one slot table.
    pub fn fill(&self, (i, family, set): (usize, IpFamily, u8), out: &mut Vec<u32>) {
        fill(self.scheduler, self.tables[i].len, self.members(family, set), out);
    }
}

/// Appends the backend ids of a table of `len` slots ([`MemberCounts::len`]) to `out`. A Maglev
/// table of an impossible length adds nothing.
pub fn fill<'a>(number: u8, len: u32, members: impl Iterator<Item = &'a PublishedBackend> + Clone, out: &mut Vec<u32>) {
    if number == scheduler::MH && len <= LARGEST {
        let members: Vec<_> = members.collect();
        maglev::fill(len, &members, out);
        return;
    }
    let counts = MemberCounts::of(members.clone());
    if !expands(number) || counts.reduced() == u64::from(counts.members) {
        out.extend(members.map(|b| b.id.get()));
        return;
    }
    let shares = members.map(|b| (b.id.get(), counts.share(b.weight) as u32));
    if number == scheduler::WRR {
        spread::fill(&shares.collect::<Vec<_>>(), out);
    } else {
        out.extend(shares.flat_map(|(id, share)| std::iter::repeat_n(id, share as usize)));
    }
}
