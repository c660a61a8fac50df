//! Changes that have come and are not in the tables yet: what kube-proxy calls pending.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::core::Core;

/// Of a Service: its object has changed.
pub(super) const OBJECT: u8 = 1;
/// Of a Service: a slice of it has changed.
pub(super) const SLICES: u8 = 2;

/// How many Services have such changes, at any instant: it can be read in the middle of a round, too.
#[derive(Debug, Default)]
pub struct Pending {
    objects: AtomicUsize,
    slices: AtomicUsize,
}

impl Pending {
    /// Services whose object has changed.
    #[must_use]
    pub fn services(&self) -> usize {
        self.objects.load(Ordering::Relaxed)
    }

    /// Services of which a slice has changed.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.slices.load(Ordering::Relaxed)
    }

    /// One Service goes from one set of bits to another.
    fn count(&self, before: u8, after: u8) {
        for (bit, count) in [(OBJECT, &self.objects), (SLICES, &self.slices)] {
            match (before & bit != 0, after & bit != 0) {
                (false, true) => drop(count.fetch_add(1, Ordering::Relaxed)),
                (true, false) => drop(count.fetch_sub(1, Ordering::Relaxed)),
                _ => {}
            }
        }
    }
}

impl Core {
    /// A change has come; the tables follow with the next round.
    pub(super) fn mark_changed(&mut self, number: u32, change: u8) {
        self.mark(number);
        self.set_pending(number, |pending| pending | change);
    }

    /// The tables are as the Service wants them.
    pub(super) fn note_applied(&mut self, number: u32) {
        self.set_pending(number, |_| 0);
    }

    fn set_pending(&mut self, number: u32, change: impl Fn(u8) -> u8) {
        if let Some(entry) = self.store.get_mut(number) {
            let after = change(entry.pending);
            self.pending.count(entry.pending, after);
            entry.pending = after;
        }
    }
}
