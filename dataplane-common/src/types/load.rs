//! The load of a backend, and what a search for the least loaded one compares.
//!
//! The programs count and compare; the agent corrects what they have counted. The numbers are those of IPVS, see
//! [`crate::balance::least_connections`].

use crate::types::service::{BackendLoad, BackendStats, SlotTable, scheduler};

/// How many slots a choice looks at.
pub const EXACT: u32 = 32;

/// The connections that a backend has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnectionCounts {
    /// Established, or being so; datagrams that have not idled too long.
    pub active: u32,
    /// TCP connections after a FIN or RST.
    pub inactive: u32,
}

impl ConnectionCounts {
    /// What the programs have counted since the agent's last look, on top of what that has found. What belongs to another generation is nobody's.
    #[inline(always)]
    #[must_use]
    pub const fn new(stats: &BackendStats, found: &BackendLoad, generation: u32) -> Self {
        let (mut active, mut inactive) = (0, 0);
        let mut flows = 0;
        if found.generation == generation {
            (active, inactive, flows) = (found.active, found.inactive, found.flows);
        }
        if stats.generation == generation {
            active = active.wrapping_add((stats.flows as u32).wrapping_sub(flows)).wrapping_add(stats.sockets as u32);
        }
        // below zero only by a race
        let negative = (active.cast_signed() >> 31).cast_unsigned();
        Self { active: active & !negative, inactive }
    }
}

/// What a scheduler compares: the fields of one word, all of which are factors and shifts, so that nothing branches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Formula(pub u32);

impl Formula {
    const INACTIVE: u32 = 16;
    const NEW: u32 = 20;
    const IDLE: u32 = 24;
    const SHIFT: u32 = 27;

    /// `active`: what an active connection counts. `inactive`: what another one counts. `new`: what the new one counts, for which `idle` makes an
    /// exception where there is no active one. `shift`: of a weight, how many of its 16 bits make no difference.
    const fn new(active: u32, inactive: u32, new: u32, idle: u32, shift: u32) -> Self {
        Self(active | inactive << Self::INACTIVE | new << Self::NEW | idle << Self::IDLE | shift << Self::SHIFT)
    }

    /// Of one of [`scheduler`].
    #[inline(always)]
    #[must_use]
    pub const fn of(rule: u8) -> Self {
        match rule {
            scheduler::LC => Self::new(256, 1, 0, 0, 16),
            scheduler::SED => Self::new(1, 0, 1, 0, 0),
            scheduler::NQ => Self::new(1, 0, 1, 1, 0),
            _ => Self::new(256, 1, 0, 0, 0),
        }
    }

    /// What is compared, before it is divided by [`Self::weight`].
    #[inline(always)]
    #[must_use]
    pub const fn overhead(self, load: ConnectionCounts) -> u64 {
        let (active, inactive) = (self.0 & 0xffff, self.0 >> Self::INACTIVE & 0xf);
        // 2^32, or 1 less: then it takes an active connection to make a whole of it
        let new = ((self.0 >> Self::NEW & 0xf) as u64) << 32;
        let new = new - (self.0 >> Self::IDLE & 7) as u64;
        load.active as u64 * active as u64 + load.inactive as u64 * inactive as u64 + ((load.active as u64 + new) >> 32)
    }

    /// What that is divided by; 0: takes no connection.
    #[inline(always)]
    #[must_use]
    pub const fn weight(self, weight: u32) -> u64 {
        let shift = self.0 >> Self::SHIFT;
        // rounded up: only 0 is 0
        (weight as u64 + (1 << shift) - 1) >> shift
    }
}

/// A search, in words: that is what a function can be given that the verifier looks at by itself.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Where.
    pub table: SlotTable,
    /// From this, of all 32 bits, the first slot follows,
    pub first: u32,
    /// and with this on top of it the next.
    pub addend: u32,
    /// What is compared.
    pub formula: Formula,
}

impl Search {
    /// In a table that is not empty. `random`: 32 bits that decide where it begins, and so between equals.
    #[inline(always)]
    #[must_use]
    pub const fn new(table: SlotTable, rule: u8, random: u32) -> Self {
        let formula = Formula::of(rule);
        if table.len > EXACT {
            // the distance is drawn, too: Knuth's multiplicative hash makes another number of the same one
            return Self { table, first: random, addend: random.wrapping_mul(0x9e37_79b1) | 1, formula };
        }
        // from one slot to the next, rounded up
        let addend = match u32::MAX.checked_div(table.len) {
            Some(n) => n.wrapping_add(1),
            None => 0,
        };
        Self { table, first: slot(random, table.len).wrapping_mul(addend), addend, formula }
    }

    /// For a function that takes nothing else.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u32; 5] {
        [self.table.base, self.table.len, self.first, self.addend, self.formula.0]
    }

    /// From [`Self::words`].
    #[inline(always)]
    #[must_use]
    pub const fn from_words([base, len, first, addend, formula]: [u32; 5]) -> Self {
        Self { table: SlotTable { base, len }, first, addend, formula: Formula(formula) }
    }
}

/// From all of 32 bits to one of `len` (Lemire, "Fast random integer generation in an interval").
#[inline(always)]
#[must_use]
pub const fn slot(random: u32, len: u32) -> u32 {
    ((random as u64 * len as u64) >> 32) as u32
}
