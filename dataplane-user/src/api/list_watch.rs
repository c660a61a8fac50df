//! Lists a collection and watches it, for ever: what client-go calls a reflector.
//!
//! A list is asked for as a watch that begins with all objects (`sendInitialEvents`), which the API
//! server answers from its cache and object by object; servers that do not have this get a list
//! from their cache (`resourceVersion=0`). A later list is never older than what was seen, unless
//! the server has lost that version. A watch that ends is opened again where it ended. Every step
//! has a limit ([`super::Limits`]); a failed one is returned and repeated at the next call.
//!
//! An object that can't be decoded is logged and left out; the others count.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::time::Duration;

use hyper::Request;
use kube::core::{Status, watch::Bookmark};
use kube::{Client, Resource};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

pub use kube::runtime::watcher::Event;

use super::body::{Body, Lines};
use super::collection::Collection;
use super::list_scanner::{ListScanner, Part};
use super::retry::{Retry, between};
use super::server::{ApiServer, Late};

/// The reason why a step failed. It is repeated at the next call.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The list could not be asked for.
    #[error("list: {0}")]
    List(#[source] kube::Error),
    /// The watch could not be opened.
    #[error("watch: {0}")]
    Watch(#[source] kube::Error),
    /// The server has ended the watch with this status.
    #[error("watch: {0}")]
    Ended(Box<Status>),
    /// The connection was lost.
    #[error("connection lost: {0}")]
    Lost(#[source] std::io::Error),
    /// The server has accepted a request and sends nothing.
    #[error(transparent)]
    Late(#[from] Late),
    /// The list has not been complete in time, although something arrived.
    #[error("the list is not complete after {:?}", .0)]
    Slow(Duration),
    /// The response is none of the Kubernetes API.
    #[error("malformed response: {0}")]
    Malformed(&'static str),
}

impl WatchError {
    /// Returns the status code if the server has rejected the request.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::List(kube::Error::Api(status)) | Self::Watch(kube::Error::Api(status)) | Self::Ended(status) => {
                Some(status.code)
            }
            _ => None,
        }
    }

    /// Returns true if the server does not have the version that was asked for: it is too old, or
    /// newer than all that the server knows since its etcd was restored.
    fn is_unknown_version(&self) -> bool {
        let too_large = |status: &Status| status.code == 504 && status.message.contains("Too large resource version");
        self.code() == Some(410)
            || matches!(self, Self::List(kube::Error::Api(s)) | Self::Watch(kube::Error::Api(s)) if too_large(s))
    }
}

/// One line of a watch.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// A decoded line of a watch.
enum Change<K> {
    /// An object was added or has changed.
    Set(K),
    /// An object was deleted.
    Removed(K),
    /// An object can't be decoded.
    Unusable,
    Bookmark(Bookmark),
    Error(WatchError),
}

/// The metadata of a list.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    r#continue: Option<String>,
}

enum State {
    /// Nothing was asked for.
    Start,
    /// The server sends all objects, and a bookmark after the last one.
    Initial { lines: Lines, until: Instant },
    /// The server sends a list.
    List { scanner: ListScanner, body: Body, until: Instant },
    /// The list is complete, or a watch has ended.
    Listed,
    /// The server sends changes. `began`: nothing has come since then.
    Watching { lines: Lines, began: Option<Instant> },
}

/// The list and the watch of one collection.
pub struct ListWatch<K> {
    server: ApiServer,
    kind: &'static str,
    collection: Collection,
    client: Client,
    state: State,
    retry: Retry,
    /// The newest version that was seen.
    version: Option<String>,
    /// Ask for lists as watches.
    streams: bool,
    /// A list that was asked for as a watch has been complete.
    has_streamed: bool,
    object: PhantomData<K>,
}

const ENDED_EARLY: WatchError = WatchError::Malformed("the list ended in the middle");

/// The bookmark's annotation that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// A watch that ends sooner, without an event, is a failure: it must not be opened at once again.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

