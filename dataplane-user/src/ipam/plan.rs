//! Which blocks this node claims, gives back or collects: a pure decision from everything that is known.
//!
//! - For each list of pools from which pods of this node may get an address, one block stays empty: the spare. When a pod
//!   takes an address of the last one, the next is claimed.
//! - A block that is not needed goes back when it has been empty for a while. What a pod asks for by address is kept.
//! - Nothing is borrowed: a node gives out addresses of its own blocks only.
//! - A block of a node that is gone is collected by a node that has seen it twice in the same state; which one, all agree.

mod gone;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use dataplane_host::pools::{PoolEntry, Wish};
use dataplane_host::store::{Range, fnv64};
use ipnetwork::IpNetwork;

use super::pool::{Pool, block_name, overlap};

/// How long things must have been so before they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a block that is not needed to be empty before it goes back. Longer than addresses need to cool down.
    pub idle: Duration,
    /// For a node to be gone before its blocks are collected: a Node may be deleted and made anew.
    pub gone: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { idle: Duration::from_secs(300), gone: Duration::from_secs(60) }
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
    pub state: State,
}

/// Which object, and in which state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
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
    pub wishes: &'a BTreeSet<Wish>,
    /// Addresses that this node's pods hold.
    pub held: &'a HashSet<IpAddr>,
    /// Since any fixed moment.
    pub now: Duration,
    /// How soon.
    pub patience: Patience,
}

/// What has to be remembered from one decision to the next.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Since when own blocks have been empty.
    idle: BTreeMap<IpNetwork, Duration>,
    /// Blocks of nodes that are gone: in which state, and since when.
    gone: BTreeMap<String, (State, Duration)>,
}

/// What to do to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
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
        state: State,
    },
    /// Remove a block of a node that is gone.
    Collect {
        /// The object's name.
        name: String,
        /// The node.
        node: String,
        /// In this state only.
        state: State,
    },
}

/// The decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// For the API server, in this order.
    pub actions: Vec<Action>,
    /// For the plugin: the pools of this node with its blocks.
    pub pools: Vec<PoolEntry>,
    /// For the plugin: the pools of pods that ask for none.
    pub default: Vec<String>,
    /// What is wrong, for people.
    pub problems: Vec<String>,
    /// When time alone changes the decision.
    pub next: Option<Duration>,
}

/// Decides.
#[must_use]
pub fn decide(world: &World<'_>, memory: &mut Memory) -> Decision {
    let mut planner = Planner::new(world);
    let lists = planner.lists();
    for list in &lists {
        planner.provide(list);
    }
    for wish in world.wishes {
        wish.addresses.iter().for_each(|address| planner.provide_address(*address));
    }
    planner.recover();
    planner.release(memory);
    gone::collect(world, memory, &mut planner.decision);
    planner.finish()
}

/// One of this node's blocks.
#[derive(Clone, Debug)]
struct Own<'a> {
    cidr: IpNetwork,
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
    decision: Decision,
}

impl<'a> Planner<'a> {
    fn new(world: &'a World<'a>) -> Self {
        let selects = |pool: &&Pool| match (&pool.selector, world.labels) {
            (Some(selector), Some(labels)) => selector.matches(labels),
            _ => true,
        };
        let usable: Vec<_> = world.pools.iter().filter(|p| !p.disabled).filter(selects).collect();
        let size = |block: &Block| world.pools.iter().find(|p| p.name == block.pool).map(|p| p.block_prefix);
        let odd = world.blocks.values().filter(|b| size(b) != Some(b.cidr.prefix())).map(|b| b.cidr).collect();
        let mut planner =
            Self { world, usable, own: Vec::new(), odd, kept: BTreeSet::new(), decision: Decision::default() };
        let mut own: Vec<_> = world.blocks.iter().filter(|(_, b)| b.node == world.node).collect();
        own.sort_by_key(|(name, b)| (&b.created, *name));
        planner.own =
            own.into_iter().map(|object| planner.count(object.1.cidr, &object.1.pool, Some(object))).collect();
        planner
    }

