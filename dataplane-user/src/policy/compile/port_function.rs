//! The decisions of one rule set about one kind of peer, by protocol and port.
//!
//! Rules are painted in the order in which they are asked; what is painted first stays. The result
//! is piecewise constant, and becomes one decision, one range or a port table.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::tables::Decision;

/// Ports with one decision: first, last, decision.
pub(super) type Piece<D> = (u16, u16, D);

/// Decisions by protocol and port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct PortFunction<D = Decision> {
    /// Protocol -> pieces in order, without overlap; ports between them have the rest's decision.
    pub(super) pieces: BTreeMap<u8, Vec<Piece<D>>>,
    /// The decision about all other protocols and ports.
    pub(super) rest: D,
}

/// Collects the decisions of rules, first come first served.
pub(super) struct Painter<D> {
    pieces: BTreeMap<u8, Vec<Piece<D>>>,
}

impl<D: Copy + Ord> Painter<D> {
    pub(super) const fn new() -> Self {
        Self { pieces: BTreeMap::new() }
    }

    /// Gives a decision to the ports of a range that have none yet.
    pub(super) fn paint(&mut self, protocol: u8, first: u16, last: u16, decision: D) {
        let pieces = self.pieces.entry(protocol).or_default();
        let mut gaps = Vec::new();
        let mut next = u32::from(first);
        for (from, to, _) in pieces.iter().filter(|(from, to, _)| *to >= first && *from <= last) {
            if u32::from(*from) > next {
                gaps.push((next as u16, from - 1, decision));
            }
            next = u32::from(*to) + 1;
        }
        if next <= u32::from(last) {
            gaps.push((next as u16, last, decision));
        }
        pieces.extend(gaps);
        pieces.sort_unstable();
    }

    /// Gives all other protocols and ports a decision.
    pub(super) fn finish(self, rest: D) -> PortFunction<D> {
        let mut pieces = self.pieces;
        for list in pieces.values_mut() {
            list.retain(|(_, _, decision)| *decision != rest);
            list.dedup_by(|next, before| {
                let joins = before.2 == next.2 && u32::from(before.1) + 1 == u32::from(next.0);
                if joins {
                    before.1 = next.1;
                }
                joins
            });
        }
        pieces.retain(|_, list| !list.is_empty());
        PortFunction { pieces, rest }
    }
}

impl<D: Copy> PortFunction<D> {
    fn at(&self, protocol: u8, port: u16) -> D {
        let mut pieces = self.pieces.get(&protocol).into_iter().flatten();
        pieces.find(|(first, last, _)| (*first..=*last).contains(&port)).map_or(self.rest, |(_, _, decision)| *decision)
    }

    /// Returns the ports of a protocol at which the decision may change, except the first.
    fn changes(&self, protocol: u8) -> impl Iterator<Item = u16> {
        let pieces = self.pieces.get(&protocol).into_iter().flatten();
        pieces.flat_map(|(first, last, _)| [Some(*first), last.checked_add(1)]).flatten()
    }
}

impl PortFunction<Option<Decision>> {
    /// Returns the function that asks `below` where this one has no decision.
    pub(super) fn over(&self, below: &PortFunction) -> PortFunction {
        let mut painter = Painter::new();
        let protocols: BTreeSet<u8> = self.pieces.keys().chain(below.pieces.keys()).copied().collect();
        for protocol in protocols {
            let starts: BTreeSet<u16> = self.changes(protocol).chain(below.changes(protocol)).chain([0]).collect();
            let ends = starts.iter().skip(1).map(|start| start - 1).chain([u16::MAX]);
            for (first, last) in starts.iter().zip(ends) {
                let decision = self.at(protocol, *first).unwrap_or_else(|| below.at(protocol, *first));
                painter.paint(protocol, *first, last, decision);
            }
        }
        painter.finish(self.rest.unwrap_or(below.rest))
    }
}

/// Returns the prefixes of a range of ports: the first port of each, and its length in bits.
pub(super) fn prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let mut found = Vec::new();
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    while next < end {
        let aligned = if next == 0 { 16 } else { next.trailing_zeros().min(16) };
        let bits = aligned.min((end - next).ilog2());
        found.push((next as u16, 16 - bits));
        next += 1 << bits;
    }
    found
}
