//! Which blocks this node claims, gives back or collects: a pure decision from everything that is known.
//!
//! - For each list of pools from which pods of this node may get an address, one block stays empty: the spare. When a pod
//!   takes an address of the last one, the next is claimed.
//! - A block that is not needed goes back when it has been empty for a while. What a pod asks for by address is kept.
//! - A node gives out addresses of its own blocks only, and of parts of others' that these have lent to it ([`borrow`]).
//! - A block of a node that is gone is collected by a node that has seen it twice in the same state; which one, all agree.

mod action;
mod borrow;
mod gone;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use dataplane_common::types::fnv::hash64;
use dataplane_host::contract::pools::{PoolEntry, PoolRequest};
use dataplane_host::store::{COOL_DOWN, Range};
use ipnetwork::IpNetwork;

pub use action::{BlockAction, PoolDecision};

use super::pool::{Pool, block_name, overlap};

/// The times for which a state must last before the planner acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracePeriods {
    /// For a block that is not needed to be empty before it goes back. Longer than addresses need to cool down.
    pub idle: Duration,
    /// For an address to be unused before another node gets it.
    pub cool: Duration,
    /// For an answer of a node that was asked for a part of its block.
    pub answer: Duration,
    /// For a block not to be asked for again.
    pub again: Duration,
    /// For a node to be gone before its blocks are collected: a Node may be deleted and made anew.
    pub gone: Duration,
}

impl Default for GracePeriods {
    fn default() -> Self {
        let [answer, again, gone, idle] = [10, 60, 60, 300].map(Duration::from_secs);
        Self { idle, cool: COOL_DOWN * 2, answer, again, gone }
    }
}

/// A block, as its object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The range.
    pub cidr: IpNetwork,
    /// Name of its pool.
    pub pool: String,
    /// Name of its node.
    pub node: String,
    /// When it was made, in a form that sorts.
    pub created: String,
    /// The object's identity and state, as preconditions.
    pub state: ObjectVersion,
    /// What other nodes have to do with it.
    pub sharing: Sharing,
}

/// Other nodes in a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Parts that they use; none overlaps another.
    pub lent: Vec<Lent>,
    /// The node that asks for one.
    pub asked: Option<String>,
}

/// A part of a block that another node uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lent {
    /// The range.
    pub cidr: IpNetwork,
    /// Name of the node.
    pub node: String,
}

/// The version of an object, as a precondition of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectVersion {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
}

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// This node.
    pub node: &'a str,
    /// Its labels; `None`: it has no object (yet), so it claims nothing.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// Pools that don't overlap.
    pub pools: &'a [Pool],
    /// All blocks, by name.
    pub blocks: &'a BTreeMap<String, Block>,
    /// Names of all nodes; `None`: not yet known.
    pub nodes: Option<&'a BTreeSet<Box<str>>>,
    /// Pools of pods that ask for none; empty: all, in the order of their names.
    pub default: &'a [String],
    /// What pods of this node ask for.
    pub wishes: &'a BTreeSet<PoolRequest>,
    /// Addresses that this node's pods hold.
    pub held: &'a HashSet<IpAddr>,
    /// Since any fixed moment.
    pub now: Duration,
    /// How soon.
    pub grace: GracePeriods,
}

/// The observations that last from one decision to the next.
#[derive(Clone, Debug, Default)]
pub struct PlannerMemory {
    /// Since when own blocks have been empty.
    idle: BTreeMap<IpNetwork, Duration>,
    /// Blocks of nodes that are gone: in which state, and since when.
    gone: BTreeMap<String, (ObjectVersion, Duration)>,
    /// Blocks of which a part was asked for: in which state, and when.
    tried: BTreeMap<String, (ObjectVersion, Duration)>,
    /// What was given away, by the block's name: as long as the block is seen in the state of before, the plugin must not get it back.
    away: BTreeMap<String, BlockAction>,
    /// Addresses that were held not long ago, and when they were last.
    recent: BTreeMap<IpAddr, Duration>,
    /// Since when there is a memory.
    since: Option<Duration>,
}

impl PlannerMemory {
    fn observe(&mut self, world: &World<'_>) {
        let now = world.now;
        self.since.get_or_insert(now);
        self.recent.extend(world.held.iter().map(|address| (*address, now)));
        self.recent.retain(|_, last| now < *last + world.grace.cool);
        let is_held = |range: IpNetwork| world.held.iter().any(|address| range.contains(*address));
        self.away.retain(|name, action| {
            let same = world.blocks.get(name).is_some_and(|block| Some(&block.state) == action.state());
            // A pod was quicker than we: then it was not done.
            same && !action.given().is_some_and(is_held)
        });
    }
}

