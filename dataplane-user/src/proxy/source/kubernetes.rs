//! The Kubernetes API: one watch for each kind, decoded and dropped object by object.
//!
//! Lost connections, expired resource versions (410) and back-off are `kube-runtime`'s business; after each of them the kind is
//! listed anew, and [`Event::Relist`] with [`Event::InSync`] brackets the list, so that the receiver finds what has gone meanwhile.

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

/// Why the source could not start.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The client can't be made from this configuration.
    #[error("Kubernetes client: {0}")]
    Client(#[from] kube::Error),
}

/// Objects per page of a list: memory for one page is all that a list costs.
const PAGE: u32 = 500;

/// Watches until the receiver is gone. Without `services` there are none, whatever the API server says.
///
/// # Errors
/// The client can't be made; an API server that can't be reached is tried again for ever.
pub async fn run(config: Config, node_name: &str, services: bool, tx: EventSender) -> Result<(), KubernetesError> {
    let watch_errors = WatchErrors::new(&config);
    let client = Client::try_from(config)?;
    let not_other_proxies = format!("!{SERVICE_PROXY_NAME}");
    let service_config = watcher::Config::default().page_size(PAGE).labels(&not_other_proxies);
    let slice_config = watcher::Config::default().page_size(PAGE).labels(&format!("!{HEADLESS},{not_other_proxies}"));
    let nodes = watcher::Config::default().page_size(PAGE);
    let pods = watcher::Config::default().page_size(PAGE).fields(&format!("spec.nodeName={node_name}"));
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

/// A kind without objects.
async fn none(kind: ObjectKind, tx: &EventSender) {
    for event in [SourceEvent::Relist(kind), SourceEvent::InSync(kind)] {
        if tx.send(event).await.is_err() {
            return;
        }
    }
}

/// The object's event, then what is wrong with its parts.
pub(super) fn split<T>(
    decoded: Decoded<T>,
    event: impl FnOnce(super::ObjectKey, Option<T>) -> SourceEvent,
) -> Vec<SourceEvent> {
    let mut events = Vec::with_capacity(1 + decoded.rejections.len());
    events.push(event(decoded.key, decoded.object));
    events.extend(decoded.rejections.into_iter().map(SourceEvent::Rejected));
    events
}

/// The same event for an object that is gone.
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
            Ok(watcher::Event::Delete(object)) => decode(&object).into_iter().take(1).map(gone).collect(),
            Ok(watcher::Event::InitDone) => {
                debug!(%kind, "in sync");
                vec![SourceEvent::InSync(kind)]
            }
            // Before Kubernetes 1.33 there are none: the configuration may say the ranges.
            Err(error) if kind == ObjectKind::ServiceCidr && is_not_found(&error) => {
                debug!(%kind, "the API server does not have this kind");
                vec![SourceEvent::InSync(kind)]
            }
            Err(error) => vec![SourceEvent::Trouble(kind, watch_errors.report(kind.name(), &error))],
        };
        for event in events {
            if tx.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Whether the API server has no such collection.
fn is_not_found(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}
