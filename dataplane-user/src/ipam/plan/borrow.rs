//! Lends parts of blocks to other nodes, and borrows them, in pools that allow that.
//!
//! When no block is left and few addresses are free, a node writes its name into a block of another
//! node ([`Planner::ask`]). The block's node answers: it lends a part in which no address was used
//! for a while, or removes the name ([`Planner::answer`]), and the asker tries another block. An
//! unneeded part is given back after it has been empty for a while, as blocks are.
//!
//! All of this is in the block's one object. Every change carries the `resourceVersion` that it is
//! based on, so two nodes never use the same part. The giver first takes the range from its plugin,
//! under the store's lock, and only then changes the object. The receiver gives out addresses once
//! the object says so. A crash in between leaves addresses unused until the next decision, and
//! never used twice.

use std::collections::BTreeSet;

use dataplane_common::types::fnv::hash64;
use ipnetwork::IpNetwork;

use super::{Block, BlockAction, Lent, ObjectVersion, Planner, PlannerMemory, Sharing};
use crate::ipam::pool::{Pool, covers, overlap, piece, width};

/// Maximum number of parts of a block that are lent at the same time.
const MOST_PARTS: usize = 8;
/// Maximum difference of prefix lengths: a part is a half, a quarter or an eighth of a block.
const CUTS: u8 = 3;

impl Block {
    /// Returns each node that uses a range of the block, with that range.
    pub fn users(&self) -> impl Iterator<Item = (&str, IpNetwork)> {
        let lent = self.sharing.lent.iter().map(|part| (part.node.as_str(), part.cidr));
        self.kept().into_iter().map(|range| (self.node.as_str(), range)).chain(lent)
    }

    /// Returns the ranges that the block's own node uses.
    #[must_use]
    pub fn kept(&self) -> Vec<IpNetwork> {
        let lent: Vec<_> = self.sharing.lent.iter().map(|part| part.cidr).collect();
        without(self.cidr, &lent)
    }
}

/// Returns `range` without `taken`, in as few pieces as possible.
pub(super) fn without(range: IpNetwork, taken: &[IpNetwork]) -> Vec<IpNetwork> {
    if !taken.iter().any(|part| overlap(*part, range)) {
        return vec![range];
    }
    if taken.iter().any(|part| covers(*part, range)) {
        return Vec::new();
    }
    // Splitting in halves yields the largest possible pieces.
    pieces(range, range.prefix() + 1).flat_map(|half| without(half, taken)).collect()
}

/// Returns the pieces of `range` with this prefix length, in ascending order.
fn pieces(range: IpNetwork, prefix: u8) -> impl DoubleEndedIterator<Item = IpNetwork> {
    (0..1_u128 << (prefix - range.prefix())).map(move |index| piece(range, prefix, index))
}

/// Returns the number of free addresses below which a node asks for more.
pub(super) fn low(pool: &Pool) -> usize {
    let addresses = 1_usize << (width(pool.cidr.ip()) - pool.block_prefix);
    (addresses >> CUTS).max(1)
}

