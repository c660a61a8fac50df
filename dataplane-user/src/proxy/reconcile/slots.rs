//! Allocates ranges of the map `slots`.
//!
//! A published range is allocated again only after a grace time, because a program may still be
//! reading it. The allocator owns it; it writes no map.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dataplane_common::types::service::SlotTable;

/// The time that a range rests after its last frontend has left it. A program that has read the
/// frontend before finishes within microseconds; two seconds leave room for a preempted one.
const GRACE: Duration = Duration::from_secs(2);

/// The free and resting ranges.
#[derive(Debug)]
pub struct FreeList {
    by_base: BTreeMap<u32, u32>,
    by_len: BTreeSet<(u32, u32)>,
    resting: VecDeque<(Duration, SlotTable)>,
    used: u32,
}

impl FreeList {
    /// Creates the list of an array of `capacity` free slots.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let mut new = Self { by_base: BTreeMap::new(), by_len: BTreeSet::new(), resting: VecDeque::new(), used: 0 };
        new.add(SlotTable { base: 0, len: capacity });
        new
    }

    /// Creates the list of an array of which `used` is taken; ranges that overlap or reach beyond
    /// the end are cut.
    #[must_use]
    pub fn with_used(capacity: u32, mut used: Vec<SlotTable>) -> Self {
        used.retain(|s| s.len > 0);
        used.sort_unstable_by_key(|s| s.base);
        let mut new = Self::new(0);
        let mut next = 0;
        for range in used {
            let base = range.base.clamp(next, capacity);
            new.add(SlotTable { base: next, len: base - next });
            let end = range.base.saturating_add(range.len).clamp(base, capacity);
            new.used += end - base;
            next = end;
        }
        new.add(SlotTable { base: next, len: capacity - next });
        new
    }

    /// Returns the number of slots that are in use or at rest.
    #[must_use]
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Returns the number of slots that are in use and not at rest.
    #[cfg(test)]
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.used - self.resting.iter().map(|(_, range)| range.len).sum::<u32>()
    }

    /// Takes the smallest free range that fits, cut to `len`.
    pub fn take(&mut self, len: u32, now: Duration) -> Option<SlotTable> {
        if len == 0 {
            return Some(SlotTable::default());
        }
        self.wake(now);
        let (found, base) = *self.by_len.range((len, 0)..).next()?;
        self.by_len.remove(&(found, base));
        self.by_base.remove(&base);
        self.add(SlotTable { base: base + len, len: found - len });
        self.used += len;
        Some(SlotTable { base, len })
    }

    /// Takes back a published range, which rests before it is free.
    pub fn release(&mut self, range: SlotTable, now: Duration) {
        if range.len > 0 {
            self.resting.push_back((now + GRACE, range));
        }
    }

    /// Takes back a range that was never published and is free at once.
    pub fn take_back(&mut self, range: SlotTable) {
        self.used -= range.len.min(self.used);
        self.add(range);
    }

    /// Returns the time at which the next range becomes free.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        self.resting.front().map(|(at, _)| *at)
    }

    /// Frees the ranges that have rested.
    pub fn wake(&mut self, now: Duration) {
        while let Some(&(at, range)) = self.resting.front()
            && at <= now
        {
            self.resting.pop_front();
            self.take_back(range);
        }
    }

    /// Adds a free range and joins it with its neighbours.
    fn add(&mut self, mut range: SlotTable) {
        if range.len == 0 {
            return;
        }
        if let Some((&base, &len)) = self.by_base.range(..range.base).next_back()
            && base + len == range.base
        {
            self.by_len.remove(&(len, base));
            range = SlotTable { base, len: len + range.len };
        }
        if let Some(len) = self.by_base.remove(&(range.base + range.len)) {
            self.by_len.remove(&(len, range.base + range.len));
            range.len += len;
        }
        self.by_base.insert(range.base, range.len);
        self.by_len.insert((range.len, range.base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn ranges_never_overlap_and_are_joined_when_freed() {
        let mut s = FreeList::new(100);
        let taken: Vec<_> = (1..=10).map(|len| s.take(len, NOW).unwrap()).collect();
        let mut cells = [false; 100];
        for t in &taken {
            for cell in &mut cells[t.base as usize..(t.base + t.len) as usize] {
                assert!(!std::mem::replace(cell, true), "overlap in {taken:?}");
            }
        }
        for t in taken.iter().step_by(2).chain(taken.iter().skip(1).step_by(2)) {
            s.release(*t, NOW);
        }
        assert_eq!(s.take(100, NOW), None, "still at rest");
        assert_eq!(s.take(100, NOW + GRACE), Some(SlotTable { base: 0, len: 100 }));
        assert_eq!(s.used(), 100);
    }

    /// The time is that of invariant I2 in ARCHITECTURE.md, not the constant.
    #[test]
    fn released_range_rests_for_two_seconds() {
        let mut s = FreeList::new(1);
        let range = s.take(1, NOW).unwrap();
        s.release(range, NOW);
        assert_eq!(s.take(1, NOW + Duration::from_millis(1999)), None);
        assert_eq!(s.take(1, NOW + Duration::from_secs(2)), Some(range));
    }

    #[test]
    fn restored_slots_are_not_allocated_again() {
        let used = vec![SlotTable { base: 3, len: 2 }, SlotTable { base: 90, len: 50 }, SlotTable { base: 4, len: 4 }];
        let mut s = FreeList::with_used(100, used);
        assert_eq!(s.used(), 5 + 10);
        assert_eq!(s.take(3, NOW), Some(SlotTable { base: 0, len: 3 }));
        assert_eq!(s.take(82, NOW), Some(SlotTable { base: 8, len: 82 }));
        assert_eq!(s.take(1, NOW), None);
    }
}
