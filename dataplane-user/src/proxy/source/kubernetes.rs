//! The Kubernetes source: one watch for each kind. Each object is decoded and dropped at once.
//!
//! `kube-runtime` handles lost connections, expired resource versions (410) and backoff. After each
//! of them it lists the kind again; [`SourceEvent::Relist`] and [`SourceEvent::InSync`] enclose the
//! list, so that the receiver notices objects that were deleted in between. Errors become
//! [`SourceEvent::WatchError`]; the watches never end by themselves.

use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;

use futures_util::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use tracing::debug;

use super::decode::{Decoded, Decoder, HEADLESS, SERVICE_PROXY_NAME};
use super::watch_errors::WatchErrors;
use super::wire::{NodeWire, PodWire, ServiceCidrWire, ServiceWire, SliceWire};
use super::{EventSender, ObjectKind, SourceEvent};

/// The reason why the source could not start.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The client can't be created from the configuration.
    #[error("cannot create the Kubernetes client: {0}")]
    Client(#[from] kube::Error),
}

/// Objects per page of a list request, which limits the memory that a list needs.
const PAGE: u32 = 500;

/// Watches until the receiver is dropped. Without `services` the kinds Service and `EndpointSlice`
/// are reported as empty.
///
/// # Errors
/// The client can't be created. An API server that can't be reached is not an error: it is retried
/// for ever.
pub async fn run(config: Config, node_name: &str, services: bool, tx: EventSender) -> Result<(), KubernetesError> {
    let watch_errors = WatchErrors::new(&config);
    let client = Client::try_from(config)?;
    let not_other_proxies = format!("!{SERVICE_PROXY_NAME}");
    let service_config = watcher::Config::default().page_size(PAGE).labels(&not_other_proxies);
    let slice_config = watcher::Config::default().page_size(PAGE).labels(&format!("!{HEADLESS},{not_other_proxies}"));
    let nodes = watcher::Config::default().page_size(PAGE);
    let pods = watcher::Config::default().page_size(PAGE).fields(&format!("spec.nodeName={node_name}"));
    // One decoder for each watch, because each future needs exclusive access.
    let decoder = || Decoder::new(node_name);
    let (mut d1, mut d2, mut d3, mut d4, mut d5) = (decoder(), decoder(), decoder(), decoder(), decoder());
    let service_cidrs = watcher::Config::default().page_size(PAGE);
    tokio::join!(
        async {
            if !services {
                return none(ObjectKind::Service, &tx).await;
            }
            let decode = |w: &ServiceWire| split(d1.service(w), SourceEvent::Service);
            watch(ObjectKind::Service, &client, service_config, &tx, &watch_errors, decode).await;
        },
        async {
            if !services {
                return none(ObjectKind::Slice, &tx).await;
            }
            let decode = |w: &SliceWire| split(d2.slice(w), SourceEvent::Slice);
            watch(ObjectKind::Slice, &client, slice_config, &tx, &watch_errors, decode).await;
        },
        watch::<NodeWire, _>(ObjectKind::Node, &client, nodes, &tx, &watch_errors, |w| {
            split(d3.node(w), |key, object| SourceEvent::Node(key.name, object))
        }),
        watch::<PodWire, _>(ObjectKind::Pod, &client, pods, &tx, &watch_errors, |w| {
            split(d4.pod(w), SourceEvent::Pod)
        }),
        watch::<ServiceCidrWire, _>(ObjectKind::ServiceCidr, &client, service_cidrs, &tx, &watch_errors, |w| {
            split(d5.service_cidr(w), |key, ranges| SourceEvent::ServiceCidr(key.name, ranges))
        }),
    );
    Ok(())
}

/// Reports a kind without objects as in sync.
async fn none(kind: ObjectKind, tx: &EventSender) {
    for event in [SourceEvent::Relist(kind), SourceEvent::InSync(kind)] {
        if tx.send(event).await.is_err() {
            return;
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
        SourceEvent::Pod(key, _) => SourceEvent::Pod(key, None),
        SourceEvent::ServiceCidr(name, _) => SourceEvent::ServiceCidr(name, None),
        other => other,
    }
}

async fn watch<W, F>(
    kind: ObjectKind,
    client: &Client,
    config: watcher::Config,
    tx: &EventSender,
    watch_errors: &WatchErrors,
    mut decode: F,
) where
    W: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    W::DynamicType: Hash + Eq,
    F: FnMut(&W) -> Vec<SourceEvent>,
{
    let mut stream = pin!(watcher(Api::<W>::all(client.clone()), config).default_backoff());
    while let Some(next) = stream.next().await {
        let events = match next {
            Ok(watcher::Event::Init) => vec![SourceEvent::Relist(kind)],
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => decode(&object),
            // Only the object's event: its rejections end with it.
            Ok(watcher::Event::Delete(object)) => decode(&object).into_iter().take(1).map(gone).collect(),
            Ok(watcher::Event::InitDone) => {
                debug!(%kind, "list complete");
                vec![SourceEvent::InSync(kind)]
            }
            // Kubernetes before 1.33 has no ServiceCIDR. The configuration can name the ranges.
            Err(error) if kind == ObjectKind::ServiceCidr && is_not_found(&error) => {
                debug!(%kind, "the API server does not have this kind");
                vec![SourceEvent::InSync(kind)]
            }
            Err(error) => vec![SourceEvent::WatchError(kind, watch_errors.report(kind.name(), &error))],
        };
        for event in events {
            if tx.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Returns true if the API server does not have the collection.
fn is_not_found(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}