impl Planner<'_> {
    /// Asks for a part of another node's block, in the first pool of the list that allows it,
    /// unless an answer is still due.
    pub(super) fn ask(&mut self, list: &[&Pool], memory: &mut PlannerMemory) {
        let Some(nodes) = self.input.nodes.filter(|_| self.input.labels.is_some()) else { return };
        let (me, now, grace) = (self.input.node, self.input.now, self.input.grace);
        for pool in list.iter().filter(|pool| pool.borrow) {
            self.borrow_from.insert(pool.name.clone());
            let of_pool = || self.input.blocks.iter().filter(|(_, block)| block.pool == pool.name);
            // Pending also covers a request that was just sent and is not yet seen in the object.
            let pending = of_pool().find_map(|(name, block)| {
                let tried = memory.tried.get(name);
                let sent = tried.is_some_and(|(state, since)| *state == block.state && now < *since + grace.answer);
                (sent || block.sharing.asked.as_deref() == Some(me)).then(|| tried.map_or(now, |(_, since)| *since))
            });
            if let Some(since) = pending {
                return self.decision.wake((since + grace.answer).max(now));
            }
            // A block takes one request at a time. A wholly lent block has nothing to give.
            let possible = of_pool().filter(|(_, block)| {
                let Sharing { lent, asked } = &block.sharing;
                let living = block.node != me && nodes.contains(block.node.as_str());
                living && asked.is_none() && lent.len() < MOST_PARTS && !block.kept().is_empty()
            });
            // Each asker prefers another block, so that requests spread over the nodes.
            let rank = |name: &str| hash64(format!("{name}\0{me}").as_bytes());
            let rested = |name: &str| memory.tried.get(name).is_none_or(|(_, since)| now >= *since + grace.again);
            let (fresh, tired): (Vec<_>, Vec<_>) = possible.partition(|(name, _)| rested(name));
            if let Some((name, block)) = fresh.into_iter().max_by_key(|(name, _)| rank(name)) {
                memory.tried.insert(name.clone(), (block.state.clone(), now));
                let sharing = Sharing { asked: Some(me.to_owned()), ..block.sharing.clone() };
                self.decision.actions.push(share(name, block, sharing, None));
                return self.decision.wake(now + grace.answer);
            }
            // All candidates were asked recently: come back when the first may be asked again.
            for (name, _) in tired {
                self.decision.wake(memory.tried[name].1 + grace.again);
            }
        }
    }

    /// Withdraws requests that were not answered in time or are not needed any more.
    pub(super) fn withdraw(&mut self, memory: &mut PlannerMemory) {
        let (now, grace) = (self.input.now, self.input.grace);
        let asked_by_us = |block: &Block| block.sharing.asked.as_deref() == Some(self.input.node);
        for (name, block) in self.input.blocks.iter().filter(|(_, block)| asked_by_us(block)) {
            // After a restart the time of the request is unknown, so it counts from now.
            let since = memory.tried.entry(name.clone()).or_insert_with(|| (ObjectVersion::default(), now)).1;
            if !self.borrow_from.contains(&block.pool) || now >= since + grace.answer {
                let sharing = Sharing { asked: None, ..block.sharing.clone() };
                self.decision.actions.push(share(name, block, sharing, None));
            }
        }
        memory.tried.retain(|name, (_, since)| now < *since + grace.again && self.input.blocks.contains_key(name));
    }

    /// Answers requests for parts of this node's blocks, up to the first that gets one.
    pub(super) fn answer(&mut self, memory: &PlannerMemory) {
        let asked = |block: &Block| block.node == self.input.node && block.sharing.asked.is_some();
        let busy: BTreeSet<_> = self.decision.actions.iter().map(BlockAction::name).collect();
        for (name, block) in self.input.blocks.iter().filter(|(name, block)| asked(block) && !busy.contains(*name)) {
            let Some(asker) = block.sharing.asked.as_ref() else { continue };
            // A deleted node gets nothing, but its request is removed all the same.
            let known = self.input.nodes.is_some_and(|nodes| nodes.contains(asker.as_str()));
            let part = self.lendable(block, memory).filter(|_| known && asker != self.input.node);
            let mut sharing = Sharing { asked: None, ..block.sharing.clone() };
            sharing.lent.extend(part.map(|cidr| Lent { cidr, node: asker.clone() }));
            self.decision.actions.push(share(name, block, sharing, part));
            if part.is_some() {
                return; // The next one is answered once this change is seen: it reduces the free addresses.
            }
        }
    }

    /// Returns the largest part that can be lent.
    ///
    /// No address of it was used for the cool-down time, and this node keeps at least as many free
    /// addresses of the pool.
    fn lendable(&self, block: &Block, memory: &PlannerMemory) -> Option<IpNetwork> {
        let cool = self.input.grace.cool;
        let pool = self.usable.iter().find(|pool| pool.name == block.pool && pool.borrow)?;
        // A planner that has just started does not know which addresses were used recently.
        if self.input.now < memory.since? + cool || block.sharing.lent.len() >= MOST_PARTS {
            return None;
        }
        let all: usize = self.own.iter().filter(|own| own.pool == pool.name).map(|own| own.free).sum();
        let kept = block.kept();
        let used: Vec<_> = memory.recent.keys().filter(|address| block.cidr.contains(**address)).collect();
        let free = |part: IpNetwork| self.count(part, vec![part], &pool.name, None).free;
        let last = (block.cidr.prefix() + CUTS).min(width(block.cidr.ip()));
        // Parts are tried from the end, because addresses are given out from the beginning.
        let parts = (block.cidr.prefix() + 1..=last).flat_map(|prefix| pieces(block.cidr, prefix).rev());
        let idle = |part: &IpNetwork| {
            kept.iter().any(|range| covers(*range, *part)) && !used.iter().any(|address| part.contains(**address))
        };
        parts.filter(idle).find(|part| {
            let free = free(*part);
            free > 0 && all >= 2 * free
        })
    }
}

pub(super) fn share(name: &str, block: &Block, sharing: Sharing, given: Option<IpNetwork>) -> BlockAction {
    BlockAction::Share { name: name.to_owned(), sharing, given, gone: Vec::new(), state: block.state.clone() }
}
