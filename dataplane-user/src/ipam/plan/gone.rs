//! Blocks of nodes that are gone.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::types::fnv::hash64;

use super::{Block, BlockAction, PlannerMemory, PoolDecision, Sharing, World};

/// Collects blocks that were seen twice, long enough apart, in the same state and without a node. One node does it; if it
/// doesn't, everybody does, and all but one are refused.
pub(super) fn collect(world: &World<'_>, memory: &mut PlannerMemory, decision: &mut PoolDecision) {
    let Some(nodes) = world.nodes else { return };
    let grace = world.grace.gone;
    let mut gone = BTreeMap::new();
    let is_gone = |node: &str| node != world.node && !nodes.contains(node);
    for (name, block) in world.blocks {
        let Some((action, responsible)) = end_of_the_gone(world, nodes, name, block, is_gone) else { continue };
        let seen = memory.gone.get(name).filter(|(state, _)| *state == block.state);
        let since = seen.map_or(world.now, |(_, since)| *since);
        gone.insert(name.clone(), (block.state.clone(), since));
        let due = since + if responsible { grace } else { grace * 3 };
        if world.now >= due {
            decision.actions.push(action);
        } else {
            decision.wake(due);
        }
    }
    memory.gone = gone;
}

/// What would end what nodes that are gone have of a block, and whether it is this node's to do first. As long as anybody else uses a part, the block
/// stays.
fn end_of_the_gone(
    world: &World<'_>,
    nodes: &BTreeSet<Box<str>>,
    name: &str,
    block: &Block,
    is_gone: impl Fn(&str) -> bool,
) -> Option<(BlockAction, bool)> {
    let state = block.state.clone();
    let (lost, left): (Vec<_>, Vec<_>) = block.sharing.lent.iter().cloned().partition(|part| is_gone(&part.node));
    let lost = lost.into_iter().map(|part| part.node);
    if block.node == world.node {
        let gone: Vec<_> = lost.collect();
        let sharing = Sharing { lent: left, ..block.sharing.clone() };
        let some = !gone.is_empty();
        return some.then(|| (BlockAction::Share { name: name.to_owned(), sharing, given: None, state, gone }, true));
    }
    if !is_gone(&block.node) || !left.is_empty() {
        return None;
    }
    let all = [block.node.clone()].into_iter().chain(lost).collect();
    let action = BlockAction::Collect { name: name.to_owned(), nodes: all, state };
    Some((action, is_responsible(world.node, nodes, name)))
}

/// Of all nodes the one with the greatest hash together with the block's name: each node finds the same one.
fn is_responsible(node: &str, nodes: &BTreeSet<Box<str>>, block: &str) -> bool {
    let rank = |name: &str| (hash64(format!("{block}\0{name}").as_bytes()), name.to_owned());
    nodes.iter().map(|name| rank(name)).max().is_some_and(|(_, first)| first == node)
}
