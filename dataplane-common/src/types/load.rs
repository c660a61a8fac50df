//! Connection counts of a backend, and the search for the least loaded one.
//!
//! The programs count flows and sockets as they open them. The agent counts the flows that exist in
//! a sweep of the flow tables. A backend's load is its count in the last sweep, plus the flows
//! opened since, plus its open sockets. [`Formula`] encodes the schedulers of IPVS as factors of
//! one expression. [`crate::balance::least_connections`] runs the search.

use crate::types::service::{BackendLoad, BackendStats, SlotTable, scheduler};

/// Number of slots that a search looks at. A table of at most this length is searched completely.
pub const EXACT: u32 = 32;

/// The connections of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnectionCounts {
    /// TCP connections that are being opened or established, and other flows that have not
    /// timed out.
    pub active: u32,
    /// TCP connections after a FIN or RST that have not timed out.
    pub inactive: u32,
}

impl ConnectionCounts {
    /// Adds the flows that the programs have opened since the agent's last sweep to the counts of
    /// that sweep. Counts of another generation belong to another endpoint and are ignored.
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
        // The socket count can drop below zero by a race; a negative sum counts as 0. A mask and
        // not a branch: this code is inside the search loop.
        let negative = (active.cast_signed() >> 31).cast_unsigned();
        Self { active: active & !negative, inactive }
    }
}

/// The expression that a scheduler compares, as factors and shifts packed into one word.
///
/// All schedulers run the same instructions with other numbers. A `match` inside the search loop
/// would make the verifier explore every scheduler in each iteration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Formula(pub u32);

impl Formula {
    const INACTIVE: u32 = 16;
    const NEW: u32 = 20;
    const IDLE: u32 = 24;
    const SHIFT: u32 = 27;

    /// Packs the fields. `active`, `inactive`: factors of the two counts. `new`: what the new
    /// connection adds. `idle`: the amount in units of 2^-32 by which `new` is reduced, so that it
    /// counts only beside an active connection (see [`Self::overhead`]). `shift`: how many of a
    /// weight's 16 low bits to ignore.
    const fn new(active: u32, inactive: u32, new: u32, idle: u32, shift: u32) -> Self {
        Self(active | inactive << Self::INACTIVE | new << Self::NEW | idle << Self::IDLE | shift << Self::SHIFT)
    }

    /// Returns the expression of one of [`scheduler`].
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

    /// Returns the numerator of the comparison; [`Self::weight`] is the denominator.
    #[inline(always)]
    #[must_use]
    pub const fn overhead(self, load: ConnectionCounts) -> u64 {
        let (active, inactive) = (self.0 & 0xffff, self.0 >> Self::INACTIVE & 0xf);
        // In units of 2^-32: one connection, or just below one if `idle` is set. Added to the
        // active ones and rounded down, "just below one" adds nothing to zero and one to all else.
        let new = ((self.0 >> Self::NEW & 0xf) as u64) << 32;
        let new = new - (self.0 >> Self::IDLE & 7) as u64;
        load.active as u64 * active as u64 + load.inactive as u64 * inactive as u64 + ((load.active as u64 + new) >> 32)
    }

    /// Returns the denominator of the comparison; 0 means that the backend takes no connection.
    #[inline(always)]
    #[must_use]
    pub const fn weight(self, weight: u32) -> u64 {
        let shift = self.0 >> Self::SHIFT;
        // Rounded up, so that only weight 0 becomes 0.
        (weight as u64 + (1 << shift) - 1) >> shift
    }
}

/// The parameters of a search, packed into words.
///
/// The search is a global function of the eBPF object, which may take at most five scalars
/// (`btf_prepare_func_args` in kernel/bpf/btf.c).
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The slot table to search.
    pub table: SlotTable,
    /// Position of the first slot, as a fraction of the table length in units of 2^-32.
    pub first: u32,
    /// Distance from one slot to the next, in the same unit, with wrap-around.
    pub addend: u32,
    /// The expression to compare.
    pub formula: Formula,
}

impl Search {
    /// Prepares a search in a table that is not empty. `random` is 32 random bits: they select the
    /// first slot, and so decide between equals.
    #[inline(always)]
    #[must_use]
    pub const fn new(table: SlotTable, rule: u8, random: u32) -> Self {
        let formula = Formula::of(rule);
        if table.len > EXACT {
            // The step is random too. Knuth's multiplicative hash derives a second number from the
            // same draw, and an odd step visits distinct positions.
            return Self { table, first: random, addend: random.wrapping_mul(0x9e37_79b1) | 1, formula };
        }
        // One slot, rounded up: `len` steps visit every slot.
        let addend = match u32::MAX.checked_div(table.len) {
            Some(n) => n.wrapping_add(1),
            // `checked_div`, because a division leaves a panic in the object, which must not load.
            None => 0,
        };
        Self { table, first: slot(random, table.len).wrapping_mul(addend), addend, formula }
    }

    /// Returns the parameters as plain numbers, for a function call.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u32; 5] {
        [self.table.base, self.table.len, self.first, self.addend, self.formula.0]
    }

    /// Converts from the output of [`Self::words`].
    #[inline(always)]
    #[must_use]
    pub const fn from_words([base, len, first, addend, formula]: [u32; 5]) -> Self {
        Self { table: SlotTable { base, len }, first, addend, formula: Formula(formula) }
    }
}

/// Maps all 32-bit numbers evenly to `0..len` (Lemire, "Fast random integer generation in an
/// interval"). Unlike `%` it needs no division.
#[inline(always)]
#[must_use]
pub const fn slot(random: u32, len: u32) -> u32 {
    ((random as u64 * len as u64) >> 32) as u32
}
