//! The loop of pool mode: decides and writes whenever an object or the store changes, or a time has
//! come.
//!
//! Started by the agent. Waits for the watches to be complete, then runs rounds: read the store,
//! decide, write the plugin's files, publish problems and blocks, change block objects. A failed
//! round is repeated with backoff. The plugin's files are always written before the API server is
//! asked to take something away.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use inotify::{EventStream, Inotify, WatchMask};
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::plan::{Block, GracePeriods, PlannerInput, PlannerMemory, PoolDecision, decide};
use super::watch::{Objects, PoolView, objects};
use super::write::{self, BlockWriter, WriteError};
use crate::api::{ApiServer, WatchErrors};
use crate::network::blocks::Blocks;
use crate::network::node::status::NodeStatus;
use crate::proxy::controller::Nodes;

/// Delay after a change, so that a burst of pods is handled in one round.
const SETTLE: Duration = Duration::from_millis(20);
/// Delay after a failure; doubled up to [`LAST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Interval of rounds without a change, in case a notification was lost.
const AUDIT: Duration = Duration::from_secs(30);

/// The connections of the pool mode task.
#[derive(Debug)]
pub struct PoolTask {
    /// Name of this node.
    pub node: String,
    /// State directory, shared with the plugin.
    pub state_dir: PathBuf,
    /// Pools of pods that ask for none; empty for all pools.
    pub default: Vec<String>,
    /// All Nodes; empty until the list is complete.
    pub nodes: watch::Receiver<Arc<Nodes>>,
    /// Receives the blocks of all nodes, for the routes.
    pub blocks: watch::Sender<Arc<Blocks>>,
    /// Durations for which a state must last before the planner acts.
    pub grace: GracePeriods,
    /// Receives errors and problems, for `ropeway status` and metrics.
    pub status: Arc<NodeStatus>,
}

impl PoolTask {
    /// Runs until it is dropped. Writes nothing before the list of every kind has been complete
    /// once.
    ///
    /// # Errors
    /// The client can't be created from this configuration.
    pub async fn run(&self, server: &ApiServer) -> kube::Result<()> {
        let watch_errors = WatchErrors::new(&server.config);
        let writer = BlockWriter { client: server.client()?, limit: server.limits.request };
        let (objects, writers) = objects();
        let changed = Notify::new();
        tokio::select! {
            ended = writers.run(server, &watch_errors, &self.node, &changed) => ended,
            () = self.work(&writer, &objects, &changed) => Ok(()),
        }
    }

    async fn work(&self, writer: &BlockWriter, objects: &Objects, changed: &Notify) {
        objects.ready().await;
        let (start, mut memory, mut retry) = (Instant::now(), PlannerMemory::default(), FIRST_RETRY);
        let mut nodes = self.nodes.clone();
        let mut records = None;
        loop {
            // Tried again after a failure; meanwhile rounds run at the interval `AUDIT`.
            if records.is_none() {
                records = self.listen().await;
            }
            let pause = match self.round(writer, objects, start, &mut memory).await {
                Ok(next) => {
                    retry = FIRST_RETRY;
                    self.status.pools_failed(None);
                    next.map_or(AUDIT, |at| (start + at).saturating_duration_since(Instant::now()).min(AUDIT))
                }
                Err(e) => {
                    warn!(error = %e, "pool update failed: retry in {retry:?}");
                    self.status.pools_failed(Some(e.to_string()));
                    let pause = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    // Changes are not awaited here, so that a failing API server gets no extra
                    // requests.
                    sleep(pause).await;
                    continue;
                }
            };
            tokio::select! {
                () = changed.notified() => {}
                result = nodes.changed() => if result.is_err() { return },
                () = next_record(&mut records) => {}
                () = sleep_until(Instant::now() + pause.max(SETTLE)) => {}
            }
            sleep(SETTLE).await;
        }
    }

