//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4).
//!
//! Each backend has an order of preference of all slots, and backends take turns to claim the best
//! free one. A backend's order depends on its address and port alone, so that all nodes have the
//! same table, and few slots change their backend when one comes or goes.

use dataplane_common::types::address::mix;

use crate::config::maglev::{DEFAULT_SIZE, SIZES};
use crate::proxy::desired::context::sort_key;
use crate::proxy::reconcile::published::PublishedBackend;

/// Returns the length of the table: `wanted` (0: the default), or the first of [`SIZES`] in which
/// every backend has a slot. If there are more backends than the largest size, each gets one slot,
/// without Maglev's order.
#[must_use]
pub fn size(wanted: u32, members: u32) -> u32 {
    let wanted = if wanted == 0 { DEFAULT_SIZE } else { wanted };
    let holds = |size: &u32| *size >= wanted && *size >= members;
    SIZES.into_iter().find(holds).unwrap_or(members)
}

/// A backend's position in its order of preference.
struct Walk {
    id: u32,
    next: u32,
    skip: u32,
    /// The number of rounds times its weight at which it takes its next turn.
    due: u64,
    weight: u64,
}

/// Appends the table to `out`. Does nothing if `size` is none of [`SIZES`] or too small for all.
pub(super) fn fill(size: u32, members: &[&PublishedBackend], out: &mut Vec<u32>) {
    if members.is_empty() || !SIZES.contains(&size) || members.len() > size as usize {
        return;
    }
    let heaviest = members.iter().map(|b| u64::from(b.weight)).max().unwrap_or(1).max(1);
    let mut walks: Vec<Walk> = members.iter().map(|b| walk(b, size)).collect();
    let base = out.len();
    out.resize(base + size as usize, 0);
    let table = &mut out[base..];
    // one bit for each slot: fits the first cache
    let mut taken = vec![0_u64; (size as usize).div_ceil(64)];
    let mut left = size;
    // the first round is everyone's
    let mut round = 0;
    loop {
        for walk in &mut walks {
            if round * walk.weight < walk.due {
                continue;
            }
            walk.due += heaviest;
            let mut slot = walk.next;
            while taken[slot as usize / 64] >> (slot % 64) & 1 != 0 {
                slot = step(slot, walk.skip, size);
            }
            taken[slot as usize / 64] |= 1 << (slot % 64);
            table[slot as usize] = walk.id;
            walk.next = step(slot, walk.skip, size);
            left -= 1;
            if left == 0 {
                return;
            }
        }
        round += 1;
    }
}

#[inline]
const fn step(slot: u32, skip: u32, size: u32) -> u32 {
    let next = slot + skip;
    if next >= size { next - size } else { next }
}

fn walk(b: &PublishedBackend, size: u32) -> Walk {
    let (first, second) = (digest(b, 0), digest(b, 1));
    let below = |hash: u64, n: u32| ((u128::from(hash) * u128::from(n)) >> 64) as u32;
    Walk {
        id: b.id.get(),
        next: below(first, size),
        skip: below(second, size - 1) + 1,
        due: 0,
        weight: b.weight.into(),
    }
}

/// Returns a hash of address and port that is equal on every machine and in every version, because
/// all nodes must have the same table.
fn digest(b: &PublishedBackend, seed: u64) -> u64 {
    let addr = sort_key(b.addr);
    let (high, low) = ((addr >> 64) as u64, addr as u64);
    [high, low, b.port.into()].into_iter().fold(mix(seed), |hash, w| mix(hash ^ w))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::reconcile::ids::BackendId;

    #[test]
    fn digest_of_an_endpoint_is_fixed() {
        for (addr, expected) in [
            ("10.1.0.5", [0x410b_274c_8d75_9a4d, 0xa92b_6e99_344f_325f]),
            ("fd00:1::5", [0xec94_7d2f_d0ea_d77f, 0x8b44_033c_77e9_adfe]),
        ] {
            let addr = addr.parse().unwrap();
            let backend = PublishedBackend { addr, port: 8080, state: 0, sets: 1, weight: 1, id: BackendId::new(1) };
            assert_eq!([0, 1].map(|seed| digest(&backend, seed)), expected, "{addr}");
        }
    }
}
