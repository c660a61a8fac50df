//! Shares one allocation between equal strings: namespaces, port names, zones.
//!
//! Used by the decoder, because thousands of objects repeat the same few strings. Unused strings
//! are dropped from time to time.

use std::sync::Arc;

use hashbrown::HashSet;

use super::object::Zones;

/// A pool of shared strings and zone lists.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: HashSet<Arc<str>>,
    zones: HashSet<Arc<Zones>>,
    sweep_at: usize,
}

impl Interner {
    /// Returns the shared copy of `s`.
    pub(super) fn string(&mut self, s: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(s) {
            return known.clone();
        }
        self.sweep();
        let new = Arc::<str>::from(s);
        self.strings.insert(new.clone());
        new
    }

    /// Returns the shared copy of a list of zones.
    pub(super) fn zones(&mut self, zones: Zones) -> Arc<Zones> {
        if let Some(known) = self.zones.get(&zones) {
            return known.clone();
        }
        self.sweep();
        let new = Arc::new(zones);
        self.zones.insert(new.clone());
        new
    }

    /// Drops strings without another owner, each time the pool has doubled.
    fn sweep(&mut self) {
        if self.strings.len() + self.zones.len() < self.sweep_at.max(1024) {
            return;
        }
        self.strings.retain(|s| Arc::strong_count(s) > 1);
        self.zones.retain(|z| Arc::strong_count(z) > 1);
        self.sweep_at = 2 * (self.strings.len() + self.zones.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_one_allocation_and_unused_ones_are_dropped() {
        let mut interner = Interner::default();
        let kept = interner.string("kept");
        assert!(Arc::ptr_eq(&kept, &interner.string("kept")));
        for i in 0..5000 {
            interner.string(&i.to_string());
        }
        assert!(interner.strings.len() <= 1025, "{}", interner.strings.len());
        assert!(Arc::ptr_eq(&kept, &interner.string("kept")));
    }
}
