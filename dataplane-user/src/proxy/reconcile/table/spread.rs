//! Weighted round robin: each backend as often as its share says, and as evenly as can be.
//!
//! The k-th of a backend's c slots in a table of n lies between slot (k-1)·n/c and slot k·n/c.
//! These windows can always be kept by filling slot after slot with the open window that ends first
//! (pfair scheduling on one processor: Baruah, Cohen, Plaxton, Varvel 1996), so that after any
//! number of connections a backend has had its exact share, rounded up or down.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Appends the table of these ids and shares to `out`.
pub(super) fn fill(shares: &[(u32, u32)], out: &mut Vec<u32>) {
    let total: u64 = shares.iter().map(|(_, share)| u64::from(*share)).sum();
    let window = |i: usize, k: u64| {
        let share = u64::from(shares[i].1);
        ((k * total / share), ((k + 1) * total).div_ceil(share))
    };
    let mut closed: BinaryHeap<Reverse<(u64, usize, u64)>> = (0..shares.len()).map(|i| Reverse((0, i, 0))).collect();
    let mut open = BinaryHeap::new();
    for slot in 0..total {
        while let Some(&Reverse((from, i, k))) = closed.peek()
            && from <= slot
        {
            closed.pop();
            // of two that end together the one that is open for longer: it has fewer slots, and
            // they lie better in the middle
            open.push(Reverse((window(i, k).1, from, i, k)));
        }
        let Some(Reverse((_, _, i, k))) = open.pop() else { return };
        out.push(shares[i].0);
        if k + 1 < u64::from(shares[i].1) {
            closed.push(Reverse((window(i, k + 1).0, i, k + 1)));
        }
    }
}
