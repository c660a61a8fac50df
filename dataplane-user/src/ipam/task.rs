//! The loop of pool mode: whenever an object or the store has changed, or time has, decide and write.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use inotify::{EventStream, Inotify, WatchMask};
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, warn};

use super::plan::{Block, GracePeriods, PlannerMemory, PoolDecision, World, decide};
use super::watch::{Objects, PoolView, objects};
use super::write::{self, WriteError};
use crate::network::blocks::Blocks;
use crate::network::node::status::NodeStatus;
use crate::proxy::controller::Nodes;
use crate::proxy::source::watch_errors::WatchErrors;

/// How long changes are gathered: a burst of pods is one change.
const SETTLE: Duration = Duration::from_millis(20);
/// After a failure; doubled up to [`LAST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How often everything is looked at though nothing was heard of.
const AUDIT: Duration = Duration::from_secs(30);

/// What the task works with.
#[derive(Debug)]
pub struct PoolTask {
    /// Name of this node.
    pub node: String,
    /// The directory that is shared with the plugin.
    pub state_dir: PathBuf,
    /// Pools of pods that ask for none; empty: all.
    pub default: Vec<String>,
    /// All Nodes, from when they are complete; empty before.
    pub nodes: watch::Receiver<Arc<Nodes>>,
    /// Told of the blocks.
    pub blocks: watch::Sender<Arc<Blocks>>,
    /// How soon blocks go back.
    pub grace: GracePeriods,
    /// Told of what is wrong.
    pub status: Arc<NodeStatus>,
}

impl PoolTask {
    /// Works until it is dropped. Nothing is written before every kind has been complete once.
    ///
    /// # Errors
    /// The client can't be made from this configuration.
    pub async fn run(&self, server: kube::Config) -> kube::Result<()> {
        let watch_errors = WatchErrors::new(&server);
        let client = Client::try_from(server)?;
        let (objects, writers) = objects();
        let changed = Notify::new();
        tokio::select! {
            () = writers.run(&client, &watch_errors, &self.node, &changed) => error!("the watches of pools and blocks have ended"),
            () = self.work(&client, &objects, &changed) => {}
        }
        Ok(())
    }

    async fn work(&self, client: &Client, objects: &Objects, changed: &Notify) {
        objects.ready().await;
        let (start, mut memory, mut retry) = (Instant::now(), PlannerMemory::default(), FIRST_RETRY);
        let mut nodes = self.nodes.clone();
        let mut records = None;
        loop {
            if records.is_none() {
                records = self.listen().await;
            }
            let pause = match self.round(client, objects, start, &mut memory).await {
                Ok(next) => {
                    retry = FIRST_RETRY;
                    self.status.pools_failed(None);
                    next.map_or(AUDIT, |at| (start + at).saturating_duration_since(Instant::now()).min(AUDIT))
                }
                Err(e) => {
                    warn!(error = %e, "pools; trying again in {retry:?}");
                    self.status.pools_failed(Some(e.to_string()));
                    let pause = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    // What changes meanwhile is seen then: an API server in trouble is left alone.
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

    /// Pods come and go without us: the store's names tell.
    async fn listen(&self) -> Option<EventStream<Vec<u8>>> {
        let (dir, records) = (self.state_dir.clone(), self.state_dir.join("addresses/records"));
        // Whoever opens the store first makes its directories.
        blocking(move || write::held(&dir)).await.map_err(|e| warn!(error = %e, "no store to listen to")).ok()?;
        let watch = |path: &Path| -> io::Result<_> {
            let inotify = Inotify::init()?;
            inotify.watches().add(path, WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE)?;
            inotify.into_event_stream(vec![0; 4096])
        };
        watch(&records).map_err(|e| warn!(error = %e, path = %records.display(), "looking every {AUDIT:?}")).ok()
    }

    /// Looks at everything once; gives when time alone changes something.
    async fn round(
        &self,
        client: &Client,
        objects: &Objects,
        start: Instant,
        memory: &mut PlannerMemory,
    ) -> Result<Option<Duration>, WriteError> {
        let view = objects.view();
        loop {
            let dir = self.state_dir.clone();
            let held = blocking(move || write::held(&dir)).await?;
            let nodes: BTreeSet<Box<str>> = self.nodes.borrow().keys().cloned().collect();
            let world = World {
                node: &self.node,
                labels: view.labels.as_ref(),
                pools: &view.pools,
                blocks: &view.blocks,
                // While they are not complete there is none, not even this one.
                nodes: (!nodes.is_empty()).then_some(&nodes),
                default: &self.default,
                wishes: &view.wishes,
                held: &held,
                now: start.elapsed(),
                grace: self.grace,
            };
            let decision = decide(&world, memory);
            if !self.offer(&view, &decision).await? {
                continue;
            }
            self.tell(&view, &decision);
            for action in &decision.actions {
                write::act(client, &self.node, action).await?;
            }
            return Ok(decision.next);
        }
    }

    /// Writes for the plugin; `false`: the store has changed, decide anew.
    async fn offer(&self, view: &PoolView, decision: &PoolDecision) -> Result<bool, WriteError> {
        let (dir, node) = (self.state_dir.clone(), self.node.clone());
        let (namespaces, decision) = (view.namespaces.clone(), decision.clone());
        blocking(move || {
            write::namespaces(&dir, &namespaces)?;
            write::offer(&dir, &node, &decision)
        })
        .await
    }

    fn tell(&self, view: &PoolView, decision: &PoolDecision) {
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
        self.blocks.send_if_modified(|present| {
            let news = **present != blocks;
            if news {
                *present = Arc::new(blocks);
            }
            news
        });
    }
}

/// Waits for a change of the store; for ever if that can't be heard.
async fn next_record(records: &mut Option<EventStream<Vec<u8>>>) {
    match records {
        Some(stream) => {
            let mut next = stream.next().await;
            while next.is_some() {
                next = stream.next().now_or_never().flatten();
            }
        }
        None => std::future::pending().await,
    }
}

/// The store blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WriteError> + Send + 'static,
) -> Result<T, WriteError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
