//! Decides which blocks this node claims, gives back, lends or collects.
//!
//! A pure function of a [`PlannerInput`] and the [`PlannerMemory`] of earlier decisions.
//! [`super::task`] calls it, and [`super::write`] executes the result.
//!
//! - For each list of pools from which pods of this node may get an address, one block stays empty
//!   as a spare. When a pod takes an address of the spare, the next block is claimed.
//! - An unneeded block is given back after it has been empty for [`GracePeriods::idle`]. Blocks
//!   with addresses that pods ask for are kept.
//! - A node gives out addresses of its own blocks, and of parts that other nodes have lent to it
//!   ([`borrow`]).
//! - A block of a deleted node is collected by a node that has seen it twice in the same state. All
//!   nodes compute the same collector.

mod action;
mod borrow;
mod gone;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use dataplane_common::types::fnv::hash64;
use dataplane_common::types::ip_family::IpFamily;
use dataplane_host::contract::pools::{PoolEntry, PoolRequest};
use dataplane_host::store::{COOL_DOWN, Range};
use ipnetwork::IpNetwork;

pub use action::{BlockAction, PoolDecision};

use super::pool::{Pool, block_name, overlap};

/// Durations for which a state must last before the planner acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracePeriods {
    /// Empty time of an unneeded block before it is given back. Longer than addresses need to cool
    /// down.
    pub idle: Duration,
    /// Unused time of an address before another node may get it.
    pub cool: Duration,
    /// Time in which a node that was asked for a part of its block must answer.
    pub answer: Duration,
    /// Time before the same block is asked for a part again.
    pub again: Duration,
    /// Absence of a Node before its blocks are collected: a Node may be deleted and created again.
    pub gone: Duration,
}

impl Default for GracePeriods {
    fn default() -> Self {
        let [answer, again, gone, idle] = [10, 60, 60, 300].map(Duration::from_secs);
        Self { idle, cool: COOL_DOWN * 2, answer, again, gone }
    }
}

/// A block as its `IPBlock` object describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The range of the block.
    pub cidr: IpNetwork,
    /// Name of the pool that contains the block.
    pub pool: String,
    /// Name of the node that has claimed the block.
    pub node: String,
    /// Creation time in a form that sorts as text.
    pub created: String,
    /// UID and version of the object, as preconditions of a write.
    pub state: ObjectVersion,
    /// The parts that other nodes use or ask for.
    pub sharing: Sharing,
}

/// The use of a block by other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Lent parts, without overlaps.
    pub lent: Vec<Lent>,
    /// Name of the node that asks for a part.
    pub asked: Option<String>,
}

/// A part of a block that another node uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lent {
    /// The range of the part.
    pub cidr: IpNetwork,
    /// Name of the node that uses the part.
    pub node: String,
}

/// The version of an object, as a precondition of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectVersion {
    /// `metadata.uid`: identifies the object even after it was deleted and created again.
    pub uid: String,
    /// `metadata.resourceVersion`: changes with every write.
    pub version: String,
}

/// The input of a decision.
#[derive(Clone, Copy, Debug)]
pub struct PlannerInput<'a> {
    /// Name of this node.
    pub node: &'a str,
    /// Labels of this node; `None` if it has no Node object (yet), in which case it claims nothing.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// Valid pools, without overlaps.
    pub pools: &'a [Pool],
    /// All blocks of the cluster, by object name.
    pub blocks: &'a BTreeMap<String, Block>,
    /// Names of all nodes; `None` until the list is complete.
    pub nodes: Option<&'a BTreeSet<Box<str>>>,
    /// Pools of pods that ask for none. If empty: all pools, sorted by name.
    pub default: &'a [String],
    /// Requests of this node's pods and of their namespaces.
    pub requests: &'a BTreeSet<PoolRequest>,
    /// Addresses that this node's pods hold.
    pub held: &'a HashSet<IpAddr>,
    /// Present time, counted from any fixed moment.
    pub now: Duration,
    /// Durations for which states must last.
    pub grace: GracePeriods,
}

/// Observations that the planner keeps from one decision to the next.
#[derive(Clone, Debug, Default)]
pub struct PlannerMemory {
    /// Times since which own blocks have been empty.
    idle: BTreeMap<IpNetwork, Duration>,
    /// Blocks of deleted nodes, with the state in which they were first seen so, and the time.
    gone: BTreeMap<String, (ObjectVersion, Duration)>,
    /// Blocks that were asked for a part, with their state then, and the time.
    tried: BTreeMap<String, (ObjectVersion, Duration)>,
    /// Actions that gave something away, by block name. As long as the block is still seen in the
    /// state before the action, the plugin must not get the range back.
    away: BTreeMap<String, BlockAction>,
    /// Addresses that were held recently, with the last time.
    recent: BTreeMap<IpAddr, Duration>,
    /// Time of the first decision.
    since: Option<Duration>,
}

