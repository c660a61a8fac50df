//! Which backend has the least to do: the schedulers that count connections, by the formulas of IPVS (`ip_vs_lc.c`, `ip_vs_wlc.c`, `ip_vs_sed.c` and
//! `ip_vs_nq.c` in the kernel's net/netfilter/ipvs).
//!
//! A kernel program can't look at thousands of backends for one connection. [`Search`] is exact for tables of up to [`EXACT`] slots; of a longer one
//! it looks at as many slots as that, drawn by chance.
//!
//! The search has no branch but those that it can't do without, and takes what differs between schedulers as numbers: the verifier follows each
//! branch anew in each turn of the loop.

use crate::maps::SharedMaps;
use crate::types::load::{EXACT, Formula, Search, slot};

/// The id of the backend that has the least to do for its weight; 0: none takes connections.
#[inline(always)]
#[must_use]
pub fn run<N: SharedMaps>(search: Search, node: &N) -> u32 {
    let Search { table, mut first, addend, formula } = search;
    // anything is better than this, if it has a weight
    let (mut best, mut least, mut its_weight) = (0, 1, 0);
    for looked in 0..EXACT {
        if looked >= table.len {
            break;
        }
        // or all that follows from it is kept ready, for which a program has no room
        let formula = Formula(node.optimization_barrier(formula.0));
        let at = table.base.wrapping_add(slot(first, table.len));
        first = first.wrapping_add(addend);
        let Some(id) = node.slot(at) else { break };
        let Some(backend) = node.backend(id) else { break };
        if backend.state == 0 {
            continue;
        }
        let weight = formula.weight(backend.weight);
        let overhead = formula.overhead(node.connection_counts(id, backend.generation));
        // a / b < c / d, without a division
        if overhead * its_weight < least * weight {
            (best, least, its_weight) = (id, overhead, weight);
            if overhead == 0 {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests;
