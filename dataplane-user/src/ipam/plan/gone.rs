//! Blocks of nodes that are gone.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_host::store::fnv64;

use super::{Action, Decision, Memory, World};

/// Collects blocks that were seen twice, long enough apart, in the same state and without a node. One node does it; if it
/// doesn't, everybody does, and all but one are refused.
pub(super) fn collect(world: &World<'_>, memory: &mut Memory, decision: &mut Decision) {
    let Some(nodes) = world.nodes else { return };
    let patience = world.patience.gone;
    let mut gone = BTreeMap::new();
    for (name, block) in world.blocks.iter().filter(|(_, b)| b.node != world.node && !nodes.contains(b.node.as_str())) {
        let seen = memory.gone.get(name).filter(|(state, _)| *state == block.state);
        let since = seen.map_or(world.now, |(_, since)| *since);
        gone.insert(name.clone(), (block.state.clone(), since));
        let due = since + if is_responsible(world.node, nodes, name) { patience } else { patience * 3 };
        if world.now >= due {
            let (name, node, state) = (name.clone(), block.node.clone(), block.state.clone());
            decision.actions.push(Action::Collect { name, node, state });
        } else {
            decision.wake(due);
        }
    }
    memory.gone = gone;
}

/// Of all nodes the one with the greatest hash together with the block's name: each node finds the same one.
fn is_responsible(node: &str, nodes: &BTreeSet<Box<str>>, block: &str) -> bool {
    let rank = |name: &str| (fnv64(format!("{block}\0{name}").as_bytes()), name.to_owned());
    nodes.iter().map(|name| rank(name)).max().is_some_and(|(_, first)| first == node)
}
