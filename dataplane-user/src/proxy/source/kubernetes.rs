//! The Kubernetes source: one watch for each kind. Each object is decoded and dropped at once.
//!
//! [`ListWatch`] handles lost connections, stalls, expired resource versions (410) and retries.
//! Where it lists a kind again, [`SourceEvent::Relist`] and [`SourceEvent::InSync`] enclose the
//! list, so that the receiver notices objects that were deleted in between. Errors become
//! [`SourceEvent::WatchError`]; the watches never end by themselves.

use serde::de::DeserializeOwned;
use tracing::debug;

use super::decode::{Decoded, Decoder, HEADLESS, SERVICE_PROXY_NAME};
use super::wire::{NodeWire, ServiceCidrWire, ServiceWire, SliceWire};
use super::{EventSender, ObjectKind, SourceEvent};
use crate::api::{ApiServer, Collection, Event, ListWatch, WatchError, WatchErrors};

/// The reason why the source could not start.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The client can't be created from the configuration.
    #[error("cannot create the Kubernetes client: {0}")]
    Client(#[from] kube::Error),
}

/// Watches until the receiver is dropped. Without `services` the kinds Service and `EndpointSlice`
/// are reported as empty.
///
/// # Errors
/// The client can't be created. An API server that can't be reached is not an error: it is retried
/// for ever.
pub async fn run(server: &ApiServer, node_name: &str, services: bool, tx: EventSender) -> Result<(), KubernetesError> {
    let source = Source { server, tx: &tx, watch_errors: &WatchErrors::new(&server.config) };
    let not_other_proxies = format!("!{SERVICE_PROXY_NAME}");
    let not_headless = format!("!{HEADLESS},{not_other_proxies}");
    // One decoder for each watch, because each future needs exclusive access.
    let decoder = || Decoder::new(node_name);
    let (mut d1, mut d2, mut d3, mut d4) = (decoder(), decoder(), decoder(), decoder());
    tokio::try_join!(
        async {
            if !services {
                return source.none(ObjectKind::Service).await;
            }
            let objects = Collection::all::<ServiceWire>().labels(&not_other_proxies);
            let decode = |w: &ServiceWire| split(d1.service(w), SourceEvent::Service);
            source.watch(ObjectKind::Service, objects, decode).await
        },
        async {
            if !services {
                return source.none(ObjectKind::Slice).await;
            }
            let objects = Collection::all::<SliceWire>().labels(&not_headless);
            let decode = |w: &SliceWire| split(d2.slice(w), SourceEvent::Slice);
            source.watch(ObjectKind::Slice, objects, decode).await
        },
        source.watch(ObjectKind::Node, Collection::all::<NodeWire>(), |w: &NodeWire| {
            split(d3.node(w), |key, object| SourceEvent::Node(key.name, object))
        }),
        source.watch(ObjectKind::ServiceCidr, Collection::all::<ServiceCidrWire>().patient(), |w: &ServiceCidrWire| {
            split(d4.service_cidr(w), |key, ranges| SourceEvent::ServiceCidr(key.name, ranges))
        }),
    )?;
    Ok(())
}

/// What the watches share.
struct Source<'a> {
    server: &'a ApiServer,
    tx: &'a EventSender,
    watch_errors: &'a WatchErrors,
}

impl Source<'_> {
    /// Reports a kind without objects as in sync.
    async fn none(&self, kind: ObjectKind) -> Result<(), KubernetesError> {
        self.send(vec![SourceEvent::Relist(kind), SourceEvent::InSync(kind)]).await;
        Ok(())
    }

    /// Returns false if the receiver is gone.
    async fn send(&self, events: Vec<SourceEvent>) -> bool {
        for event in events {
            if self.tx.send(event).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Watches a kind until the receiver is gone.
    async fn watch<W, F>(&self, kind: ObjectKind, objects: Collection, mut decode: F) -> Result<(), KubernetesError>
    where
        W: kube::Resource<DynamicType = ()> + DeserializeOwned,
        F: FnMut(&W) -> Vec<SourceEvent>,
    {
        let mut watch = ListWatch::<W>::new(self.server, kind.name(), objects)?;
        loop {
            let events = match watch.next().await {
                Ok(Event::Init) => vec![SourceEvent::Relist(kind)],
                Ok(Event::InitApply(object) | Event::Apply(object)) => decode(&object),
                // Only the object's event: its rejections end with it.
                Ok(Event::Delete(object)) => decode(&object).into_iter().take(1).map(gone).collect(),
                Ok(Event::InitDone) => {
                    debug!(%kind, "list complete");
                    vec![SourceEvent::InSync(kind)]
                }
                // Kubernetes before 1.33 has no ServiceCIDR. The configuration can name the ranges.
                Err(error) if kind == ObjectKind::ServiceCidr && is_not_found(&error) => {
                    debug!(%kind, "the API server does not have this kind");
                    vec![SourceEvent::Relist(kind), SourceEvent::InSync(kind)]
                }
                Err(error) => vec![SourceEvent::WatchError(kind, self.watch_errors.report(kind.name(), &error))],
            };
            if !self.send(events).await {
                return Ok(());
            }
        }
    }
}

/// Returns the object's event, followed by the rejections of its parts.
pub(super) fn split<T>(
    decoded: Decoded<T>,
    event: impl FnOnce(super::ObjectKey, Option<T>) -> SourceEvent,
) -> Vec<SourceEvent> {
    let mut events = Vec::with_capacity(1 + decoded.rejections.len());
    events.push(event(decoded.key, decoded.object));
    events.extend(decoded.rejections.into_iter().map(SourceEvent::Rejected));
    events
}

/// Turns an object's event into that of its deletion.
fn gone(event: SourceEvent) -> SourceEvent {
    match event {
        SourceEvent::Service(key, _) => SourceEvent::Service(key, None),
        SourceEvent::Slice(key, _) => SourceEvent::Slice(key, None),
        SourceEvent::Node(name, _) => SourceEvent::Node(name, None),
        SourceEvent::ServiceCidr(name, _) => SourceEvent::ServiceCidr(name, None),
        other => other,
    }
}

/// Returns true if the API server does not have the collection.
fn is_not_found(error: &WatchError) -> bool {
    matches!(error, WatchError::List(_)) && error.code() == Some(404)
}
