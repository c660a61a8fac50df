//! Counts the connections of each backend for the schedulers that need it (`lc`, `wlc`, `sed`,
//! `nq`).
//!
//! Programs count the flows that they open, and sockets until they are closed. The end of a flow
//! shows only in the flow tables. As long as a Service has such a scheduler, [`watch`], a task of
//! the agent, counts the flows there every second or so. It writes `backend_loads`: the connections
//! found, and the programs' counts of opened flows at the start of the count. Programs add what
//! they have opened since. [`tally`] counts; [`Loads`] is the only writer of the map.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::clock::Ticks;
use dataplane_common::types::flow::{Flow, FlowKey, flow_flags};
use dataplane_common::types::service::{Backend, BackendLoad, BackendStats};
use dataplane_host::map::{MapError, PinnedMap, SharedArray};
use dataplane_host::pins::Pins;
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tracing::warn;

use super::evict_policy::{FlowTimeouts, Half, Kind};
use crate::load::{LoadError, clock};
use crate::network::node::status::{NodeStatus, PeriodicTask};
use crate::proxy::controller::Snapshot;

/// Minimum interval between two counts.
const PAUSE: Duration = Duration::from_secs(1);
/// Interval as a multiple of the time that a count takes, which limits it to 5 % of a processor.
const PAUSE_PER_LOOK: u32 = 20;

/// Numbers of active and inactive connections by backend id and generation.
pub type Tally = HashMap<(u32, u32), [u32; 2]>;

/// The two directions of a pair, as far as they were found.
struct Pair {
    backend: (u32, u32),
    there: Option<Half>,
    back: Option<Half>,
}

/// Adds the pairs of one table that have not ended to `into`. `now` is in ticks, of which the low
/// 24 bits are used.
///
/// # Errors
/// The table can't be read.
pub fn tally<A: Address>(
    table: &PinnedMap<FlowKey<A>, Flow<A>>,
    now: Ticks,
    timeouts: &FlowTimeouts,
    into: &mut Tally,
) -> Result<(), MapError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let mut pairs = HashMap::new();
    table.for_each(|key, flow| {
        if flow.backend == 0 {
            return;
        }
        let half = Half::of(&key, &flow, now);
        let is_reply = flow.flags & flow_flags::REPLY != 0;
        let first = if is_reply { flow.reverse_key(&key) } else { key };
        let backend = (flow.backend, flow.generation);
        let pair = pairs.entry(first).or_insert(Pair { backend, there: None, back: None });
        *if is_reply { &mut pair.back } else { &mut pair.there } = Some(half);
    })?;
    for Pair { backend, there, back } in pairs.into_values() {
        // Only a reply half: the kernel has evicted the other one.
        let Some(there) = there else { continue };
        let back = back.unwrap_or(there);
        if !timeouts.has_ended(there, back) {
            let inactive = matches!(Kind::of_pair(there, back), Kind::Closing);
            into.entry(backend).or_default()[usize::from(inactive)] += 1;
        }
    }
    Ok(())
}

/// The mapped arrays of the backends.
#[derive(Debug)]
pub struct Loads {
    /// Endpoint and generation of each backend id.
    pub backends: SharedArray<Backend>,
    /// Counts of the programs.
    pub stats: SharedArray<BackendStats>,
    /// Connections that the agent has found.
    pub loads: SharedArray<BackendLoad>,
}

impl Loads {
    /// Maps the pinned arrays.
    ///
    /// # Errors
    /// A pin is missing, or the map has another layout.
    pub fn open(pins: &Pins) -> Result<Self, MapError> {
        let (backends, stats) = (SharedArray::open(pins, "backends")?, SharedArray::open(pins, "backend_stats")?);
        Ok(Self { backends, stats, loads: SharedArray::open(pins, "backend_loads")? })
    }

    /// Counts with `count` and writes the loads that have changed. Returns the number of written
    /// loads.
    ///
    /// # Errors
    /// The error of `count`; nothing is written in this case.
    pub fn look<E>(&self, count: impl FnOnce(&mut Tally) -> Result<(), E>) -> Result<usize, E> {
        let ids = 1..self.backends.len();
        // Read before the count: a flow opened in between counts twice until the next count. Read
        // after it, the flow would be missing.
        let before: Vec<BackendStats> = ids.clone().map(|id| self.stats.get(id).unwrap_or_default()).collect();
        let mut tally = Tally::new();
        count(&mut tally)?;
        let mut written = 0;
        for (id, stats) in ids.zip(before) {
            let Some(Backend { generation, .. }) = self.backends.get(id).filter(|b| b.state != 0) else { continue };
            let [active, inactive] = tally.get(&(id, generation)).copied().unwrap_or_default();
            let flows = if stats.generation == generation { stats.flows as u32 } else { 0 };
            let load = BackendLoad { generation, active, inactive, flows };
            if self.loads.get(id) != Some(load) {
                // Not atomic: a program that reads half of it sees, once, a value that is wrong by
                // the change since the last count.
                self.loads.set(id, &load);
                written += 1;
            }
        }
        Ok(written)
    }
}

fn look(pins: &Pins, timeouts: &FlowTimeouts) -> Result<usize, LoadError> {
    let now = clock::tick(pins)?;
    Ok(Loads::open(pins)?.look(|into| {
        tally::<V4>(&PinnedMap::open(pins, "flows4")?, now, timeouts, into)?;
        tally::<V6>(&PinnedMap::open(pins, "flows6")?, now, timeouts, into)
    })?)
}

/// Counts connections at intervals while a Service has a scheduler that needs it. Returns when the
/// controller has ended.
///
/// # Errors
/// A count has panicked.
pub async fn watch(
    pins: Pins,
    timeouts: FlowTimeouts,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    node: Arc<NodeStatus>,
) -> Result<(), JoinError> {
    let mut failed = false;
    while snapshots.wait_for(|s| s.counting > 0).await.is_ok() {
        let (begun, pins) = (Instant::now(), pins.clone());
        let result = spawn_blocking(move || look(&pins, &timeouts)).await?;
        let fails = result.is_err();
        if fails {
            node.round_failed(PeriodicTask::Loads);
        }
        // Logged once, until a count succeeds again.
        if let Err(e) = result
            && !failed
        {
            warn!(error = %e, "connection count failed: least-connection schedulers use outdated counts");
        }
        failed = fails;
        tokio::time::sleep(PAUSE.max(begun.elapsed() * PAUSE_PER_LOOK)).await;
    }
    Ok(())
}