impl<K> ListWatch<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    /// Creates the watch; nothing is asked for before the first call of [`Self::next`]. `kind` is
    /// its name in the contacts and the log.
    ///
    /// # Errors
    /// The credentials can't be used.
    pub fn new(server: &ApiServer, kind: &'static str, collection: Collection) -> kube::Result<Self> {
        let extra = if collection.patient { 2 * server.limits.patience } else { Duration::ZERO };
        server.contacts.expect(kind, extra);
        let retry = Retry::new(server.limits.first_retry, server.limits.last_retry);
        Ok(Self {
            client: server.client()?,
            server: server.clone(),
            kind,
            collection,
            state: State::Start,
            retry,
            version: None,
            streams: true,
            has_streamed: false,
            object: PhantomData,
        })
    }

    /// Returns the next event: [`Event::Init`], each object, [`Event::InitDone`], then changes.
    /// After an error a list may begin again.
    ///
    /// # Errors
    /// A step failed. The next call waits a while and tries again.
    pub async fn next(&mut self) -> Result<Event<K>, WatchError> {
        loop {
            if let Some(at) = self.retry.take() {
                sleep_until(at).await;
            }
            match self.step().await {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => {
                    self.retry.failed();
                    self.have_patience();
                    return Err(error);
                }
            }
        }
    }

    /// Schedules the next attempt of a patient watch that has been in sync.
    fn have_patience(&mut self) {
        if self.collection.patient && self.version.is_some() {
            let least = self.server.limits.patience;
            self.retry.pause(between(least, 2 * least));
        }
    }

    async fn step(&mut self) -> Result<Option<Event<K>>, WatchError> {
        match std::mem::replace(&mut self.state, State::Start) {
            State::Start => self.begin().await.map(Some),
            State::Initial { lines, until } => self.initial(lines, until).await,
            State::List { scanner, body, until } => self.list(scanner, body, until).await,
            State::Listed => self.open().await.map(|()| None),
            State::Watching { lines, began } => self.watching(lines, began).await,
        }
    }

    /// Asks for a list.
    async fn begin(&mut self) -> Result<Event<K>, WatchError> {
        self.retry.begin();
        let until = Instant::now() + self.server.limits.list;
        // Version 0 stands for any. Without one the server first asks etcd for the newest.
        let any = (!self.collection.latest).then_some("0");
        let version = self.version.clone();
        let version = if self.collection.latest { None } else { version.as_deref().or(any) };
        if self.streams {
            let request = self.collection.watch(version.unwrap_or_default(), self.watch_seconds(), true)?;
            match send(self.client.clone(), self.server.limits.head, request).await {
                Ok(body) => {
                    self.state = State::Initial { lines: Lines::new(body), until };
                    return Ok(Event::Init);
                }
                // Servers reject a parameter that they know and do not support.
                Err(Sent::Failed(kube::Error::Api(status))) if matches!(status.code, 400 | 422) => {
                    self.streams = false;
                }
                Err(error) => return Err(self.not_listed(error)),
            }
        }
        let request = self.collection.list(version, None)?;
        match send(self.client.clone(), self.server.limits.head, request).await {
            Ok(body) => {
                self.state = State::List { scanner: ListScanner::default(), body, until };
                Ok(Event::Init)
            }
            Err(error) => Err(self.not_listed(error)),
        }
    }

    /// Returns the error of a list, and decides how the next one is asked for.
    fn not_listed(&mut self, error: Sent) -> WatchError {
        let error = match error {
            Sent::Late(late) => WatchError::Late(late),
            Sent::Failed(error) => WatchError::List(error),
        };
        self.forget_version(&error);
        if error.code() == Some(404) {
            // An answer, too: the server does not have this kind.
            self.server.contacts.made(self.kind);
            self.retry.slow_down(self.server.limits.quiet);
        }
        error
    }

    /// Lists at any version next time if the server does not have the one that it was asked for.
    fn forget_version(&mut self, error: &WatchError) {
        if error.is_unknown_version() {
            self.version = None;
        }
    }

    async fn initial(&mut self, mut lines: Lines, until: Instant) -> Result<Option<Event<K>>, WatchError> {
        let limits = self.server.limits;
        let line = match timeout(until - Instant::now(), lines.next(limits.read)).await {
            Ok(line) => line,
            Err(_) => Err(WatchError::Slow(limits.list)),
        };
        // Before Kubernetes 1.27 a server ignores the parameter, and no bookmark comes.
        let line = line.inspect_err(|_| self.streams = false)?;
        let Some(line) = line else { return Err(ENDED_EARLY) };
        let event = match self.parse(line)? {
            Change::Set(object) => Some(Event::InitApply(object)),
            Change::Bookmark(bookmark) if bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END) => {
                self.listed(bookmark.metadata.resource_version)?;
                self.has_streamed = true;
                self.state = State::Watching { lines, began: None };
                return Ok(Some(Event::InitDone));
            }
            Change::Bookmark(_) | Change::Unusable => None,
            Change::Error(error) => {
                self.forget_version(&error);
                return Err(error);
            }
            Change::Removed(_) => return Err(WatchError::Malformed("a list with a deletion")),
        };
        self.state = State::Initial { lines, until };
        Ok(event)
    }

    async fn list(
        &mut self,
        mut scanner: ListScanner,
        mut body: Body,
        until: Instant,
    ) -> Result<Option<Event<K>>, WatchError> {
        let limits = self.server.limits;
        let meta = loop {
            match scanner.next().map_err(|_| WatchError::Malformed("the body is not a list"))? {
                Part::Item(item) => {
                    let item = serde_json::from_slice::<&RawValue>(&item);
                    let item = item.map_err(|_| WatchError::Malformed("an item is not JSON"))?;
                    if let Some(object) = self.decode(item) {
                        self.state = State::List { scanner, body, until };
                        return Ok(Some(Event::InitApply(object)));
                    }
                }
                Part::End(meta) => break meta,
                Part::More => {
                    let read = timeout(until - Instant::now(), body.read(&mut scanner.buffer, limits.read)).await;
                    let more = read
                        .map_err(|_| WatchError::Slow(limits.list))?
                        .inspect_err(|_| self.streams = self.has_streamed)?;
                    if !more {
                        return Err(ENDED_EARLY);
                    }
                }
            }
        };
        let meta: ListMeta =
            serde_json::from_slice(&meta).map_err(|_| WatchError::Malformed("the list has no metadata"))?;
        // No page size was asked for, but a server may have its own.
        if let Some(token) = meta.r#continue.filter(|token| !token.is_empty()) {
            let request = self.collection.list(None, Some(token))?;
            let body = send(self.client.clone(), self.server.limits.head, request)
                .await
                .map_err(|error| self.not_listed(error))?;
            self.state = State::List { scanner: ListScanner::default(), body, until };
            return Ok(None);
        }
        self.listed(meta.resource_version)?;
        self.state = State::Listed;
        Ok(Some(Event::InitDone))
    }

    /// Notes that the list is complete.
    fn listed(&mut self, version: String) -> Result<(), WatchError> {
        if version.is_empty() {
            return Err(WatchError::Malformed("the list has no resource version"));
        }
        self.version = Some(version);
        self.retry.succeeded();
        self.server.contacts.made(self.kind);
        Ok(())
    }

    /// Opens the watch where the list or the last watch has ended.
    async fn open(&mut self) -> Result<(), WatchError> {
        let Some(version) = self.version.clone() else { return Ok(()) };
        self.retry.begin();
        let request = self.collection.watch(&version, self.watch_seconds(), false)?;
        let error = match send(self.client.clone(), self.server.limits.head, request).await {
            // No contact yet: a server that is stuck may send a head.
            Ok(body) => {
                self.state = State::Watching { lines: Lines::new(body), began: Some(Instant::now()) };
                return Ok(());
            }
            Err(Sent::Late(late)) => WatchError::Late(late),
            Err(Sent::Failed(error)) => WatchError::Watch(error),
        };
        self.resume(&error);
        Err(error)
    }

    async fn watching(&mut self, mut lines: Lines, began: Option<Instant>) -> Result<Option<Event<K>>, WatchError> {
        // Without bookmarks, events may have been lost too: the list shows what they said.
        self.state = State::Start;
        let line = lines.next(self.server.limits.quiet).await;
        // After other failures the watch is opened again where it was.
        if !matches!(line, Err(WatchError::Late(_))) {
            self.state = State::Listed;
        }
        let Some(line) = line? else {
            // The usual end: the time that the watch was asked for has passed.
            self.have_patience();
            let short = began.is_some_and(|began| began.elapsed() < SHORTEST_WATCH);
            return if short { Err(WatchError::Malformed("the watch ended at once")) } else { Ok(None) };
        };
        let (version, event) = match self.parse(line)? {
            Change::Set(object) => (Some(object.meta().resource_version.clone()), Some(Event::Apply(object))),
            Change::Removed(object) => (Some(object.meta().resource_version.clone()), Some(Event::Delete(object))),
            Change::Bookmark(bookmark) => (Some(Some(bookmark.metadata.resource_version)), None),
            Change::Unusable => (None, None),
            Change::Error(error) => {
                self.resume(&error);
                return Err(error);
            }
        };
        self.version = version.flatten().filter(|version| !version.is_empty()).or(self.version.take());
        self.retry.succeeded();
        self.server.contacts.made(self.kind);
        self.state = State::Watching { lines, began: None };
        Ok(event)
    }

    /// Has the watch opened again at its version, or the collection listed if the server does not
    /// have the changes since that version.
    fn resume(&mut self, error: &WatchError) {
        self.state = if error.is_unknown_version() { State::Start } else { State::Listed };
    }

    /// Decodes an object; `None` if it can't be used.
    fn decode(&self, object: &RawValue) -> Option<K> {
        let decoded = serde_json::from_str::<K>(object.get());
        decoded.inspect_err(|error| warn!(kind = self.kind, %error, "object left out: cannot decode it")).ok()
    }

    /// Decodes a line of a watch.
    fn parse(&self, line: &[u8]) -> Result<Change<K>, WatchError> {
        let malformed = WatchError::Malformed;
        let line: Line<'_> = serde_json::from_slice(line).map_err(|_| malformed("a line is not an event"))?;
        let text = line.object.get();
        Ok(match &*line.r#type {
            "ADDED" | "MODIFIED" => self.decode(line.object).map_or(Change::Unusable, Change::Set),
            "DELETED" => self.decode(line.object).map_or(Change::Unusable, Change::Removed),
            "BOOKMARK" => {
                Change::Bookmark(serde_json::from_str(text).map_err(|_| malformed("a bookmark without a version"))?)
            }
            "ERROR" => {
                let status = serde_json::from_str(text).map_err(|_| malformed("an error without a status"))?;
                Change::Error(WatchError::Ended(Box::new(status)))
            }
            _ => return Err(malformed("an event of an unknown type")),
        })
    }

    fn watch_seconds(&self) -> u32 {
        let least = self.server.limits.watch;
        u32::try_from(between(least, 2 * least).as_secs().max(1)).unwrap_or(u32::MAX)
    }
}

/// Sends a request and returns the body of a good response.
async fn send(client: Client, limit: Duration, request: Request<Vec<u8>>) -> Result<Body, Sent> {
    match timeout(limit, client.request_stream(request)).await {
        Ok(Ok(reader)) => Ok(Body::new(reader)),
        Ok(Err(error)) => Err(Sent::Failed(error)),
        Err(_) => Err(Sent::Late(Late(limit))),
    }
}

enum Sent {
    Failed(kube::Error),
    Late(Late),
}
