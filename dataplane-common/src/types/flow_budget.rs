//! The share of the flow tables that one sender may fill.
//!
//! The tables are LRU hashes: when one is full, each new flow removes an old one, whoever owns it.
//! So each sender has a budget of new flows: a pod, a network outside, and everything outside
//! together. A flow beyond it is a *surplus* flow. Those of all pods share a ring, and those from
//! outside another one ([`Ring`]): each takes the place of the oldest in its ring. A flood thus
//! removes flows of floods, without an agent too. `path/flow_share.rs` decides.

use super::pod::POD_SLOTS;

/// Number of budgets for networks outside, which share them by hash.
pub const NETWORKS: u32 = 1024;
/// Index of the budget of everything outside together in the array `flow_budgets`. Before it are
/// those of pods, by interface index, and of networks.
pub const OUTSIDE: u32 = POD_SLOTS + NETWORKS;
/// Number of elements of `flow_budgets`.
pub const BUDGETS: u32 = OUTSIDE + 1;

/// Ticks after which an unused budget is whole again.
const REFILL: u32 = 16;
/// Entries of the rings for each new flow of a pod in a tick.
const ENTRIES_PER_FLOW: u32 = 64;

/// Returns the number of new flows that a pod, and everything outside, may open in a tick, with so
/// many `entries` in both rings. With a quarter of the flow table's entries, that is a flood of a
/// minute and its ring in a table that has room for both.
#[inline(always)]
#[must_use]
pub const fn rate(entries: u32) -> u32 {
    entries / ENTRIES_PER_FLOW
}

/// The new flows of one sender: element of `flow_budgets`.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FlowBudget {
    /// Tick of the last new flow, as of [`crate::maps::SharedMaps::now`].
    pub tick: u32,
    /// Number of flows that are not regained yet.
    pub used: u32,
}

impl FlowBudget {
    /// Takes a flow from the budget, which regains `rate` flows a tick, up to 16 times as many.
    /// Returns false if it is empty.
    #[inline(always)]
    #[must_use]
    pub const fn take(&mut self, now: u32, rate: u32) -> bool {
        let elapsed = now.wrapping_sub(self.tick);
        self.tick = now;
        self.used = if elapsed < REFILL { self.used.saturating_sub(elapsed * rate) } else { 0 };
        let has_room = self.used < rate * REFILL;
        self.used += has_room as u32;
        has_room
    }
}

/// A ring of surplus flows: a half of the arrays `surplus4` and `surplus6`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Ring {
    /// Flows that pods have opened.
    Pods,
    /// Flows from outside.
    Outside,
}

impl Ring {
    /// Number of rings in both families: elements of the array `surplus_heads`.
    pub const HEADS: usize = 4;

    /// Returns the index of the ring's head in `surplus_heads`.
    #[inline(always)]
    #[must_use]
    pub const fn head(self, v6: bool) -> u32 {
        self as u32 + 2 * v6 as u32
    }

    /// Returns the element for the `n`th flow of the ring, if both rings have `entries`, a power of
    /// two.
    #[inline(always)]
    #[must_use]
    pub const fn element(self, n: u32, entries: u32) -> u32 {
        let half = entries / 2;
        (n & half.wrapping_sub(1)) + self as u32 * half
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_regained_with_time() {
        let mut budget = FlowBudget::default();
        assert!((0..160).all(|_| budget.take(100, 10)));
        assert!(!budget.take(100, 10));
        assert!((0..10).all(|_| budget.take(101, 10)));
        assert!(!budget.take(101, 10));
        for tick in [117, 1000, 999_999, 5] {
            assert!((0..160).all(|_| budget.take(tick, 10)), "tick {tick}");
            assert!(!budget.take(tick, 10), "tick {tick}");
        }
        assert!(!FlowBudget::default().take(1, 0), "without a rate there is no budget");
    }

    #[test]
    fn rings_are_halves_of_the_array() {
        let used = |ring: Ring| (0..16).map(move |n| ring.element(n, 8));
        assert!(used(Ring::Pods).eq([0, 1, 2, 3].into_iter().cycle().take(16)));
        assert!(used(Ring::Outside).eq([4, 5, 6, 7].into_iter().cycle().take(16)));
    }
}