/// Decides.
#[must_use]
pub fn decide(world: &World<'_>, memory: &mut PlannerMemory) -> PoolDecision {
    memory.observe(world);
    let mut planner = Planner::new(world, &memory.away);
    let lists = planner.lists();
    for list in &lists {
        planner.provide(list, memory);
    }
    for wish in world.wishes {
        wish.addresses.iter().for_each(|address| planner.provide_address(*address));
    }
    planner.recover();
    planner.release(memory);
    planner.withdraw(memory);
    planner.answer(memory);
    gone::collect(world, memory, &mut planner.decision);
    let given = planner.decision.actions.iter().filter(|action| action.given().is_some());
    memory.away = given.map(|action| (action.name(), action.clone())).collect();
    planner.finish()
}

/// One of this node's blocks, or a part of another node's.
#[derive(Clone, Debug)]
struct Own<'a> {
    cidr: IpNetwork,
    /// What this node uses of it.
    parts: Vec<IpNetwork>,
    borrowed: bool,
    pool: &'a str,
    /// `None`: about to be claimed.
    object: Option<(&'a String, &'a Block)>,
    used: usize,
    free: usize,
}

struct Planner<'a> {
    world: &'a World<'a>,
    /// Pools from which this node gives out addresses.
    usable: Vec<&'a Pool>,
    /// Oldest first.
    own: Vec<Own<'a>>,
    /// Blocks of a size that is not their pool's.
    odd: Vec<IpNetwork>,
    kept: BTreeSet<IpNetwork>,
    /// Pools of which this node wants parts of others' blocks.
    asking: BTreeSet<String>,
    decision: PoolDecision,
}

impl<'a> Planner<'a> {
    fn new(world: &'a World<'a>, away: &BTreeMap<String, BlockAction>) -> Self {
        let selects = |pool: &&Pool| match (&pool.selector, world.labels) {
            (Some(selector), Some(labels)) => selector.matches(labels),
            _ => true,
        };
        let usable: Vec<_> = world.pools.iter().filter(|p| !p.disabled).filter(selects).collect();
        let size = |block: &Block| world.pools.iter().find(|p| p.name == block.pool).map(|p| p.block_prefix);
        let odd = world.blocks.values().filter(|b| size(b) != Some(b.cidr.prefix())).map(|b| b.cidr).collect();
        let decision = PoolDecision { actions: away.values().cloned().collect(), ..PoolDecision::default() };
        let mut planner =
            Self { world, usable, own: Vec::new(), odd, kept: BTreeSet::new(), asking: BTreeSet::new(), decision };
        let mut objects: Vec<_> = world.blocks.iter().collect();
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
            if block.node == world.node {
                push(block.cidr, block.kept(), false);
            }
            for part in block.sharing.lent.iter().filter(|part| part.node == world.node) {
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
        let used = self.world.held.iter().filter(|a| parts.iter().any(|part| part.contains(**a))).count();
        let reserved = self.world.pools.iter().find(|p| p.name == pool).map_or(&[][..], |p| &p.reserved);
        let is_free = |a: &IpAddr| !self.world.held.contains(a) && !reserved.iter().any(|part| part.contains(*a));
        let free = parts
            .iter()
            .filter_map(|part| Range::block(*part).ok())
            .map(|range| (0..range.slots()).map(|slot| range.address(slot)).filter(is_free).count());
        let free = free.sum();
        Own { cidr, parts, borrowed: false, pool, object, used, free }
    }

    /// The lists of pools from which pods of this node may get an address.
    fn lists(&mut self) -> Vec<Vec<&'a Pool>> {
        let (mut lists, mut missing) = (Vec::new(), BTreeSet::new());
        let by_name = |name: &String| self.usable.iter().copied().find(|p| p.name == *name);
        let default: Vec<_> = if self.world.default.is_empty() {
            let mut all = self.usable.clone();
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all
        } else {
            self.world.default.iter().filter_map(by_name).collect()
        };
        for v6 in [false, true] {
            lists.push(default.iter().copied().filter(|p| p.cidr.is_ipv6() == v6).collect::<Vec<_>>());
            for names in self.world.wishes.iter().filter_map(|wish| wish.pools(v6)) {
                missing.extend(names.iter().filter(|name| by_name(name).is_none()));
                lists.push(names.iter().filter_map(by_name).filter(|p| p.cidr.is_ipv6() == v6).collect());
            }
        }
        self.decision.default = default.iter().map(|p| p.name.clone()).collect();
        for name in missing {
            self.problem(format!("pool {name}, which a pod asks for, is not there, or disabled, or not for this node"));
        }
        lists.retain(|list| !list.is_empty());
        lists
    }

