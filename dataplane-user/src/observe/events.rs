//! Reports Services that can't be served as Events of the API group `events.k8s.io`.
//!
//! [`run`] is a task of the agent. It reads the controller's snapshots; other tasks queue a
//! [`Notice`], which is dropped when too many wait, so that no task ever waits for the API server.
//! A fault is reported when it appears and once an hour while it lasts, because an API server
//! deletes old Events. Without a cluster (objects from a directory) there are no Events; the log
//! has the same messages.
//!
//! A fault that every node finds has the same Event name on all of them, and only three nodes
//! report it ([`share`]), so a thousand nodes create one Event. A fault of one node is reported by
//! that node, at a random moment in a large cluster. `kube`'s recorder is not used: it would create
//! an Event for each node, and keep the first text.

mod object;
mod rate_limit;
mod share;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{GetParams, PostParams};
use kube::{Api, Client, Config};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tracing::{debug, warn};

use crate::api::{ApiServer, random};
use crate::proxy::controller::{Nodes, Snapshot};
use crate::proxy::source::wire::{ServiceWire, SliceWire};
use crate::proxy::source::{ObjectKey, ObjectKind, Rejection, RejectionOrigin};
use rate_limit::RateLimits;

/// Interval at which a lasting fault is reported again.
const AGAIN: Duration = Duration::from_secs(3600);
/// Maximum number of notices that wait for the API server.
const WAITING: usize = 256;
/// Pause after a failed request.
const PAUSE: Duration = Duration::from_secs(10);
/// Pause after the first request that the API server has rejected because there are too many. It
/// doubles with each further one, up to [`LONGEST_STOP`].
const STOP: Duration = Duration::from_secs(60);
const LONGEST_STOP: Duration = Duration::from_secs(16 * 60);
/// Time that a node gives the node before it to report a fault that all find.
const TURN: Duration = Duration::from_secs(20);
/// Share of one node in the time over which the reports of all nodes are spread.
const PER_NODE: Duration = Duration::from_millis(20);
/// Longest time over which they are spread.
const LONGEST_SPREAD: Duration = Duration::from_secs(300);
/// Time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A message about an object, to become an Event.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Notice {
    /// Kind of the object: Service or `EndpointSlice`.
    pub kind: ObjectKind,
    /// Namespace and name of the object.
    pub key: ObjectKey,
    /// The Event's `reason`, a fixed word for programs.
    pub reason: &'static str,
    /// The Event's `note`, a text for people.
    pub note: String,
    /// True if the message concerns this node only.
    pub local: bool,
}

/// The sending side of the queue of notices. The default has no queue and drops them: there is no
/// cluster.
#[derive(Clone, Debug, Default)]
pub struct Notices(Option<mpsc::Sender<Notice>>);

impl Notices {
    /// Queues a notice for the API server. Drops it if too many are queued; never waits.
    pub fn publish(&self, notice: Notice) {
        if let Some(sender) = &self.0
            && let Err(e) = sender.try_send(notice)
        {
            debug!(error = %e, "Event dropped: the queue is full");
        }
    }
}

/// Creates the queue of notices.
#[must_use]
pub fn channel() -> (Notices, mpsc::Receiver<Notice>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Notices(Some(sender)), receiver)
}

/// Creates Events until the controller ends. `servers` are configurations of the API servers and
/// are tried in turn.
pub async fn run(
    servers: Vec<Config>,
    node: String,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut queued: mpsc::Receiver<Notice>,
    nodes: watch::Receiver<Arc<Nodes>>,
) {
    let mut recorder = EventRecorder { servers, node, ..EventRecorder::default() };
    loop {
        recorder.nodes = Arc::clone(&nodes.borrow());
        let due = recorder.due(Instant::now());
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            Some(notice) = queued.recv() => recorder.enqueue(notice, Instant::now()),
            () = sleep_until(due.into()) => recorder.send_next().await,
        }
        let rejections = Arc::clone(&snapshots.borrow_and_update().rejections);
        recorder.observe(&rejections, Instant::now());
    }
}

/// Identity of a fault: object and reason.
type NoticeId = (ObjectKind, ObjectKey, &'static str);

/// Groups rejections by object and reason. Returns the text of each group and true if it concerns
/// this node only.
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
    /// Faults that were reported, with the text and the time.
    known: BTreeMap<NoticeId, (String, Instant)>,
    seen: Option<Arc<[Rejection]>>,
    /// Notices with the time before which they are not sent.
    queue: VecDeque<(Instant, Notice)>,
    limits: RateLimits,
    pause: Option<Instant>,
    /// Rejected requests in a row because there were too many.
    stops: u32,
    /// All Nodes; empty until the list is complete.
    nodes: Arc<Nodes>,
    /// The API server has forbidden Events, and the log says so.
    forbidden: bool,
}

