//! Collects blocks, and ends lent parts, of nodes that were deleted.
//!
//! Called by [`super::decide`]. A deleted node's blocks stay for [`super::GracePeriods::gone`] in
//! case the Node is created again; the writer then asks the API server once more whether the nodes
//! still do not exist.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::types::fnv::hash64;

use super::{Block, BlockAction, PlannerInput, PlannerMemory, PoolDecision, Sharing};

/// Adds the actions for blocks that were seen twice, a grace period apart, in the same state and
/// without a node.
///
/// One node is responsible. If it has not acted after three grace periods, all nodes try, and the
/// object's version lets one succeed.
pub(super) fn collect(input: &PlannerInput<'_>, memory: &mut PlannerMemory, decision: &mut PoolDecision) {
    let Some(nodes) = input.nodes else { return };
    let grace = input.grace.gone;
    let mut gone = BTreeMap::new();
    let is_gone = |node: &str| node != input.node && !nodes.contains(node);
    for (name, block) in input.blocks {
        let Some((action, responsible)) = end_of_the_gone(input, nodes, name, block, is_gone) else { continue };
        let seen = memory.gone.get(name).filter(|(state, _)| *state == block.state);
        let since = seen.map_or(input.now, |(_, since)| *since);
        gone.insert(name.clone(), (block.state.clone(), since));
        // Other nodes wait longer, in case the responsible one can't act.
        let due = since + if responsible { grace } else { grace * 3 };
        if input.now >= due {
            decision.actions.push(action);
        } else {
            decision.wake(due);
        }
    }
    // A block that was not found abandoned this time starts a new grace period.
    memory.gone = gone;
}

/// Returns the action that ends the use of a block by deleted nodes, and true if this node is
/// responsible for it. The block stays as long as an existing node uses a part.
fn end_of_the_gone(
    input: &PlannerInput<'_>,
    nodes: &BTreeSet<Box<str>>,
    name: &str,
    block: &Block,
    is_gone: impl Fn(&str) -> bool,
) -> Option<(BlockAction, bool)> {
    let state = block.state.clone();
    let (lost, left): (Vec<_>, Vec<_>) = block.sharing.lent.iter().cloned().partition(|part| is_gone(&part.node));
    let lost = lost.into_iter().map(|part| part.node);
    // The owner takes lent parts back itself, so it is always responsible.
    if block.node == input.node {
        let gone: Vec<_> = lost.collect();
        let sharing = Sharing { lent: left, ..block.sharing.clone() };
        let some = !gone.is_empty();
        return some.then(|| (BlockAction::Share { name: name.to_owned(), sharing, given: None, state, gone }, true));
    }
    // Another node's block is collected once no existing node uses any part of it.
    if !is_gone(&block.node) || !left.is_empty() {
        return None;
    }
    let all = [block.node.clone()].into_iter().chain(lost).collect();
    let action = BlockAction::Collect { name: name.to_owned(), nodes: all, state };
    Some((action, is_responsible(input.node, nodes, name)))
}

/// Returns true if this node has the greatest hash together with the block's name. All nodes
/// compute the same one.
fn is_responsible(node: &str, nodes: &BTreeSet<Box<str>>, block: &str) -> bool {
    let rank = |name: &str| (hash64(format!("{block}\0{name}").as_bytes()), name.to_owned());
    nodes.iter().map(|name| rank(name)).max().is_some_and(|(_, first)| first == node)
}
