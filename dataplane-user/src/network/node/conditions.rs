//! The conditions that the node's task waits for before it changes the kernel.
//!
//! `cluster_view` updates them from the controller's snapshot; a refresh checks them before it
//! writes routes, attaches programs and reports the node as ready.

use crate::network::blocks::Blocks;

/// The controller's progress since the agent started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Conditions {
    /// All Nodes are known, so a missing one was deleted.
    pub(super) nodes: bool,
    /// The maps are complete, so programs may replace those of another version.
    pub(super) maps: bool,
    /// All Services have been applied once.
    pub(super) services: bool,
}

impl Conditions {
    pub(super) const ALL: Self = Self { nodes: true, maps: true, services: true };

    /// Returns true if the pod ranges of all nodes are known. `blocks`: `None` unless in pool mode.
    pub(super) fn knows_ranges(self, blocks: Option<&Blocks>) -> bool {
        self.nodes && blocks.is_none_or(|blocks| blocks.in_sync)
    }

    /// Returns true if everything is known that readiness depends on: a rolling update replaces the
    /// next node's agent then.
    pub(super) fn knows_all(self, blocks: Option<&Blocks>) -> bool {
        self == Self::ALL && self.knows_ranges(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_must_be_in_sync_in_pool_mode() {
        let [known, unknown] = [true, false].map(|in_sync| Blocks { in_sync, ..Blocks::default() });
        let [all, not] = [true, false].map(|services| Conditions { services, ..Conditions::ALL });
        assert!(all.knows_all(None) && all.knows_all(Some(&known)));
        assert!(!all.knows_all(Some(&unknown)) && !not.knows_all(Some(&known)) && !not.knows_all(None));
        assert!(not.knows_ranges(Some(&known)) && !not.knows_ranges(Some(&unknown)));
    }
}
