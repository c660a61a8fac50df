//! Computes the numbers of entries of all maps.
//!
//! Maps for Services start small and grow by doubling up to a limit. Maps for flows, affinity and
//! sockets are allocated at once and sized from the node's memory: a share of 1/400, which is
//! Cilium's default too, with a lower bound that has been enough for small nodes. Used by the
//! loader and by the agent when a map is full; touches no map.

use crate::config::TableSizes;

/// A group of maps that are resized together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResizableMaps {
    /// The maps; the first one names the group.
    pub maps: &'static [&'static str],
    /// Initial number of entries.
    pub first: u32,
    /// Maximum number of entries.
    pub limit: u32,
}

/// Sizes of all maps whose size is not fixed in the object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Maps that are resized when they are full.
    pub resizable: [ResizableMaps; 7],
    /// Maps that are never resized: name and number of entries.
    pub fixed: [(&'static str, u32); 8],
}

/// Entries of each trie of networks: two for each node of a cluster that no other part serves. A
/// trie takes memory only for the entries that it has (`BPF_F_NO_PREALLOC`), so it begins with all.
const NETWORKS: u32 = 1 << 20;
/// Most slots, unless the configuration says otherwise.
pub const MAX_SLOTS: u32 = 1 << 22;
/// Kernel memory in bytes per flow: an entry of `flows4`, one of `flows6`, and half an entry of
/// each affinity and socket map. Counts keys, values and the overhead of an LRU hash.
const BYTES_PER_FLOW: u64 = 600;
const SHARE: u64 = 400;
const LEAST_FLOWS: u32 = 1 << 17;
const MOST_FLOWS: u32 = 1 << 22;

impl Sizes {
    /// Computes the sizes for a node with `memory` bytes of RAM.
    #[must_use]
    pub fn new(given: &TableSizes, memory: u64) -> Self {
        let flows = flows(memory);
        let resizable = |maps, first: u32, most: u32, given: Option<u32>| {
            let limit = given.unwrap_or(most);
            ResizableMaps { maps, first: first.min(limit), limit }
        };
        let [flows, affinity, sockets] =
            [(given.flows, flows), (given.affinity, flows / 2), (given.sockets, flows / 2)]
                .map(|(g, d)| g.unwrap_or(d));
        Self {
            resizable: [
                resizable(&["frontends4"], 1 << 17, 1 << 20, given.frontends),
                resizable(&["frontends6"], 1 << 17, 1 << 20, given.frontends),
                resizable(&["services"], 1 << 17, 1 << 20, given.services),
                resizable(&["backends", "backend_stats", "backend_loads"], 1 << 16, 1 << 20, given.backends),
                resizable(&["slots"], 1 << 18, MAX_SLOTS, given.slots),
                resizable(&["networks4"], NETWORKS, NETWORKS, None),
                resizable(&["networks6"], NETWORKS, NETWORKS, None),
            ],
            fixed: [
                ("flows4", flows),
                ("flows6", flows),
                ("affinity4", affinity),
                ("affinity6", affinity),
                ("sock_peers4", sockets),
                ("sock_peers6", sockets),
                ("surplus4", surplus(flows)),
                ("surplus6", surplus(flows)),
            ],
        }
    }
}

/// Returns a power of two, because the kernel rounds the buckets of a hash map up to one.
fn flows(memory: u64) -> u32 {
    let fitting = u32::try_from(memory / SHARE / BYTES_PER_FLOW).unwrap_or(u32::MAX);
    fitting.checked_ilog2().map_or(0, |bits| 1 << bits).clamp(LEAST_FLOWS, MOST_FLOWS)
}

/// Returns the number of surplus flows ([`dataplane_common::types::flow_budget`]) for a flow table
/// of this size: a quarter of its entries, as a power of two.
fn surplus(flows: u32) -> u32 {
    1 << (flows / 4).checked_ilog2().unwrap_or(0)
}

/// Returns the size that makes room for `missing` more entries, or `None` if `limit` is reached.
#[must_use]
pub fn larger(entries: u32, missing: u32, limit: u32) -> Option<u32> {
    // Grows even if no entry is missing: free slots may lie in pieces that are too small.
    let wanted = entries.saturating_add(missing).max(entries.saturating_add(1));
    let wanted = wanted.checked_next_power_of_two().unwrap_or(u32::MAX).min(limit);
    (wanted > entries).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn flow_tables_are_sized_from_memory() {
        assert_eq!([1, 32, 64, 128, 256].map(|gib| flows(gib * GIB)), [1 << 17, 1 << 17, 1 << 18, 1 << 19, 1 << 20]);
        assert_eq!([flows(0), flows(u64::MAX)], [1 << 17, 1 << 22]);
        let given = TableSizes { flows: Some(4096), ..TableSizes::default() };
        let fixed = Sizes::new(&given, 64 * GIB).fixed;
        assert_eq!(fixed[..3], [("flows4", 4096), ("flows6", 4096), ("affinity4", 1 << 17)]);
        assert_eq!(fixed[6..], [("surplus4", 1024), ("surplus6", 1024)]);
        assert_eq!([16, 5000, 1 << 17].map(surplus), [4, 1024, 1 << 15]);
    }

    #[test]
    fn limit_also_caps_the_initial_size() {
        let given = TableSizes { backends: Some(100), slots: Some(1 << 20), ..TableSizes::default() };
        let resizable = Sizes::new(&given, 0).resizable;
        assert_eq!([resizable[3].first, resizable[3].limit], [100, 100]);
        assert_eq!([resizable[4].first, resizable[4].limit], [1 << 18, 1 << 20]);
    }

    #[test]
    fn maps_double_until_missing_entries_fit() {
        assert_eq!(larger(1024, 1, 1 << 20), Some(2048));
        assert_eq!(larger(1024, 0, 1 << 20), Some(2048), "free space may be fragmented");
        assert_eq!(larger(1024, 5000, 1 << 20), Some(8192));
        assert_eq!(larger(1024, 5000, 3000), Some(3000));
        assert_eq!(larger(3000, 1, 3000), None);
        assert_eq!(larger(1 << 31, u32::MAX, u32::MAX), Some(u32::MAX));
    }
}
