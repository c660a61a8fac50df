//! The decisions of one rule set about one kind of peer, by protocol and port.
//!
//! Rules are painted in the order in which they are asked; what is painted first stays. The result
//! is piecewise constant, and becomes one decision, one range or a port table.

use std::collections::BTreeMap;

use crate::policy::tables::Decision;

/// Ports with one decision: first, last, decision.
pub(super) type Piece = (u16, u16, Decision);

/// Decisions by protocol and port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct PortFunction {
    /// Protocol -> pieces in order, without overlap; ports between them have the rest's decision.
    pub(super) pieces: BTreeMap<u8, Vec<Piece>>,
    /// The decision about all other protocols and ports.
    pub(super) rest: Decision,
}

/// Collects the decisions of rules, first come first served.
#[derive(Default)]
pub(super) struct Painter {
    pieces: BTreeMap<u8, Vec<Piece>>,
}

impl Painter {
    /// Gives a decision to the ports of a range that have none yet.
    pub(super) fn paint(&mut self, protocol: u8, first: u16, last: u16, decision: Decision) {
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
    pub(super) fn finish(self, rest: Decision) -> PortFunction {
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
