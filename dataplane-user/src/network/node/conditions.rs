//! The conditions that the node's task waits for before it changes the kernel.
//!
//! Set from the controller's snapshot; asked before routes, programs and readiness. It never blocks.

use crate::network::blocks::Blocks;

/// The controller's progress since the agent started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Conditions {
    /// All Nodes are known: a missing one is gone.
    pub(super) nodes: bool,
    /// The maps hold what they must before programs may take the place of another version's.
    pub(super) maps: bool,
    /// All Services were applied once.
    pub(super) services: bool,
}

impl Conditions {
    pub(super) const ALL: Self = Self { nodes: true, maps: true, services: true };

    /// Whether the ranges of all nodes are known. `blocks`: those of pool mode.
    pub(super) fn knows_ranges(self, blocks: Option<&Blocks>) -> bool {
        self.nodes && blocks.is_none_or(|blocks| blocks.in_sync)
    }

    /// Whether everything is known that a new agent must know before the next one is replaced.
    pub(super) fn knows_all(self, blocks: Option<&Blocks>) -> bool {
        self == Self::ALL && self.knows_ranges(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_waited_for_where_there_are_any() {
        let [known, unknown] = [true, false].map(|in_sync| Blocks { in_sync, ..Blocks::default() });
        let [all, not] = [true, false].map(|services| Conditions { services, ..Conditions::ALL });
        assert!(all.knows_all(None) && all.knows_all(Some(&known)));
        assert!(!all.knows_all(Some(&unknown)) && !not.knows_all(Some(&known)) && !not.knows_all(None));
        assert!(not.knows_ranges(Some(&known)) && !not.knows_ranges(Some(&unknown)));
    }
}