impl PlannerMemory {
    fn observe(&mut self, input: &PlannerInput<'_>) {
        let now = input.now;
        self.since.get_or_insert(now);
        self.recent.extend(input.held.iter().map(|address| (*address, now)));
        self.recent.retain(|_, last| now < *last + input.grace.cool);
        let is_held = |range: IpNetwork| input.held.iter().any(|address| range.contains(*address));
        self.away.retain(|name, action| {
            let same = input.blocks.get(name).is_some_and(|block| Some(&block.state) == action.state());
            // A pod got an address of the range first, so the writer did not execute the action.
            same && !action.given().is_some_and(is_held)
        });
    }
}

/// Decides which actions to take now, and what the plugin may use.
#[must_use]
pub fn decide(input: &PlannerInput<'_>, memory: &mut PlannerMemory) -> PoolDecision {
    memory.observe(input);
    let mut planner = Planner::new(input, &memory.away);
    // `provide` marks blocks as kept or claims more; only then `release` knows the unneeded ones.
    let lists = planner.lists();
    for list in &lists {
        planner.provide(list, memory);
    }
    for request in input.requests {
        request.addresses.iter().for_each(|address| planner.provide_address(*address));
    }
    planner.recover();
    planner.release(memory);
    planner.withdraw(memory);
    planner.answer(memory);
    gone::collect(input, memory, &mut planner.decision);
    // Remembered until the watch shows the new state: the plugin must not get these back.
    let given = planner.decision.actions.iter().filter(|action| action.given().is_some());
    memory.away = given.map(|action| (action.name(), action.clone())).collect();
    planner.finish()
}

/// One of this node's blocks, or a borrowed part of another node's block.
#[derive(Clone, Debug)]
struct Own<'a> {
    cidr: IpNetwork,
    /// The ranges of it that this node uses.
    parts: Vec<IpNetwork>,
    borrowed: bool,
    pool: &'a str,
    /// The block's object; `None` if the block is about to be claimed.
    object: Option<(&'a String, &'a Block)>,
    used: usize,
    free: usize,
}

struct Planner<'a> {
    input: &'a PlannerInput<'a>,
    /// Pools from which this node gives out addresses.
    usable: Vec<&'a Pool>,
    /// Own blocks and borrowed parts, oldest first.
    own: Vec<Own<'a>>,
    /// Blocks whose size differs from the block size of their pool.
    odd: Vec<IpNetwork>,
    kept: BTreeSet<IpNetwork>,
    /// Pools in which this node wants parts of other nodes' blocks.
    borrow_from: BTreeSet<String>,
    decision: PoolDecision,
}

impl<'a> Planner<'a> {
    fn new(input: &'a PlannerInput<'a>, away: &BTreeMap<String, BlockAction>) -> Self {
        let selects = |pool: &&Pool| match (&pool.selector, input.labels) {
            (Some(selector), Some(labels)) => selector.matches(labels),
            _ => true,
        };
        // Without labels no pool is excluded: the node then claims nothing, but keeps its blocks.
        let usable: Vec<_> = input.pools.iter().filter(|p| !p.disabled).filter(selects).collect();
        let size = |block: &Block| input.pools.iter().find(|p| p.name == block.pool).map(|p| p.block_prefix);
        // Blocks of a former block size overlap those of the present one and are in the way.
        let odd = input.blocks.values().filter(|b| size(b) != Some(b.cidr.prefix())).map(|b| b.cidr).collect();
        // Pending actions are repeated until the watch shows their effect.
        let decision = PoolDecision { actions: away.values().cloned().collect(), ..PoolDecision::default() };
        let mut planner =
            Self { input, usable, own: Vec::new(), odd, kept: BTreeSet::new(), borrow_from: BTreeSet::new(), decision };
        let mut objects: Vec<_> = input.blocks.iter().collect();
        // Oldest first: the plugin uses up older blocks first, so newer ones become empty.
        objects.sort_by_key(|(name, b)| (&b.created, *name));
        for (name, block) in objects {
            let given = away.get(name).and_then(BlockAction::given);
            let left =
                |parts: Vec<IpNetwork>| parts.into_iter().flat_map(|part| borrow::without(part, given.as_slice()));
            let mut push = |cidr, parts: Vec<IpNetwork>, borrowed| {
                if given != Some(cidr) {
                    let own = planner.count(cidr, left(parts).collect(), &block.pool, Some((name, block)));
                    planner.own.push(Own { borrowed, ..own });
                }
            };
            if block.node == input.node {
                push(block.cidr, block.kept(), false);
            }
            for part in block.sharing.lent.iter().filter(|part| part.node == input.node) {
                push(part.cidr, vec![part.cidr], true);
            }
        }
        planner
    }

