//! The address blocks of all nodes, in pool mode.
//!
//! Written by `ipam`, read by `network::node` for routes and to tell which addresses belong to
//! pods. It decides nothing: `ipam::plan` assigns blocks to nodes.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

/// Blocks and pools of the cluster, as routes need them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// True once all `IPBlock` and `IPPool` objects are known.
    pub in_sync: bool,
    /// Ranges by the name of the node that uses them, borrowed parts included.
    pub by_node: BTreeMap<Box<str>, Vec<IpNetwork>>,
    /// The ranges of all pools.
    pub pools: Vec<IpNetwork>,
}
