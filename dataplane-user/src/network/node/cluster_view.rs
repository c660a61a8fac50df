//! The cluster's side of the node's task: Nodes, pool blocks, Service ranges and sync conditions.
//!
//! [`ClusterFeed`] waits for changes from the controller and the pool task; [`ClusterView`] is what
//! the task's jobs read. Neither changes anything in the kernel.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use tokio::sync::watch;

use super::conditions::Conditions;
use crate::config::Ipam;
use crate::network::blocks::Blocks;
use crate::proxy::controller::{Nodes, Snapshot};
use crate::proxy::desired::context::sort_key;
use crate::proxy::source::{NodeObject, ObjectKind};

/// The last values that were taken from the feed.
pub(super) struct ClusterView {
    ipam: Ipam,
    /// All Nodes. In pool mode their pod ranges are their blocks and the `podCIDRs` from before
    /// pools; without IPAM they have none.
    pub(super) nodes: Arc<Nodes>,
    /// `None` unless in pool mode.
    blocks: Option<Arc<Blocks>>,
    pub(super) service_ranges: Arc<[IpNetwork]>,
    pub(super) conditions: Conditions,
}

impl ClusterView {
    /// Returns the view before anything is known. While programs of a predecessor with another ABI
    /// are attached, the maps count as incomplete until the controller is in sync.
    pub(super) fn new(ipam: Ipam, predecessor: bool) -> Self {
        Self {
            ipam,
            nodes: Arc::default(),
            blocks: (ipam == Ipam::Pools).then(Arc::default),
            service_ranges: Arc::default(),
            conditions: Conditions { nodes: false, maps: !predecessor, services: false },
        }
    }

    /// Returns true if the pod ranges of all nodes are known.
    pub(super) fn knows_ranges(&self) -> bool {
        self.conditions.knows_ranges(self.blocks.as_deref())
    }

    /// Returns true if everything is known that readiness depends on.
    pub(super) fn knows_all(&self) -> bool {
        self.conditions.knows_all(self.blocks.as_deref())
    }

    /// Returns the networks of all IP pools; empty in other modes.
    pub(super) fn pools(&self) -> &[IpNetwork] {
        self.blocks.as_ref().map_or(&[], |blocks| &blocks.pools)
    }

    /// Takes the feed's present values.
    pub(super) fn update(&mut self, feed: &mut ClusterFeed) {
        self.nodes = Arc::clone(&feed.nodes.borrow_and_update());
        if let Some(blocks) = &mut feed.blocks {
            let blocks = Arc::clone(&blocks.borrow_and_update());
            self.nodes = Arc::new(with_blocks(&self.nodes, &blocks));
            self.blocks = Some(blocks);
        }
        if self.ipam == Ipam::None {
            self.nodes = Arc::new(without_ranges(&self.nodes));
        }
        self.service_ranges = Arc::clone(&feed.service_ranges.borrow_and_update());
    }

    /// Updates the conditions from the controller's snapshot; returns true if they have changed.
    fn update_conditions(&mut self, snapshot: &Snapshot) -> bool {
        let now = Conditions {
            nodes: !snapshot.waiting_for.contains(&ObjectKind::Node.name()),
            maps: self.conditions.maps || snapshot.synced,
            services: snapshot.synced,
        };
        std::mem::replace(&mut self.conditions, now) != now
    }
}

/// Receivers of what the controller and the pool task publish.
pub(super) struct ClusterFeed {
    pub(super) nodes: watch::Receiver<Arc<Nodes>>,
    pub(super) service_ranges: watch::Receiver<Arc<[IpNetwork]>>,
    pub(super) controller: watch::Receiver<Arc<Snapshot>>,
    pub(super) blocks: Option<watch::Receiver<Arc<Blocks>>>,
}

impl ClusterFeed {
    /// Waits for a change that matters; `None` if the controller has ended. Cancel safe.
    ///
    /// Only the conditions of `view` are updated here; [`ClusterView::update`] takes the rest.
    pub(super) async fn changed(&mut self, view: &mut ClusterView) -> Option<()> {
        loop {
            tokio::select! {
                changed = self.nodes.changed() => return changed.ok(),
                changed = self.service_ranges.changed() => return changed.ok(),
                // Snapshots are published after each round, so they are ignored once nothing can
                // change.
                changed = self.controller.changed(), if view.conditions != Conditions::ALL => {
                    changed.ok()?;
                    let snapshot = Arc::clone(&self.controller.borrow_and_update());
                    if view.update_conditions(&snapshot) {
                        return Some(());
                    }
                }
                () = blocks_changed(&mut self.blocks) => return Some(()),
            }
        }
    }
}