    /// Keeps an empty block of a list of pools, or claims one, or borrows.
    fn provide(&mut self, list: &[&'a Pool], memory: &mut PlannerMemory) {
        let of_list = |own: &&Own<'_>| list.iter().any(|pool| pool.name == own.pool);
        if let Some(spare) = self.own.iter().filter(of_list).find(|own| !own.borrowed && own.used == 0 && own.free > 0)
        {
            self.kept.insert(spare.cidr);
            return;
        }
        let free: usize = self.own.iter().filter(of_list).map(|own| own.free).sum();
        let found = list.iter().find_map(|pool| Some((*pool, self.unclaimed(pool)?)));
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

    /// Of what is borrowed and empty, as much is kept as leaves enough free addresses.
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

    /// A block that nobody has. Each node begins its search elsewhere, so that they are not in each other's way.
    fn unclaimed(&self, pool: &Pool) -> Option<IpNetwork> {
        let start = u128::from(hash64(self.world.node.as_bytes())) % pool.blocks();
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
        !self.world.blocks.contains_key(&block_name(block))
            && !self.odd.iter().any(|odd| overlap(*odd, block))
            && !self.own.iter().any(|own| own.cidr == block)
    }

    fn claim(&mut self, pool: &'a str, cidr: IpNetwork) {
        self.kept.insert(cidr);
        let own = self.count(cidr, vec![cidr], pool, None);
        self.own.push(own);
        if self.world.labels.is_some() {
            self.decision.actions.push(BlockAction::Claim { pool: pool.into(), cidr });
        }
    }

    /// The block of an address that a pod asks for.
    fn provide_address(&mut self, address: IpAddr) {
        let pool = self.usable.iter().copied().find(|p| p.allow_fixed_addresses && p.cidr.contains(address));
        let Some((pool, block)) = pool.and_then(|pool| Some((pool, pool.block_of(address)?))) else {
            return self.problem(format!("address {address}, which a pod asks for, is in no pool that allows that"));
        };
        if let Some(own) = self.own.iter().find(|own| own.has(address)) {
            self.kept.insert(own.cidr);
        } else if self.is_unclaimed(block) {
            self.claim(&pool.name, block);
        } else {
            let owner = self.owner(address);
            self.problem(format!("address {address}, which a pod asks for, is in a block of node {owner}"));
        }
    }

    /// Addresses that pods have although their block is not ours (any more): it is claimed again.
    fn recover(&mut self) {
        let mut lost: Vec<_> = self.world.held.iter().filter(|a| !self.own.iter().any(|own| own.has(**a))).collect();
        lost.sort();
        for address in lost {
            let pool = self.world.pools.iter().find(|p| p.cidr.contains(*address));
            let Some((pool, block)) = pool.and_then(|pool| Some((pool, pool.block_of(*address)?))) else { continue };
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
        let mut users = self.world.blocks.values().flat_map(Block::users);
        users.find(|(_, range)| range.contains(address)).map_or("?", |(node, _)| node)
    }

    /// Gives back what has been empty for long and is not kept.
    fn release(&mut self, memory: &mut PlannerMemory) {
        let now = self.world.now;
        let mut idle = BTreeMap::new();
        let unneeded = self.own.iter().filter(|own| own.used == 0 && !self.kept.contains(&own.cidr));
        for (own, (name, block)) in unneeded.filter_map(|own| Some((own, own.object?))) {
            let busy = self.decision.actions.iter().any(|action| action.name() == *name);
            if busy || !own.borrowed && !block.sharing.lent.is_empty() {
                continue;
            }
            let since = memory.idle.get(&own.cidr).copied().unwrap_or(now);
            idle.insert(own.cidr, since);
            if now >= since + self.world.grace.idle {
                self.decision.actions.push(own.give_back(name, block));
            } else {
                self.decision.wake(since + self.world.grace.idle);
            }
        }
        memory.idle = idle;
    }

    fn problem(&mut self, problem: String) {
        self.decision.problems.push(problem);
    }

    /// Adds what the plugin may use: own blocks that stay.
    fn finish(mut self) -> PoolDecision {
        let given: Vec<IpNetwork> = self.decision.actions.iter().filter_map(BlockAction::given).collect();
        for pool in &self.usable {
            let blocks = self.own.iter().filter(|own| own.pool == pool.name && own.object.is_some());
            self.decision.pools.push(PoolEntry {
                name: pool.name.clone(),
                cidr: pool.cidr,
                allow_fixed_addresses: pool.allow_fixed_addresses,
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
