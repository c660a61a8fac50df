//! Drives the proxy: one thread takes the sources' events and runs rounds of reconciliation.
//!
//! The agent calls [`start`]; sources send events through [`Handle`]. `Core` keeps the objects and
//! decides when rounds may run: nothing is written before Services, slices and Nodes have been
//! listed once and the node's own addresses are known. All events that wait in the channel when a
//! round begins become part of it: under load changes are coalesced, when idle they do not wait.
//! Threads, channels and clocks are here only; the files below have none.

mod cluster_state;
mod core;
mod histogram;
#[cfg(test)]
mod limit_tests;
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

/// A failure to start the controller.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The maps can't be read.
    #[error("cannot read the service maps: {0}")]
    Tables(#[from] MapError),
    /// The thread or its runtime can't be created.
    #[error("cannot start the controller: {0}")]
    Thread(#[from] std::io::Error),
}

/// Capacity of the channel: a source that sends more waits.
const QUEUE: usize = 1024;
/// Most events that one round takes, so that a storm can't put the round off for ever.
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
    /// Returns the sender for the sources.
    #[must_use]
    pub fn events(&self) -> EventSender {
        self.events.clone()
    }

    /// Sets the node's addresses and settings. Nothing is written before the first call.
    pub fn set_node_context(&self, context: NodeContext) {
        self.context.send_replace(Some(context));
    }

    /// Returns a receiver of snapshots, one after each round.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// Returns the latest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Returns a receiver of all Nodes; empty until they have been listed once.
    #[must_use]
    pub fn nodes(&self) -> watch::Receiver<Arc<Nodes>> {
        self.nodes.clone()
    }

    /// Returns a receiver of the ranges of cluster IPs, from `ServiceCIDR`s and the configuration.
    /// They are sorted, and no range contains another.
    #[must_use]
    pub fn service_ranges(&self) -> watch::Receiver<Arc<[IpNetwork]>> {
        self.service_ranges.clone()
    }

    /// Takes the controller's thread out, for a caller that waits for its end; [`Self::stop`] no
    /// longer does. The thread ends only with its event senders, or by a panic.
    pub const fn take_thread(&mut self) -> Option<JoinHandle<()>> {
        self.thread.take()
    }

    /// Waits for the controller to end, which it does after the sources. The maps keep their
    /// content.
    pub fn stop(self) {
        let Self { events, context, thread, .. } = self;
        drop((events, context));
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the controller's thread had panicked");
        }
    }
}

/// Takes over the maps and starts the controller's thread.
///
/// # Errors
/// The maps can't be read, or the thread can't be created.
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
                () = std::future::ready(()), if self.core.has_postponed() => {}
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

    /// Takes all events that wait.
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
