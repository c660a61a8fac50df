//! Blocks with exceptions as one trie: each prefix knows all blocks that its addresses are in.
//!
//! Prefixes of the trie are the ranges and the exceptions of all blocks. An exception removes only
//! its own block, so another block that covers the same address still holds (NP-29, NP-35).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::policy::object::Block;
use crate::policy::tables::Lpm;

/// The numbers of the blocks that contain an address.
pub(super) type BlockSet = BTreeSet<usize>;

/// All blocks of the rules, and which of them contain an address.
pub(super) struct Blocks<'a> {
    /// The blocks in order; a block's number is its place.
    numbered: Vec<&'a Block>,
    /// Each prefix, with the blocks that contain the addresses whose longest prefix it is.
    pub(super) prefixes: Vec<(IpNetwork, BlockSet)>,
    v4: Lpm<BlockSet>,
    v6: Lpm<BlockSet>,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(blocks: BTreeSet<&'a Block>) -> Self {
        let numbered: Vec<_> = blocks.into_iter().collect();
        let prefixes = walk(&numbered);
        let (mut v4, mut v6) = (Lpm::new(32), Lpm::new(128));
        for (prefix, set) in &prefixes {
            insert(&mut v4, &mut v6, *prefix, set.clone());
        }
        Self { numbered, prefixes, v4, v6 }
    }

    /// Returns the number of a block that was given to [`Self::new`].
    pub(super) fn number(&self, block: &Block) -> Option<usize> {
        self.numbered.binary_search(&block).ok()
    }

    /// Returns the blocks that contain an address.
    pub(super) fn containing(&self, address: IpAddr) -> BlockSet {
        let found = match address {
            IpAddr::V4(address) => self.v4.get(u128::from(address.to_bits())),
            IpAddr::V6(address) => self.v6.get(address.to_bits()),
        };
        found.cloned().unwrap_or_default()
    }
}

/// Sets the value of a prefix in the trie of its family.
pub(super) fn insert<V>(v4: &mut Lpm<V>, v6: &mut Lpm<V>, prefix: IpNetwork, value: V) {
    let length = u32::from(prefix.prefix());
    match prefix.network() {
        IpAddr::V4(address) => v4.insert(u128::from(address.to_bits()), length, value),
        IpAddr::V6(address) => v6.insert(address.to_bits(), length, value),
    }
}

/// Returns true if all addresses of `inner` are in `outer`.
fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// Walks the prefixes from the widest to the narrowest and returns the blocks of each.
fn walk(blocks: &[&Block]) -> Vec<(IpNetwork, BlockSet)> {
    // A block that is excepted as a whole contains no address.
    let living = |block: &Block| !block.excepts.iter().any(|except| covers(*except, block.cidr));
    let living: Vec<(usize, &Block)> =
        blocks.iter().enumerate().filter(|(_, block)| living(block)).map(|(number, block)| (number, *block)).collect();
    let inside = |block: &Block| block.excepts.iter().copied().filter(|except| covers(block.cidr, *except)).collect();
    let mut begins: Vec<(IpNetwork, usize)> = Vec::new();
    let mut ends: Vec<(IpNetwork, usize)> = Vec::new();
    for (number, block) in living {
        begins.push((block.cidr, number));
        let excepts: Vec<IpNetwork> = inside(block);
        ends.extend(excepts.into_iter().map(|except| (except, number)));
    }
    begins.sort_unstable();
    ends.sort_unstable();
    let prefixes: BTreeSet<IpNetwork> = begins.iter().chain(&ends).map(|(prefix, _)| *prefix).collect();
    // Sorted by address and then by length, a prefix follows all prefixes that cover it.
    let mut path: Vec<(IpNetwork, BlockSet)> = Vec::new();
    let mut found = Vec::new();
    for prefix in prefixes {
        while path.pop_if(|(outer, _)| !covers(*outer, prefix)).is_some() {}
        let mut set = path.last().map(|(_, set)| set.clone()).unwrap_or_default();
        set.extend(at(&begins, prefix));
        for number in at(&ends, prefix) {
            set.remove(&number);
        }
        path.push((prefix, set.clone()));
        found.push((prefix, set));
    }
    found
}

/// Returns the numbers of one prefix in a sorted list.
fn at(list: &[(IpNetwork, usize)], prefix: IpNetwork) -> impl Iterator<Item = usize> {
    let from = list.partition_point(|(other, _)| *other < prefix);
    list[from..].iter().take_while(move |(other, _)| *other == prefix).map(|(_, number)| *number)
}