    fn count(
        &self,
        cidr: IpNetwork,
        parts: Vec<IpNetwork>,
        pool: &'a str,
        object: Option<(&'a String, &'a Block)>,
    ) -> Own<'a> {
        let used = self.input.held.iter().filter(|a| parts.iter().any(|part| part.contains(**a))).count();
        let reserved = self.input.pools.iter().find(|p| p.name == pool).map_or(&[][..], |p| &p.reserved);
        let is_free = |a: &IpAddr| !self.input.held.contains(a) && !reserved.iter().any(|part| part.contains(*a));
        let free = parts
            .iter()
            .filter_map(|part| Range::block(*part).ok())
            .map(|range| (0..range.slots()).map(|slot| range.address(slot)).filter(is_free).count());
        let free = free.sum();
        Own { cidr, parts, borrowed: false, pool, object, used, free }
    }

    /// Returns the lists of pools from which pods of this node may get an address, per family.
    fn lists(&mut self) -> Vec<Vec<&'a Pool>> {
        let (mut lists, mut missing) = (Vec::new(), BTreeSet::new());
        let by_name = |name: &String| self.usable.iter().copied().find(|p| p.name == *name);
        let mut default: Vec<_> = if self.input.default.is_empty() {
            let mut all = self.usable.clone();
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all
        } else {
            self.input.default.iter().filter_map(by_name).collect()
        };
        // A pool of some namespaces would look like a spare for the pods of all.
        default.retain(|pool| pool.namespaces.is_none());
        for family in IpFamily::BOTH {
            lists.push(default.iter().copied().filter(|p| family.has(p.cidr.ip())).collect::<Vec<_>>());
            for names in self.input.requests.iter().filter_map(|request| request.pools(family)) {
                missing.extend(names.iter().filter(|name| by_name(name).is_none()));
                lists.push(names.iter().filter_map(by_name).filter(|p| family.has(p.cidr.ip())).collect());
            }
        }
        self.decision.default = default.iter().map(|p| p.name.clone()).collect();
        for name in missing {
            self.problem(format!(
                "a pod asks for pool {name}, which does not exist, is disabled or does not select this node"
            ));
        }
        lists.retain(|list| !list.is_empty());
        lists
    }

    /// Keeps one empty block of a list of pools, or claims one, or asks to borrow a part.
    fn provide(&mut self, list: &[&'a Pool], memory: &mut PlannerMemory) {
        let of_list = |own: &&Own<'_>| list.iter().any(|pool| pool.name == own.pool);
        if let Some(spare) = self.own.iter().filter(of_list).find(|own| !own.borrowed && own.used == 0 && own.free > 0)
        {
            self.kept.insert(spare.cidr);
            return;
        }
        let free: usize = self.own.iter().filter(of_list).map(|own| own.free).sum();
        let found = list.iter().find_map(|pool| Some((*pool, self.unclaimed(pool)?)));
        // A free block is better than a borrowed part, which costs another node its addresses.
        if let Some((pool, cidr)) = found {
            return self.claim(&pool.name, cidr);
        }
        if let Some(low) = list.iter().find(|pool| pool.borrow).map(|pool| borrow::low(pool)) {
            self.keep_borrowed(list, free, low);
            if free < low {
                self.ask(list, memory);
            }
        }
        if free == 0 {
            let names: Vec<_> = list.iter().map(|p| p.name.as_str()).collect();
            self.problem(format!("no free address and no free block in {}", names.join(", ")));
        }
    }

    /// Keeps as many empty borrowed parts as are needed to leave `low` free addresses.
    fn keep_borrowed(&mut self, list: &[&Pool], mut free: usize, low: usize) {
        let of_list = |own: &&Own<'_>| own.borrowed && list.iter().any(|pool| pool.name == own.pool);
        for own in self.own.iter().filter(of_list).filter(|own| own.used == 0) {
            if free - own.free >= low {
                free -= own.free;
            } else {
                self.kept.insert(own.cidr);
            }
        }
    }

    /// Returns an unclaimed block. The search starts at a hash of the node's name, so that nodes do
    /// not compete for the same block.
    fn unclaimed(&self, pool: &Pool) -> Option<IpNetwork> {
        let start = u128::from(hash64(self.input.node.as_bytes())) % pool.blocks();
        // From the start to the end, then around to the start.
        for (from, to) in [(start, pool.blocks()), (0, start)] {
            let mut index = pool.skip_reserved(from);
            while index < to {
                let block = pool.block(index);
                if self.is_unclaimed(block) {
                    return Some(block);
                }
                index = pool.skip_reserved(index + 1);
            }
        }
        None
    }

    fn is_unclaimed(&self, block: IpNetwork) -> bool {
        !self.input.blocks.contains_key(&block_name(block))
            && !self.odd.iter().any(|odd| overlap(*odd, block))
            && !self.own.iter().any(|own| own.cidr == block)
    }

    fn claim(&mut self, pool: &'a str, cidr: IpNetwork) {
        self.kept.insert(cidr);
        // Counted as own at once, so that another list of pools does not claim it too.
        let own = self.count(cidr, vec![cidr], pool, None);
        self.own.push(own);
        if self.input.labels.is_some() {
            self.decision.actions.push(BlockAction::Claim { pool: pool.into(), cidr });
        }
    }

    /// Keeps or claims the block of an address that a pod asks for.
    fn provide_address(&mut self, address: IpAddr) {
        let pool = self.usable.iter().copied().find(|p| p.allow_fixed_addresses && p.cidr.contains(address));
        let Some((pool, block)) = pool.and_then(|pool| Some((pool, pool.block_of(address)?))) else {
            return self
                .problem(format!("a pod asks for address {address}, which is in no pool with allowFixedAddresses"));
        };
        if let Some(own) = self.own.iter().find(|own| own.has(address)) {
            self.kept.insert(own.cidr);
        } else if self.is_unclaimed(block) {
            self.claim(&pool.name, block);
        } else {
            let owner = self.owner(address);
            self.problem(format!("a pod asks for address {address}, which is in a block of node {owner}"));
        }
    }

    /// Claims blocks again that pods of this node hold addresses of although the node lost them.
    fn recover(&mut self) {
        let mut lost: Vec<_> = self.input.held.iter().filter(|a| !self.own.iter().any(|own| own.has(**a))).collect();
        lost.sort();
        for address in lost {
            let pool = self.input.pools.iter().find(|p| p.cidr.contains(*address));
            let Some((pool, block)) = pool.and_then(|pool| Some((pool, pool.block_of(*address)?))) else { continue };
            // Claimed a moment ago for another address of the same block.
            if self.own.iter().any(|own| own.cidr == block) {
                continue;
            }
            if self.is_unclaimed(block) {
                self.claim(&pool.name, block);
            } else {
                let owner = self.owner(*address);
                self.problem(format!("address {address} of a pod of this node is in a block of node {owner}"));
            }
        }
    }

    fn owner(&self, address: IpAddr) -> &str {
        let mut users = self.input.blocks.values().flat_map(Block::users);
        users.find(|(_, range)| range.contains(address)).map_or("?", |(node, _)| node)
    }

    /// Gives back blocks and parts that are not kept and have been empty for the idle period.
    fn release(&mut self, memory: &mut PlannerMemory) {
        let now = self.input.now;
        let mut idle = BTreeMap::new();
        let unneeded = self.own.iter().filter(|own| own.used == 0 && !self.kept.contains(&own.cidr));
        for (own, (name, block)) in unneeded.filter_map(|own| Some((own, own.object?))) {
            let busy = self.decision.actions.iter().any(|action| action.name() == *name);
            // A block with another action pending, or with lent parts, can't be given back.
            if busy || !own.borrowed && !block.sharing.lent.is_empty() {
                continue;
            }
            let since = memory.idle.get(&own.cidr).copied().unwrap_or(now);
            idle.insert(own.cidr, since);
            if now >= since + self.input.grace.idle {
                self.decision.actions.push(own.give_back(name, block));
            } else {
                self.decision.wake(since + self.input.grace.idle);
            }
        }
        memory.idle = idle;
    }

    fn problem(&mut self, problem: String) {
        self.decision.problems.push(problem);
    }

    /// Adds the ranges that the plugin may use: own blocks and parts that are not given away.
    fn finish(mut self) -> PoolDecision {
        let given: Vec<IpNetwork> = self.decision.actions.iter().filter_map(BlockAction::given).collect();
        for pool in &self.usable {
            // A block without an object has not been accepted by the API server yet.
            let blocks = self.own.iter().filter(|own| own.pool == pool.name && own.object.is_some());
            self.decision.pools.push(PoolEntry {
                name: pool.name.clone(),
                cidr: pool.cidr,
                allow_fixed_addresses: pool.allow_fixed_addresses,
                restricted: pool.namespaces.is_some(),
                reserved: pool.reserved.clone(),
                blocks: blocks.flat_map(|own| &own.parts).flat_map(|part| borrow::without(*part, &given)).collect(),
            });
        }
        self.decision
    }
}

impl Own<'_> {
    fn has(&self, address: IpAddr) -> bool {
        self.parts.iter().any(|part| part.contains(address))
    }

    fn give_back(&self, name: &str, block: &Block) -> BlockAction {
        if self.borrowed {
            let mut sharing = block.sharing.clone();
            sharing.lent.retain(|part| part.cidr != self.cidr);
            borrow::share(name, block, sharing, Some(self.cidr))
        } else {
            BlockAction::Release { name: name.to_owned(), cidr: self.cidr, state: block.state.clone() }
        }
    }
}
