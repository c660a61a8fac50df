//! Counts the Services with changes that are not in the maps yet, which kube-proxy calls pending.
//!
//! Written by `Status`; the snapshot shares [`Pending`], so that metrics read it in the middle of a
//! round, too.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bit of a Service whose object has changed.
pub(super) const OBJECT: u8 = 1;
/// Bit of a Service of which a slice has changed.
pub(super) const SLICES: u8 = 2;

/// The number of Services with such changes at this instant.
#[derive(Debug, Default)]
pub struct Pending {
    objects: AtomicUsize,
    slices: AtomicUsize,
}

impl Pending {
    /// Returns the number of Services whose object has changed.
    #[must_use]
    pub fn services(&self) -> usize {
        self.objects.load(Ordering::Relaxed)
    }

    /// Returns the number of Services of which a slice has changed.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.slices.load(Ordering::Relaxed)
    }

    /// Counts the change of one Service from one set of bits to another.
    pub(super) fn count(&self, before: u8, after: u8) {
        for (bit, count) in [(OBJECT, &self.objects), (SLICES, &self.slices)] {
            match (before & bit != 0, after & bit != 0) {
                (false, true) => drop(count.fetch_add(1, Ordering::Relaxed)),
                (true, false) => drop(count.fetch_sub(1, Ordering::Relaxed)),
                _ => {}
            }
        }
    }
}