/// Waits for a change of the blocks. Waits for ever in other modes and after the pool task has
/// ended: the agent ends with that task.
async fn blocks_changed(blocks: &mut Option<watch::Receiver<Arc<Blocks>>>) {
    let changed = match blocks {
        Some(blocks) => blocks.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

/// Returns the Nodes with their blocks as pod ranges. A node that has blocks but no Node object is
/// left out: it has no address to route to.
///
/// The node's `podCIDRs` stay ranges of it: pods from before the change to pools may live there,
/// and a Node keeps the field. Those that overlap a pool or a block do not, because their addresses
/// are given to other pods.
pub(super) fn with_blocks(nodes: &Nodes, blocks: &Blocks) -> Nodes {
    let pooled = Covered::by(blocks.by_node.values().flatten().chain(&blocks.pools));
    let with = |name: &str, node: &NodeObject| {
        let of_pools = blocks.by_node.get(name).into_iter().flatten();
        let old = node.pod_cidrs.iter().filter(|range| !pooled.overlaps(**range));
        NodeObject { pod_cidrs: of_pools.chain(old).copied().collect(), ..node.clone() }
    };
    nodes.iter().map(|(name, node)| (name.clone(), with(name, node))).collect()
}

/// Returns the Nodes without pod ranges.
fn without_ranges(nodes: &Nodes) -> Nodes {
    let without = |node: &NodeObject| NodeObject { pod_cidrs: Box::default(), ..node.clone() };
    nodes.iter().map(|(name, node)| (name.clone(), without(node))).collect()
}

/// The addresses of some ranges: first and last ones, sorted and without overlaps.
struct Covered(Vec<(u128, u128)>);

impl Covered {
    fn by<'a>(ranges: impl Iterator<Item = &'a IpNetwork>) -> Self {
        let mut all: Vec<_> = ranges.map(|range| Self::bounds(*range)).collect();
        all.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (first, last) in all {
            match merged.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn bounds(range: IpNetwork) -> (u128, u128) {
        (sort_key(range.network()), sort_key(range.broadcast()))
    }

    fn overlaps(&self, range: IpNetwork) -> bool {
        let (first, last) = Self::bounds(range);
        let up_to = self.0.partition_point(|(start, _)| *start <= last);
        up_to > 0 && self.0[up_to - 1].1 >= first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_a_predecessor_count_as_complete_once_the_controller_is_in_sync() {
        let mut view = ClusterView::new(Ipam::None, true);
        let starting = Snapshot { waiting_for: vec![ObjectKind::Node.name()], ..Snapshot::default() };
        assert!(!view.update_conditions(&starting) && !view.knows_ranges());
        assert!(view.update_conditions(&Snapshot::default()) && view.knows_ranges() && !view.conditions.maps);
        assert!(view.update_conditions(&Snapshot { synced: true, ..Snapshot::default() }) && view.knows_all());
        assert!(view.update_conditions(&Snapshot::default()) && view.conditions.maps, "maps stay complete");
        assert!(ClusterView::new(Ipam::None, false).conditions.maps, "no predecessor to wait for");
    }

    #[tokio::test]
    async fn feed_ends_with_the_controller() {
        let (controller_sender, controller) = watch::channel(Arc::new(Snapshot::default()));
        let (nodes_sender, nodes) = watch::channel(Arc::default());
        let (ranges_sender, service_ranges) = watch::channel(Arc::default());
        let mut feed = ClusterFeed { nodes, service_ranges, controller, blocks: None };
        let mut view = ClusterView::new(Ipam::None, false);
        controller_sender.send_replace(Arc::new(Snapshot { synced: true, ..Snapshot::default() }));
        assert_eq!(feed.changed(&mut view).await, Some(()));
        assert!(view.knows_all());
        let object = NodeObject { pod_cidrs: ["10.1.0.0/24".parse().unwrap()].into(), ..NodeObject::default() };
        nodes_sender.send_replace(Arc::new([("n1".into(), object)].into()));
        assert_eq!(feed.changed(&mut view).await, Some(()));
        view.update(&mut feed);
        assert!(view.nodes["n1"].pod_cidrs.is_empty(), "without IPAM a node has no ranges");
        drop((controller_sender, nodes_sender, ranges_sender));
        assert_eq!(feed.changed(&mut view).await, None);
    }
}
