//! Schedulers that compare connection counts: the search for the least loaded backend.
//!
//! The formulas are those of IPVS (`ip_vs_lc.c`, `ip_vs_wlc.c`, `ip_vs_sed.c` and `ip_vs_nq.c` in
//! net/netfilter/ipvs). A kernel program cannot look at thousands of backends for one connection:
//! [`Search`] is exact for tables of up to [`EXACT`] slots, and samples as many slots of a longer
//! one.
//!
//! The loop has no branch that it can do without, and takes the differences between schedulers as
//! numbers: the verifier explores each branch in each of the 32 iterations.

use crate::maps::SharedMaps;
use crate::types::load::{EXACT, Formula, Search, slot};

/// Returns the id of the backend with the least load for its weight; 0 if none takes connections.
#[inline(always)]
#[must_use]
pub fn run<N: SharedMaps>(search: Search, node: &N) -> u32 {
    let Search { table, mut first, addend, formula } = search;
    // The initial 1/0 is greater than every fraction with a weight, and no fraction without one
    // is less than it.
    let (mut best, mut least, mut its_weight) = (0, 1, 0);
    // A constant bound, so that the verifier sees the loop end; the length is checked inside.
    for looked in 0..EXACT {
        if looked >= table.len {
            break;
        }
        // Hide the value, or LLVM hoists everything derived from it out of the loop and overflows
        // the 512-byte stack.
        let formula = Formula(node.optimization_barrier(formula.0));
        let at = table.base.wrapping_add(slot(first, table.len));
        first = first.wrapping_add(addend);
        let Some(id) = node.slot(at) else { break };
        let Some(backend) = node.backend(id) else { break };
        // A freed id: the agent has just replaced this table.
        if backend.state == 0 {
            continue;
        }
        let weight = formula.weight(backend.weight);
        let overhead = formula.overhead(node.connection_counts(id, backend.generation));
        // a / b < c / d, multiplied out, because an integer division would round.
        if overhead * its_weight < least * weight {
            (best, least, its_weight) = (id, overhead, weight);
            // No backend can have less.
            if overhead == 0 {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests;