impl EventRecorder {
    /// Queues the faults that are new, changed, or due again.
    fn observe(&mut self, rejections: &Arc<[Rejection]>, now: Instant) {
        let same = self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, rejections));
        if same && self.known.values().all(|(_, at)| now.duration_since(*at) < AGAIN) {
            return;
        }
        self.seen = Some(Arc::clone(rejections));
        let present = notices(rejections);
        // A fault that has ended is reported again if it comes back.
        self.known.retain(|id, _| present.contains_key(id));
        for (id, (note, local)) in present {
            let reported = self.known.get(&id).filter(|(text, at)| *text == note && now.duration_since(*at) < AGAIN);
            if reported.is_none() {
                let (kind, key, reason) = id.clone();
                let hour = Timestamp::now().as_second() / 3600;
                let place = share::place(&self.node, self.nodes.keys().map(|name| &**name), &id, hour);
                self.known.insert(id, (note.clone(), now));
                let notice = Notice { kind, key, reason, note, local };
                match place {
                    _ if local => self.enqueue(notice, now),
                    Some(place) => self.enqueue_later(notice, TURN * place, now),
                    // Other nodes report it.
                    None => {}
                }
            }
        }
    }

    /// Queues a notice of this node alone. Other nodes may have found the same at this moment.
    fn enqueue(&mut self, notice: Notice, now: Instant) {
        let spread = PER_NODE.saturating_mul(self.nodes.len() as u32).min(LONGEST_SPREAD);
        let delay = Duration::from_millis(random() % (spread.as_millis() as u64 + 1));
        self.enqueue_later(notice, delay, now);
    }

    fn enqueue_later(&mut self, notice: Notice, delay: Duration, now: Instant) {
        if self.queue.len() >= WAITING || !self.limits.allows(&notice.key, now) {
            debug!(object = %notice.key, reason = notice.reason, "Event dropped: rate limit of the object");
        } else if !self.queue.iter().any(|(_, queued)| *queued == notice) {
            self.queue.push_back((now + delay, notice));
        }
    }

    /// Returns the time of the next request.
    fn due(&self, now: Instant) -> Instant {
        let Some(first) = self.queue.iter().map(|(at, _)| *at).min() else { return now + AGAIN };
        self.pause.map_or(now, |p| p.max(now)).max(self.limits.next(now)).max(first)
    }

    /// Sends the notice that is due first, and puts it back if the API server can't be reached.
    async fn send_next(&mut self) {
        let first = (0..self.queue.len()).min_by_key(|index| self.queue[*index].0);
        let Some((at, notice)) = first.and_then(|index| self.queue.remove(index)) else { return };
        self.limits.spent(Instant::now());
        let error = match timeout(REQUEST_TIMEOUT, self.publish(&notice)).await {
            Ok(Ok(())) => {
                (self.pause, self.forbidden, self.stops) = (None, false, 0);
                return;
            }
            // The watches of the agents share the API server's patience with the Events.
            Ok(Err(kube::Error::Api(status))) if status.code == 429 => {
                let stop = (STOP * (1 << self.stops.min(4))).min(LONGEST_STOP);
                debug!("Events stopped for {stop:?}: the API server has too many requests");
                self.stops += 1;
                self.pause = Some(Instant::now() + stop);
                self.queue.push_front((at, notice));
                return;
            }
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => {
                // 404: the object is gone. 409: another node has created the Event already.
                if status.code != 404 && status.code != 409 {
                    self.refused(&status.message);
                }
                return;
            }
            Ok(Err(e)) => e.to_string(),
            Err(late) => late.to_string(),
        };
        debug!(error, "Event delayed: the API server can't be reached");
        // The next attempt uses the next server, after a pause.
        self.queue.push_front((at, notice));
        (self.client, self.turn) = (None, self.turn + 1);
        self.pause = Some(Instant::now() + PAUSE);
    }

    fn refused(&mut self, message: &str) {
        if !self.forbidden {
            warn!(
                "Events are not written: the API server rejects them ({message}). Apply manifests/base/rbac.yaml. \
                 Until then this log and `ropeway status` tell what can't be served"
            );
        }
        self.forbidden = true;
    }

    async fn publish(&mut self, notice: &Notice) -> Result<(), kube::Error> {
        let client = if let Some(client) = &self.client {
            client.clone()
        } else {
            // Without servers there is no cluster, and the notice is dropped.
            let Some(server) = self.servers.get(self.turn % self.servers.len().max(1)) else { return Ok(()) };
            self.client.insert(ApiServer::new(server.clone(), Arc::default()).client()?).clone()
        };
        let (namespace, name) = (&*notice.key.namespace, &*notice.key.name);
        // `kubectl describe` finds Events by the UID of the object. Any version of it has that,
        // also one from the API server's cache.
        let any = GetParams::any();
        let uid = match notice.kind {
            ObjectKind::Slice => {
                Api::<SliceWire>::namespaced(client.clone(), namespace).get_with(name, &any).await?.metadata.uid
            }
            _ => Api::<ServiceWire>::namespaced(client.clone(), namespace).get_with(name, &any).await?.metadata.uid,
        };
        let Some(uid) = uid else {
            warn!(object = %notice.key, reason = notice.reason, "Event dropped: the API server returned an object without a UID");
            return Ok(());
        };
        let event = object::event(notice, uid, &self.node, Timestamp::now());
        Api::<Event>::namespaced(client, namespace).create(&PostParams::default(), &event).await.map(drop)
    }
}
