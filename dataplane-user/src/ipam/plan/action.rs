//! The result of a decision: actions on block objects, and what the plugin may use.
//!
//! Made by [`super::decide`] and executed by `ipam::write`. Plain data; nothing here talks to the
//! API server.

use std::time::Duration;

use dataplane_host::contract::pools::PoolEntry;
use ipnetwork::IpNetwork;

use super::{ObjectVersion, Sharing};
use crate::ipam::pool::block_name;

/// A change of one `IPBlock` object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockAction {
    /// Create a block for this node. Fails if another node has created it first.
    Claim {
        /// Name of the pool.
        pool: String,
        /// The range of the block.
        cidr: IpNetwork,
    },
    /// Remove a block of this node, if it is still empty.
    Release {
        /// Name of the object.
        name: String,
        /// The range of the block.
        cidr: IpNetwork,
        /// Required version of the object.
        state: ObjectVersion,
    },
    /// Change the parts that other nodes use or ask for.
    Share {
        /// Name of the object.
        name: String,
        /// The lent parts and the requesting node after the change.
        sharing: Sharing,
        /// The part that this node gives away by the change. The writer checks that no pod has an
        /// address of it.
        given: Option<IpNetwork>,
        /// Nodes that must not exist any more.
        gone: Vec<String>,
        /// Required version of the object.
        state: ObjectVersion,
    },
    /// Remove a block of a deleted node.
    Collect {
        /// Name of the object.
        name: String,
        /// Its node and all nodes that use parts of it; none may exist any more.
        nodes: Vec<String>,
        /// Required version of the object.
        state: ObjectVersion,
    },
}

/// The result of [`super::decide`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolDecision {
    /// Changes for the API server, in this order.
    pub actions: Vec<BlockAction>,
    /// Pools of this node with its blocks, for the plugin.
    pub pools: Vec<PoolEntry>,
    /// Pools of pods that ask for none, for the plugin.
    pub default: Vec<String>,
    /// Messages about problems, for the log and for `ropeway status`.
    pub problems: Vec<String>,
    /// Time of the next decision that is due without a change.
    pub next: Option<Duration>,
}

impl PoolDecision {
    pub(super) fn wake(&mut self, at: Duration) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

impl BlockAction {
    /// Returns the range that this node gives away. The plugin must stop using it before the object
    /// is changed.
    #[must_use]
    pub const fn given(&self) -> Option<IpNetwork> {
        match self {
            Self::Release { cidr, .. } => Some(*cidr),
            Self::Share { given, .. } => *given,
            Self::Claim { .. } | Self::Collect { .. } => None,
        }
    }

    /// Returns the name of the block's object.
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