    /// Watches the store's directory of records: the plugin attaches and removes pods without
    /// telling the agent.
    async fn listen(&self) -> Option<EventStream<Vec<u8>>> {
        let (dir, records) = (self.state_dir.clone(), self.state_dir.join("addresses/records"));
        // Opening the store creates its directories.
        blocking(move || write::held(&dir))
            .await
            .map_err(|e| warn!(error = %e, "cannot open the address store"))
            .ok()?;
        let watch = |path: &Path| -> io::Result<_> {
            let inotify = Inotify::init()?;
            inotify.watches().add(path, WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE)?;
            inotify.into_event_stream(vec![0; 4096])
        };
        watch(&records).map_err(|e| warn!(error = %e, path = %records.display(), "cannot watch the address store: reading it every {AUDIT:?}")).ok()
    }

    /// Runs one round and returns the time of the next one that is due without a change.
    async fn round(
        &self,
        writer: &BlockWriter,
        objects: &Objects,
        start: Instant,
        memory: &mut PlannerMemory,
    ) -> Result<Option<Duration>, WriteError> {
        let view = objects.view();
        loop {
            let dir = self.state_dir.clone();
            let held = blocking(move || write::held(&dir)).await?;
            let nodes: BTreeSet<Box<str>> = self.nodes.borrow().keys().cloned().collect();
            let input = PlannerInput {
                node: &self.node,
                labels: view.labels.as_ref(),
                pools: &view.pools,
                blocks: &view.blocks,
                // The list includes this node, so an empty one is not complete yet.
                nodes: (!nodes.is_empty()).then_some(&nodes),
                default: &self.default,
                requests: &view.requests,
                held: &held,
                now: start.elapsed(),
                grace: self.grace,
            };
            let decision = decide(&input, memory);
            if !self.write_files(&view, &decision).await? {
                // The held addresses have changed since they were read: decide again.
                continue;
            }
            self.publish(&view, &decision);
            for action in &decision.actions {
                writer.act(&self.node, action).await?;
            }
            return Ok(decision.next);
        }
    }

    /// Writes the plugin's files. Returns `false` if a pod took an address of a range that was to
    /// be given away.
    async fn write_files(&self, view: &PoolView, decision: &PoolDecision) -> Result<bool, WriteError> {
        let (dir, node) = (self.state_dir.clone(), self.node.clone());
        let (namespaces, decision) = (view.namespaces.clone(), decision.clone());
        blocking(move || {
            write::namespaces(&dir, &namespaces)?;
            write::pools(&dir, &node, &decision)
        })
        .await
    }

    fn publish(&self, view: &PoolView, decision: &PoolDecision) {
        let problems: Vec<_> = view.problems.iter().chain(&decision.problems).cloned().collect();
        if self.status.pool_problems(&problems) {
            for problem in &problems {
                warn!("{problem}");
            }
        }
        let mut blocks = Blocks { in_sync: true, ..Blocks::default() };
        for (node, range) in view.blocks.values().flat_map(Block::users) {
            blocks.by_node.entry(node.into()).or_default().push(range);
        }
        blocks.pools = view.pools.iter().map(|pool| pool.cidr).collect();
        // Receivers compute routes, so only a difference wakes them.
        self.blocks.send_if_modified(|present| {
            let news = **present != blocks;
            if news {
                *present = Arc::new(blocks);
            }
            news
        });
    }
}

/// Waits for a change of the store, and for ever if the store is not watched.
async fn next_record(records: &mut Option<EventStream<Vec<u8>>>) {
    match records {
        Some(stream) => {
            let mut next = stream.next().await;
            // Consume all waiting events: they are answered by one round.
            while next.is_some() {
                next = stream.next().now_or_never().flatten();
            }
        }
        None => std::future::pending().await,
    }
}

/// Runs work on the store, which blocks on files and a lock, outside the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WriteError> + Send + 'static,
) -> Result<T, WriteError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
