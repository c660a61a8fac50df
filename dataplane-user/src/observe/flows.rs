//! Removes ended flows from the flow tables before these fill up.
//!
//! The tables are LRU hashes. When one is full, the kernel evicts the least recently used entries:
//! one half of a pair, or an established connection that only waits, while recent half-open ones
//! stay. To prevent that, [`watch`], a task of the agent, sweeps the tables periodically. It
//! removes pairs that no packet may use any more and, from a nearly full table, those that matter
//! least. [`evict_policy`] decides; [`sweep`] is the only writer besides the programs.
//!
//! A packet that arrives between the last check and the removal opens a new flow, as if it had come
//! later.

pub mod evict_policy;
pub mod loads;
pub mod status;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::clock::Ticks;
use dataplane_common::types::flow::{Flow, FlowKey, flow_flags};
use dataplane_host::map::{MapError, PinnedMap};
use dataplane_host::pins::Pins;
use tokio::task::{JoinError, spawn_blocking};
use tracing::warn;

use crate::load::{LoadError, clock};
use crate::network::node::status::{NodeStatus, PeriodicTask};
use evict_policy::{FlowTimeouts, Half, Kind};
use status::FlowStatus;

/// Interval between sweeps. Ports of the node that ended connections hold are free at the latest
/// after their timeout and this time.
const PAUSE: Duration = Duration::from_secs(5);
/// Interval as a multiple of the time that a sweep takes, which limits it to 2 % of a processor.
const PAUSE_PER_SWEEP: u32 = 50;
/// Maximum number of pairs that one sweep considers for removal; the next sweep finds the others.
const CANDIDATES: usize = 1 << 16;

/// The contents of a flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowCounts {
    /// Number of pairs by [`Kind`], in the order of [`Kind::ALL`].
    pub pairs: [u64; Kind::ALL.len()],
    /// Number of entries: two per pair.
    pub entries: u32,
    /// Maximum number of entries.
    pub max_entries: u32,
    /// Removed pairs and single halves: in this sweep, or in [`FlowStatus`] since the agent
    /// started.
    pub removed: u64,
}

impl FlowCounts {
    fn exceeds(&self, percent: u64) -> bool {
        u64::from(self.entries) * 100 > u64::from(self.max_entries) * percent
    }

    /// Returns true if new flows will soon push out old ones.
    fn is_nearly_full(&self) -> bool {
        self.exceeds(90)
    }
}

/// Sweeps one table: counts its pairs and removes the ended ones. `now` is in ticks, of which the
/// low 24 bits are used.
///
/// # Errors
/// The table can't be read or changed. Entries removed before the failure stay removed.
pub fn sweep<A: Address>(
    table: &PinnedMap<FlowKey<A>, Flow<A>>,
    now: Ticks,
    timeouts: &FlowTimeouts,
) -> Result<FlowCounts, MapError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let mut counts = FlowCounts { max_entries: table.max_entries(), ..FlowCounts::default() };
    let mut candidates = Vec::new();
    table.for_each(|key, flow| {
        let half = Half::of(&key, &flow, now);
        counts.entries += 1;
        if flow.flags & flow_flags::REPLY == 0 {
            counts.pairs[half.kind() as usize] += 1;
        }
        if timeouts.may_have_ended(half) && candidates.len() < CANDIDATES {
            candidates.push(key);
        }
    })?;
    for key in candidates {
        let Some(flow) = table.get(&key)? else { continue };
        // The first pass saw one half of a pair. Read both again: a packet may have come since.
        let other_key = flow.reverse_key(&key);
        let half = Half::of(&key, &flow, now);
        let Some(other) = table.get(&other_key)? else {
            // The kernel has evicted the other half.
            if timeouts.may_have_ended(half) && table.remove(&key)? {
                counts.entries -= 1;
                counts.removed += 1;
            }
            continue;
        };
        let other = Half::of(&other_key, &other, now);
        let is_reply = flow.flags & flow_flags::REPLY != 0;
        let (there, back) = if is_reply { (other, half) } else { (half, other) };
        if timeouts.has_ended(there, back) {
            // The reply half goes last: as long as a packet can be forwarded, its reply can return.
            let (first, last) = if is_reply { (other_key, key) } else { (key, other_key) };
            let gone = u32::from(table.remove(&first)?) + u32::from(table.remove(&last)?);
            counts.entries = counts.entries.saturating_sub(gone);
            counts.removed += 1;
        }
    }
    Ok(counts)
}

/// Sweeps one table; a second time, with the timeouts under pressure, if it is nearly full.
fn evict<A: Address>(pins: &Pins, name: &str, now: Ticks, timeouts: &FlowTimeouts) -> Result<FlowCounts, MapError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let table = PinnedMap::open(pins, name)?;
    relieve(timeouts, |timeouts| sweep::<A>(&table, now, timeouts))
}

