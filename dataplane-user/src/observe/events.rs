//! Tells the owners of Services what of them can't be served: Events of the API group `events.k8s.io`.
//!
//! Never in anybody's way: the controller's snapshots are read, and others leave a note or, when too many wait, do without. A fault is told when it
//! appears and once an hour while it lasts, because an API server forgets Events. What every node finds has one name on all of them, so that a
//! thousand nodes make one Event; the recorder of `kube` would make one for each node, and keep the first text. Nothing is told where objects
//! come from a directory: the log says it.

mod object;
mod rate_limit;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Config};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tracing::{debug, warn};

use crate::proxy::controller::Snapshot;
use crate::proxy::source::wire::{ServiceWire, SliceWire};
use crate::proxy::source::{ObjectKey, ObjectKind, Rejection, RejectionOrigin};
use rate_limit::RateLimits;

/// How often a fault that lasts is told.
const AGAIN: Duration = Duration::from_secs(3600);
/// Notices that may wait for the API server.
const WAITING: usize = 256;
/// How long an API server that failed is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// How long an API server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Something to be told about an object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Notice {
    /// Kind of the object: a Service or an `EndpointSlice`.
    pub kind: ObjectKind,
    /// The object.
    pub key: ObjectKey,
    /// `reason`, for machines.
    pub reason: &'static str,
    /// `note`, for people.
    pub note: String,
    /// Whether it is about this node only.
    pub local: bool,
}

/// The sending side of the queue of notices. The default has no queue and drops them: there is no cluster.
#[derive(Clone, Debug, Default)]
pub struct Notices(Option<mpsc::Sender<Notice>>);

impl Notices {
    /// Queues a notice for the API server. Drops it if too many are queued; never waits.
    pub fn publish(&self, notice: Notice) {
        if let Some(sender) = &self.0
            && let Err(e) = sender.try_send(notice)
        {
            debug!(error = %e, "an Event is left out");
        }
    }
}

/// Where notices are left, and who takes them.
#[must_use]
pub fn channel() -> (Notices, mpsc::Receiver<Notice>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Notices(Some(sender)), receiver)
}

/// Tells until the controller has ended. `servers` differ in the API server and are tried in turn.
pub async fn run(
    servers: Vec<Config>,
    node: String,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut left: mpsc::Receiver<Notice>,
) {
    let mut recorder = EventRecorder { servers, node, ..EventRecorder::default() };
    loop {
        let due = recorder.due(Instant::now());
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            Some(notice) = left.recv() => recorder.enqueue(notice, Instant::now()),
            () = sleep_until(due.into()) => recorder.tell().await,
        }
        let rejections = Arc::clone(&snapshots.borrow_and_update().rejections);
        recorder.look(&rejections, Instant::now());
    }
}

/// One notice for each object and reason.
type NoticeId = (ObjectKind, ObjectKey, &'static str);

/// The text of each, and whether it is about this node only.
fn notices(rejections: &[Rejection]) -> BTreeMap<NoticeId, (String, bool)> {
    let mut all: BTreeMap<_, (String, bool)> = BTreeMap::new();
    for r in rejections {
        let RejectionOrigin::Object { kind: kind @ (ObjectKind::Service | ObjectKind::Slice), key } = &r.origin else {
            continue;
        };
        let text = if r.field.is_empty() { r.reason.clone() } else { format!("{}: {}", r.field, r.reason) };
        let (note, local) = all.entry((*kind, key.clone(), r.cause.reason())).or_default();
        *local |= r.cause.is_local();
        if !note.is_empty() {
            note.push_str("; ");
        }
        note.push_str(&text);
    }
    all
}

/// Turns rejections and notices into Events, and retries with the next API server.
#[derive(Default)]
struct EventRecorder {
    servers: Vec<Config>,
    node: String,
    turn: usize,
    client: Option<Client>,
    /// What has been told, and when.
    known: BTreeMap<NoticeId, (String, Instant)>,
    seen: Option<Arc<[Rejection]>>,
    queue: VecDeque<Notice>,
    limits: RateLimits,
    pause: Option<Instant>,
    /// The API server has forbidden it, and the log says so.
    forbidden: bool,
}

impl EventRecorder {
    /// Takes what is new among the present faults, and what has lasted.
    fn look(&mut self, rejections: &Arc<[Rejection]>, now: Instant) {
        let same = self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, rejections));
        if same && self.known.values().all(|(_, at)| now.duration_since(*at) < AGAIN) {
            return;
        }
        self.seen = Some(Arc::clone(rejections));
        let present = notices(rejections);
        self.known.retain(|id, _| present.contains_key(id));
        for (id, (note, local)) in present {
            let told = self.known.get(&id).filter(|(text, at)| *text == note && now.duration_since(*at) < AGAIN);
            if told.is_none() {
                let (kind, key, reason) = id.clone();
                self.known.insert(id, (note.clone(), now));
                self.enqueue(Notice { kind, key, reason, note, local }, now);
            }
        }
    }

    fn enqueue(&mut self, notice: Notice, now: Instant) {
        if self.queue.len() >= WAITING || !self.limits.allows(&notice.key, now) {
            debug!(object = %notice.key, reason = notice.reason, "too many Events: left out");
        } else if !self.queue.contains(&notice) {
            self.queue.push_back(notice);
        }
    }

    /// When there is something to do.
    fn due(&self, now: Instant) -> Instant {
        if self.queue.is_empty() {
            return now + AGAIN;
        }
        self.pause.map_or(now, |p| p.max(now)).max(self.limits.next(now))
    }

    /// Tells the notice that has waited longest.
    async fn tell(&mut self) {
        let Some(notice) = self.queue.pop_front() else { return };
        self.limits.spent(Instant::now());
        let error = match timeout(REQUEST_TIMEOUT, self.publish(&notice)).await {
            Ok(Ok(())) => {
                (self.pause, self.forbidden) = (None, false);
                return;
            }
            Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => {
                // the object is gone, or another node has told it already
                if status.code != 404 && status.code != 409 {
                    self.refused(&status.message);
                }
                return;
            }
            Ok(Err(e)) => e.to_string(),
            Err(late) => late.to_string(),
        };
        debug!(error, "an Event waits for the API server");
        self.queue.push_front(notice);
        (self.client, self.turn) = (None, self.turn + 1);
        self.pause = Some(Instant::now() + PAUSE);
    }

    fn refused(&mut self, message: &str) {
        if !self.forbidden {
            warn!(
                "the API server takes no Events ({message}); what can't be served stands in this log and in `ropeway status`: \
                 apply manifests/base/rbac.yaml for Events"
            );
        }
        self.forbidden = true;
    }

    async fn publish(&mut self, notice: &Notice) -> Result<(), kube::Error> {
        let client = if let Some(client) = &self.client {
            client.clone()
        } else {
            let Some(server) = self.servers.get(self.turn % self.servers.len().max(1)) else { return Ok(()) };
            self.client.insert(Client::try_from(server.clone())?).clone()
        };
        let (namespace, name) = (&*notice.key.namespace, &*notice.key.name);
        // by its UID the Event is found by `kubectl describe`
        let uid = match notice.kind {
            ObjectKind::Slice => Api::<SliceWire>::namespaced(client.clone(), namespace).get(name).await?.metadata.uid,
            _ => Api::<ServiceWire>::namespaced(client.clone(), namespace).get(name).await?.metadata.uid,
        };
        let event = object::event(notice, uid.unwrap_or_default(), &self.node, Timestamp::now());
        Api::<Event>::namespaced(client, namespace).create(&PostParams::default(), &event).await.map(drop)
    }
}
