//! Drives the control flow: one thread takes the sources' events and calls desired, reconcile and apply.
//!
//! Nothing is written before Services, slices and Nodes have been complete once and the node's own addresses are known. Whatever waits
//! in the channel when a round begins becomes part of it: under load changes are coalesced, when idle they do not wait.

mod cluster_state;
mod core;
mod histogram;
mod locality;
mod pending;
mod pipeline;
mod queue;
mod rejections;
mod snapshot;
mod status;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use dataplane_common::types::clock::Clock;
use dataplane_host::map::MapError;
use ipnetwork::IpNetwork;
use tokio::sync::{mpsc, watch};

use crate::proxy::apply::ServiceMaps;
use crate::proxy::desired::NodeContext;
use crate::proxy::source::{EventSender, SourceEvent};

pub use self::core::Core;
pub use cluster_state::Nodes;
pub use histogram::{Histogram, Programming, Rounds, Scale};
pub use locality::NoLocal;
pub use pending::Pending;
pub use snapshot::{HealthCheck, MAX_REJECTIONS, Snapshot};

/// Why the controller could not start.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// What is in the maps can't be read.
    #[error("taking over the service maps: {0}")]
    Tables(#[from] MapError),
    /// No thread or runtime.
    #[error("starting the controller: {0}")]
    Thread(#[from] std::io::Error),
}

/// Events that may wait in the channel before a source has to.
const QUEUE: usize = 1024;
/// Events that a round takes at most, so that a storm can't put it off for ever.
const MAX_COALESCED: usize = 100_000;

/// The running controller.
#[derive(Debug)]
pub struct Handle {
    events: EventSender,
    context: watch::Sender<Option<NodeContext>>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    nodes: watch::Receiver<Arc<Nodes>>,
    service_ranges: watch::Receiver<Arc<[IpNetwork]>>,
    /// `None` after [`Self::take_thread`].
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Where sources send to.
    #[must_use]
    pub fn events(&self) -> EventSender {
        self.events.clone()
    }

    /// Says what the node is like, at first and whenever it changes.
    pub fn set_node_context(&self, context: NodeContext) {
        self.context.send_replace(Some(context));
    }

    /// The present state; the receiver tells of changes, too.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// The present state.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// All Nodes, from when they are complete; empty before.
    #[must_use]
    pub fn nodes(&self) -> watch::Receiver<Arc<Nodes>> {
        self.nodes.clone()
    }

    /// The ranges of cluster IPs: of `ServiceCIDR`s and of the configuration; sorted, none within another.
    #[must_use]
    pub fn service_ranges(&self) -> watch::Receiver<Arc<[IpNetwork]>> {
        self.service_ranges.clone()
    }

    /// Takes the controller's thread out, for a caller that waits for its end; [`Self::stop`] no
    /// longer does. The thread ends only with its event senders, or by a panic.
    pub const fn take_thread(&mut self) -> Option<JoinHandle<()>> {
        self.thread.take()
    }

    /// Ends the controller when the sources have ended, and waits for it. The tables stay as they are.
    pub fn stop(self) {
        let Self { events, context, thread, .. } = self;
        drop((events, context));
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the controller's thread had panicked");
        }
    }
}

/// Takes over the tables and starts the controller's thread.
///
/// # Errors
/// The tables can't be read, or there is no thread for it.
pub fn start(tables: ServiceMaps, packet_clock: Clock) -> Result<Handle, ControllerError> {
    let clock = Instant::now();
    let mut core = Core::new(tables, packet_clock, clock.elapsed())?;
    let (events, receiver) = mpsc::channel(QUEUE);
    let (context, context_receiver) = watch::channel(None);
    let (snapshot_sender, snapshot) = watch::channel(Arc::new(core.snapshot()));
    let (nodes_sender, nodes) = watch::channel(Arc::new(Nodes::new()));
    let (ranges_sender, service_ranges) = watch::channel(Arc::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let worker = Worker {
        core,
        clock,
        events: receiver,
        context: context_receiver,
        snapshot_sender,
        nodes_sender,
        ranges_sender,
    };
    let thread = std::thread::Builder::new().name("controller".into()).spawn(move || runtime.block_on(worker.run()))?;
    Ok(Handle { events, context, snapshot, nodes, service_ranges, thread: Some(thread) })
}

struct Worker {
    core: Core,
    clock: Instant,
    events: mpsc::Receiver<SourceEvent>,
    context: watch::Receiver<Option<NodeContext>>,
    snapshot_sender: watch::Sender<Arc<Snapshot>>,
    nodes_sender: watch::Sender<Arc<Nodes>>,
    ranges_sender: watch::Sender<Arc<[IpNetwork]>>,
}

impl Worker {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(QUEUE);
        let mut context_lives = true;
        loop {
            let retry = self.core.next_retry().map(|at| self.clock + at);
            tokio::select! {
                count = self.events.recv_many(&mut batch, QUEUE) => if count == 0 { return },
                changed = self.context.changed(), if context_lives => context_lives = changed.is_ok(),
                () = wait_until(retry), if retry.is_some() => {}
            }
            self.take(&mut batch);
            let begin = Instant::now();
            let has_work = self.core.has_work(self.clock.elapsed());
            self.core.reconcile(self.clock.elapsed());
            if has_work {
                self.core.note_round(begin.elapsed());
            }
            if let Some(nodes) = self.core.changed_nodes() {
                self.nodes_sender.send_replace(Arc::new(nodes.clone()));
            }
            self.ranges_sender.send_if_modified(|told| {
                let ranges = self.core.service_ranges();
                let changed = **told != *ranges;
                if changed {
                    *told = ranges.into();
                }
                changed
            });
            self.snapshot_sender.send_replace(Arc::new(self.core.snapshot()));
        }
    }

    /// Takes all that waits.
    fn take(&mut self, batch: &mut Vec<SourceEvent>) {
        if let Some(context) = self.context.borrow_and_update().clone() {
            self.core.set_node_context(context);
        }
        if !batch.is_empty() {
            self.core.note_queued();
        }
        let mut taken = batch.len();
        batch.drain(..).for_each(|e| self.core.handle(e));
        while taken < MAX_COALESCED
            && let Ok(event) = self.events.try_recv()
        {
            self.core.handle(event);
            taken += 1;
        }
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending::<()>().await,
    }
}