/// Calls `sweep` with the timeouts; a second time, with those under pressure, if the table is still
/// nearly full. Returns the counts of the last sweep, with the pairs that both have removed.
fn relieve<E>(
    timeouts: &FlowTimeouts,
    mut sweep: impl FnMut(&FlowTimeouts) -> Result<FlowCounts, E>,
) -> Result<FlowCounts, E> {
    let mut counts = sweep(timeouts)?;
    // Better to end doubtful flows now than to let the kernel evict established ones.
    if counts.is_nearly_full() {
        let removed = counts.removed;
        counts = sweep(&timeouts.under_pressure())?;
        counts.removed += removed;
    }
    Ok(counts)
}

/// Returns the time until the next sweep, after one that took so long.
fn pause(sweep: Duration) -> Duration {
    PAUSE.max(sweep * PAUSE_PER_SWEEP)
}

fn evict_both(pins: &Pins, timeouts: &FlowTimeouts) -> Result<[FlowCounts; 2], LoadError> {
    let now = clock::tick(pins)?;
    Ok([evict::<V4>(pins, "flows4", now, timeouts)?, evict::<V6>(pins, "flows6", now, timeouts)?])
}

/// Sweeps both flow tables at intervals, for ever.
///
/// # Errors
/// A sweep has panicked.
pub async fn watch(
    pins: Pins,
    timeouts: FlowTimeouts,
    status: Arc<FlowStatus>,
    node: Arc<NodeStatus>,
) -> Result<Infallible, JoinError> {
    let mut full = [false; 2];
    loop {
        let (begun, pins) = (Instant::now(), pins.clone());
        match spawn_blocking(move || evict_both(&pins, &timeouts)).await? {
            Ok(now) => {
                for (counts, (full, table)) in now.iter().zip(full.iter_mut().zip(["flows4", "flows6"])) {
                    let was_full = std::mem::replace(full, counts.is_nearly_full());
                    if *full && !was_full {
                        let (entries, max) = (counts.entries, counts.max_entries);
                        let advice =
                            "flow table nearly full of live flows: the kernel removes the oldest; raise --max-flows";
                        warn!(table, entries, max, "{advice}");
                    }
                }
                status.set(now);
            }
            Err(e) => {
                node.round_failed(PeriodicTask::Flows);
                warn!(error = %e, "flow eviction failed");
            }
        }
        tokio::time::sleep(pause(begun.elapsed())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: FlowTimeouts = FlowTimeouts::new(Ticks(1000), Ticks(60), Ticks(100));

    fn filled(entries: u32, removed: u64) -> FlowCounts {
        FlowCounts { entries, max_entries: 1000, removed, ..FlowCounts::default() }
    }

    /// Runs [`relieve`] on a table that has these counts after each sweep. Returns its result and
    /// the timeouts of the sweeps.
    fn relieved(after: &[FlowCounts]) -> (FlowCounts, Vec<FlowTimeouts>) {
        let mut used = Vec::new();
        let counts = relieve(&TIMEOUTS, |timeouts| {
            used.push(*timeouts);
            after.get(used.len() - 1).copied().ok_or("one sweep too many")
        });
        (counts.unwrap(), used)
    }

    #[test]
    fn nearly_full_table_is_swept_again_with_short_timeouts() {
        assert_eq!(relieved(&[filled(900, 7)]), (filled(900, 7), vec![TIMEOUTS]), "90 % is not nearly full");
        let pressed = vec![TIMEOUTS, TIMEOUTS.under_pressure()];
        assert_eq!(relieved(&[filled(901, 7), filled(400, 30)]), (filled(400, 37), pressed.clone()));
        // Full of live flows: no third sweep.
        assert_eq!(relieved(&[filled(1000, 0), filled(990, 5)]), (filled(990, 5), pressed));
    }

    #[test]
    fn failed_sweep_is_no_result() {
        assert_eq!(relieve(&TIMEOUTS, |_| Err("unreadable")), Err("unreadable"));
        let mut sweeps = [Ok(filled(1000, 1)), Err("unreadable")].into_iter();
        assert_eq!(relieve(&TIMEOUTS, |_| sweeps.next().unwrap()), Err("unreadable"));
    }

    #[tokio::test]
    async fn failed_rounds_are_counted() {
        let (pins, node) = (Pins::new("/nonexistent".as_ref()), Arc::new(NodeStatus::default()));
        let (sender, snapshots) = tokio::sync::watch::channel(Arc::default());
        sender.send_replace(Arc::new(crate::proxy::controller::Snapshot { counting: 1, ..Default::default() }));
        let flows = watch(pins.clone(), TIMEOUTS, Arc::default(), Arc::clone(&node));
        let loads = loads::watch(pins, TIMEOUTS, snapshots, Arc::clone(&node));
        let both_failed = async {
            while [PeriodicTask::Flows, PeriodicTask::Loads].iter().any(|task| node.failed_rounds(*task) == 0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            end = flows => panic!("{end:?}"),
            end = loads => panic!("{end:?}"),
            () = both_failed => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("not counted: {node:?}"),
        }
    }

    #[test]
    fn sweeps_of_large_tables_take_little_of_a_processor() {
        assert_eq!(pause(Duration::from_millis(3)), PAUSE);
        assert_eq!(pause(Duration::from_secs(1)), Duration::from_secs(50));
    }
}
