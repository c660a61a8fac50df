//! What a decision says.

use std::time::Duration;

use dataplane_host::contract::pools::PoolEntry;
use ipnetwork::IpNetwork;

use super::{ObjectVersion, Sharing};
use crate::ipam::pool::block_name;

/// What to do to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockAction {
    /// Make a block for this node. Fails if another node was quicker.
    Claim {
        /// The pool.
        pool: String,
        /// The range.
        cidr: IpNetwork,
    },
    /// Remove a block of this node, if it is still empty.
    Release {
        /// The object's name.
        name: String,
        /// The range.
        cidr: IpNetwork,
        /// In this state only.
        state: ObjectVersion,
    },
    /// Change what other nodes have to do with a block.
    Share {
        /// The object's name.
        name: String,
        /// What is to be so.
        sharing: Sharing,
        /// The part that this node gives away by it, if it is still empty.
        given: Option<IpNetwork>,
        /// Nodes that must be gone.
        gone: Vec<String>,
        /// In this state only.
        state: ObjectVersion,
    },
    /// Remove a block of a node that is gone.
    Collect {
        /// The object's name.
        name: String,
        /// The node, and all that use parts.
        nodes: Vec<String>,
        /// In this state only.
        state: ObjectVersion,
    },
}

/// The decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolDecision {
    /// For the API server, in this order.
    pub actions: Vec<BlockAction>,
    /// For the plugin: the pools of this node with its blocks.
    pub pools: Vec<PoolEntry>,
    /// For the plugin: the pools of pods that ask for none.
    pub default: Vec<String>,
    /// What is wrong, for people.
    pub problems: Vec<String>,
    /// When time alone changes the decision.
    pub next: Option<Duration>,
}

impl PoolDecision {
    pub(super) fn wake(&mut self, at: Duration) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

impl BlockAction {
    /// What this node gives away: the plugin must not use it any more before that is done.
    #[must_use]
    pub const fn given(&self) -> Option<IpNetwork> {
        match self {
            Self::Release { cidr, .. } => Some(*cidr),
            Self::Share { given, .. } => *given,
            Self::Claim { .. } | Self::Collect { .. } => None,
        }
    }

    /// Name of the block's object.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Claim { cidr, .. } => block_name(*cidr),
            Self::Release { name, .. } | Self::Share { name, .. } | Self::Collect { name, .. } => name.clone(),
        }
    }

    pub(super) const fn state(&self) -> Option<&ObjectVersion> {
        match self {
            Self::Claim { .. } => None,
            Self::Release { state, .. } | Self::Share { state, .. } | Self::Collect { state, .. } => Some(state),
        }
    }
}