    fn count(&self, cidr: IpNetwork, pool: &'a str, object: Option<(&'a String, &'a Block)>) -> Own<'a> {
        let used = self.world.held.iter().filter(|a| cidr.contains(**a)).count();
        let reserved = self.world.pools.iter().find(|p| p.name == pool).map_or(&[][..], |p| &p.reserved);
        let free = Range::block(cidr).map_or(0, |range| {
            let is_free = |a: &IpAddr| !self.world.held.contains(a) && !reserved.iter().any(|part| part.contains(*a));
            (0..range.slots()).map(|slot| range.address(slot)).filter(is_free).count()
        });
        Own { cidr, pool, object, used, free }
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

    /// Keeps an empty block of a list of pools, or claims one.
    fn provide(&mut self, list: &[&'a Pool]) {
        let of_list = |own: &&Own<'_>| list.iter().any(|pool| pool.name == own.pool);
        if let Some(spare) = self.own.iter().filter(of_list).find(|own| own.used == 0 && own.free > 0) {
            self.kept.insert(spare.cidr);
            return;
        }
        let free: usize = self.own.iter().filter(of_list).map(|own| own.free).sum();
        let found = list.iter().find_map(|pool| Some((*pool, self.unclaimed(pool)?)));
        match found {
            Some((pool, cidr)) => self.claim(&pool.name, cidr),
            None if free == 0 => {
                let names: Vec<_> = list.iter().map(|p| p.name.as_str()).collect();
                self.problem(format!("no free address and no free block in {}", names.join(", ")));
            }
            None => {}
        }
    }

    /// A block that nobody has. Each node begins its search elsewhere, so that they are not in each other's way.
    fn unclaimed(&self, pool: &Pool) -> Option<IpNetwork> {
        let start = u128::from(fnv64(self.world.node.as_bytes())) % pool.blocks();
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
        let own = self.count(cidr, pool, None);
        self.own.push(own);
        if self.world.labels.is_some() {
            self.decision.actions.push(Action::Claim { pool: pool.into(), cidr });
        }
    }

    /// The block of an address that a pod asks for.
    fn provide_address(&mut self, address: IpAddr) {
        let pool = self.usable.iter().copied().find(|p| p.allow_fixed_addresses && p.cidr.contains(address));
        let Some((pool, block)) = pool.and_then(|pool| Some((pool, pool.block_of(address)?))) else {
            return self.problem(format!("address {address}, which a pod asks for, is in no pool that allows that"));
        };
        if let Some(own) = self.own.iter().find(|own| own.cidr.contains(address)) {
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
        let mut lost: Vec<_> =
            self.world.held.iter().filter(|a| !self.own.iter().any(|own| own.cidr.contains(**a))).collect();
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
        self.world.blocks.values().find(|b| b.cidr.contains(address)).map_or("?", |b| &b.node)
    }

    /// Gives back what has been empty for long and is not kept.
    fn release(&mut self, memory: &mut Memory) {
        let now = self.world.now;
        let mut idle = BTreeMap::new();
        let unneeded = self.own.iter().filter(|own| own.used == 0 && !self.kept.contains(&own.cidr));
        for (own, (name, block)) in unneeded.filter_map(|own| Some((own, own.object?))) {
            let since = memory.idle.get(&own.cidr).copied().unwrap_or(now);
            idle.insert(own.cidr, since);
            if now >= since + self.world.patience.idle {
                let (name, state) = (name.clone(), block.state.clone());
                self.decision.actions.push(Action::Release { name, cidr: own.cidr, state });
            } else {
                self.decision.wake(since + self.world.patience.idle);
            }
        }
        memory.idle = idle;
    }

    fn problem(&mut self, problem: String) {
        self.decision.problems.push(problem);
    }

    /// Adds what the plugin may use: own blocks that stay.
    fn finish(mut self) -> Decision {
        let going: BTreeSet<IpNetwork> = self.decision.actions.iter().filter_map(Action::released).collect();
        for pool in &self.usable {
            let blocks = self.own.iter().filter(|own| own.pool == pool.name && own.object.is_some());
            self.decision.pools.push(PoolEntry {
                name: pool.name.clone(),
                cidr: pool.cidr,
                allow_fixed_addresses: pool.allow_fixed_addresses,
                reserved: pool.reserved.clone(),
                blocks: blocks.map(|own| own.cidr).filter(|cidr| !going.contains(cidr)).collect(),
            });
        }
        self.decision
    }
}

impl Decision {
    fn wake(&mut self, at: Duration) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

impl Action {
    /// The block that goes back.
    #[must_use]
    pub const fn released(&self) -> Option<IpNetwork> {
        match self {
            Self::Release { cidr, .. } => Some(*cidr),
            _ => None,
        }
    }
}
