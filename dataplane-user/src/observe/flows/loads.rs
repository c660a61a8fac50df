//! Tells the programs how many connections each backend has, for the schedulers that ask for it (`lc`, `wlc`, `sed`, `nq`).
//!
//! The programs count what they open, and sockets till their end; when a flow has ended, only a look at the flow tables tells. So, as long as a
//! Service has such a scheduler, the agent looks often, and writes `backend_loads`: what it has found, and how many flows the programs had counted
//! when it began. What they count later comes on top. [`tally`] counts, [`Loads`] is the only writer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::clock::Ticks;
use dataplane_common::types::flow::{Flow, FlowKey, flow_flags};
use dataplane_common::types::service::{Backend, BackendLoad, BackendStats};
use dataplane_host::map::{MapError, SharedArray, Table};
use dataplane_host::pins::Pins;
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tracing::warn;

use super::evict_policy::{FlowTimeouts, Half, Kind};
use crate::load::{LoadError, clock};
use crate::proxy::controller::Snapshot;

/// How long between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// It is longer where a look takes long: so many times that, which is 5 % of a processor.
const PAUSE_PER_LOOK: u32 = 20;

/// Active and inactive connections by backend id and generation.
pub type Tally = HashMap<(u32, u32), [u32; 2]>;

/// One pair of flows.
struct Pair {
    backend: (u32, u32),
    there: Option<Half>,
    back: Option<Half>,
}

/// Counts the pairs of one table that have not ended. Of `now`, only the low 24 bits count.
///
/// # Errors
/// The kernel refused.
pub fn tally<A: Address>(
    table: &Table<FlowKey<A>, Flow<A>>,
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
        // what has only a reply is the rest of a pair that the kernel has thrown out
        let Some(there) = there else { continue };
        let back = back.unwrap_or(there);
        if !timeouts.has_ended(there, back) {
            let inactive = matches!(Kind::of_pair(there, back), Kind::Closing);
            into.entry(backend).or_default()[usize::from(inactive)] += 1;
        }
    }
    Ok(())
}

/// The arrays of the backends.
#[derive(Debug)]
pub struct Loads {
    /// Which endpoint an id has.
    pub backends: SharedArray<Backend>,
    /// What programs have counted.
    pub stats: SharedArray<BackendStats>,
    /// What the agent has found.
    pub loads: SharedArray<BackendLoad>,
}

impl Loads {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// A pin is missing, or the map is not what it should be.
    pub fn open(pins: &Pins) -> Result<Self, MapError> {
        let (backends, stats) = (SharedArray::open(pins, "backends")?, SharedArray::open(pins, "backend_stats")?);
        Ok(Self { backends, stats, loads: SharedArray::open(pins, "backend_loads")? })
    }

    /// Looks by way of `count`, and writes what is not there already; says how much that was.
    ///
    /// # Errors
    /// That of `count`; nothing is written then.
    pub fn look<E>(&self, count: impl FnOnce(&mut Tally) -> Result<(), E>) -> Result<usize, E> {
        let ids = 1..self.backends.len();
        // first this: what is opened meanwhile rather counts twice until the next look than not at all
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
                // a program that reads half of it is wrong by what has changed since the last look, once
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
        tally::<V4>(&Table::open(pins, "flows4")?, now, timeouts, into)?;
        tally::<V6>(&Table::open(pins, "flows6")?, now, timeouts, into)
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
) -> Result<(), JoinError> {
    let mut failed = false;
    while snapshots.wait_for(|s| s.counting > 0).await.is_ok() {
        let (begun, pins) = (Instant::now(), pins.clone());
        let result = spawn_blocking(move || look(&pins, &timeouts)).await?;
        let fails = result.is_err();
        if let Err(e) = result
            && !failed
        {
            warn!(error = %e, "can't count connections: schedulers that ask for them know only what is opened");
        }
        failed = fails;
        tokio::time::sleep(PAUSE.max(begun.elapsed() * PAUSE_PER_LOOK)).await;
    }
    Ok(())
}
