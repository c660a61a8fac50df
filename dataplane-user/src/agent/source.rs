//! Chooses and starts the source of Kubernetes objects: API servers or a directory of manifests.
//!
//! The agent calls [`prepare`] before it changes the kernel, so that an unusable source ends it
//! early, and [`Prepared::run`] once the programs are loaded. With several API servers one is
//! watched at a time; the next one is tried when it refuses connections or stalls.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tokio::net::{TcpStream, lookup_host};
use tracing::{info, warn};

use crate::api::{ApiServer, Contacts};
use crate::config::{Config, ObjectSource};
use crate::ipam::task::PoolTask;
use crate::proxy::source::kubernetes::{self, KubernetesError};
use crate::proxy::source::manifests::{self, ManifestsError};
use crate::proxy::source::{EventSender, SourceEvent};

/// Time within which an API server must accept a connection; then the next one is tried.
const ANSWER: Duration = Duration::from_secs(2);

/// Interval at which the current API server is checked, if there are others.
const CHECK: Duration = Duration::from_secs(5);

/// Interval at which the names of the API servers are resolved.
const RESOLVE: Duration = Duration::from_secs(60);

/// Error of the source; the message names the option.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory of manifests is unreadable.
    #[error("--manifests {}: cannot read the directory: {source}", path.display())]
    Directory {
        /// Path of the directory.
        path: PathBuf,
        /// Underlying error.
        source: io::Error,
    },
    /// The kubeconfig is missing, unreadable or invalid.
    #[error("--kubeconfig {}: cannot use the file: {source}", path.display())]
    Kubeconfig {
        /// Path of the kubeconfig.
        path: PathBuf,
        /// Underlying error.
        source: Box<KubeconfigError>,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error("no API server configured: set --kubeconfig, or run in a pod with a service account ({0})")]
    InCluster(Box<InClusterError>),
    /// A URL of an API server is invalid.
    #[error("--apiserver {url:?}: invalid URL: {reason}")]
    Url {
        /// The URL as given.
        url: String,
        /// The parser's message.
        reason: String,
    },
    /// The directory could not be watched.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// The Kubernetes client could not be created.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
}

/// A source whose options have been checked.
#[derive(Debug)]
pub enum Prepared {
    /// Directory of manifests.
    Manifests(PathBuf),
    /// Client configurations of one cluster, one per API server.
    Kubernetes(Vec<kube::Config>),
}

/// Reads the kubeconfig or the directory once and returns the checked source.
///
/// # Errors
/// The directory or the kubeconfig is unreadable, or a URL is invalid.
pub async fn prepare(config: &Config) -> Result<Prepared, SourceError> {
    match &config.source {
        ObjectSource::Manifests { directory } => {
            let failed = |source| SourceError::Directory { path: directory.clone(), source };
            std::fs::read_dir(directory).map_err(failed)?;
            Ok(Prepared::Manifests(directory.clone()))
        }
        ObjectSource::Kubernetes { kubeconfig, apiservers } => {
            let base = match kubeconfig {
                Some(path) => from_file(path).await?,
                None => kube::Config::incluster().map_err(|e| SourceError::InCluster(Box::new(e)))?,
            };
            if apiservers.is_empty() {
                return Ok(Prepared::Kubernetes(vec![base]));
            }
            let with = |url: &String| {
                let mut config = base.clone();
                config.cluster_url =
                    url.parse().map_err(|e| SourceError::Url { url: url.clone(), reason: format!("{e}") })?;
                Ok(config)
            };
            apiservers.iter().map(with).collect::<Result<_, SourceError>>().map(Prepared::Kubernetes)
        }
    }
}

async fn from_file(path: &Path) -> Result<kube::Config, SourceError> {
    let failed = |source| SourceError::Kubeconfig { path: path.into(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)
}

impl Prepared {
    /// Returns the client configurations of the API servers; empty for a directory.
    #[must_use]
    pub fn servers(&self) -> &[kube::Config] {
        match self {
            Self::Manifests(_) => &[],
            Self::Kubernetes(servers) => servers,
        }
    }

    /// Runs the source and the pool task, which use the same API server.
    ///
    /// `services` is false if another proxy serves Services; they are not watched then. Returns
    /// without an error only after the controller has ended.
    ///
    /// # Errors
    /// The directory cannot be read or watched, or the Kubernetes client cannot be created.
    pub async fn run(
        self,
        node_name: String,
        services: bool,
        events: EventSender,
        pools: Option<PoolTask>,
        contacts: Arc<Contacts>,
    ) -> Result<(), SourceError> {
        match self {
            Self::Manifests(directory) => Ok(manifests::run(directory, &node_name, events).await?),
            Self::Kubernetes(configs) => {
                let of = |config| ApiServer::new(config, Arc::clone(&contacts));
                let servers: Vec<_> = configs.into_iter().map(of).collect();
                Box::pin(from_servers(&servers, (&node_name, services), &events, pools.as_ref())).await
            }
        }
    }
}

/// Watches the first reachable API server, and the next one when it is gone or stalls.
async fn from_servers(
    servers: &[ApiServer],
    (node, services): (&str, bool),
    events: &EventSender,
    pools: Option<&PoolTask>,
) -> Result<(), SourceError> {
    let mut turn = 0;
    let mut addresses = BTreeSet::new();
    loop {
        resolve(servers, &mut addresses, events).await;
        let server = &servers[turn % servers.len()];
        let url = &server.config.cluster_url;
        let several = servers.len() > 1;
        if several {
            if !answers(&server.config).await {
                turn += 1;
                if turn.is_multiple_of(servers.len()) {
                    warn!("no API server reachable: retrying (see --apiserver)");
                    tokio::time::sleep(ANSWER).await;
                }
                continue;
            }
            info!(%url, "API server selected");
        }
        tokio::select! {
            ended = kubernetes::run(server, node, services, events.clone()) => return Ok(ended?),
            ended = look_after(pools, server) => return ended,
            () = keep_resolving(servers, &mut addresses, events) => {}
            () = is_gone(&server.config), if several => warn!(%url, "API server stopped answering: trying the next one"),
            kind = server.contacts.stall_since(Instant::now()), if several => {
                warn!(%url, kind, "API server stalled: trying the next one");
            }
        }
        turn += 1;
    }
}

/// Tells the controller the addresses of the API servers, so that no Service gets one of them.
/// `known` has all that the names have had: a name may have other addresses each time.
async fn resolve(servers: &[ApiServer], known: &mut BTreeSet<IpAddr>, events: &EventSender) {
    let before = known.len();
    for place in servers.iter().filter_map(|server| place(&server.config)) {
        if let Ok(Ok(found)) = tokio::time::timeout(ANSWER, lookup_host(place)).await {
            known.extend(found.map(|address| address.ip().to_canonical()));
        }
    }
    if known.len() != before {
        // Fails only if the controller has ended, which ends the agent.
        drop(events.send(SourceEvent::ApiServers(known.clone())).await);
    }
}

/// Repeats [`resolve`]; never returns.
async fn keep_resolving(servers: &[ApiServer], known: &mut BTreeSet<IpAddr>, events: &EventSender) {
    loop {
        tokio::time::sleep(RESOLVE).await;
        resolve(servers, known, events).await;
    }
}

/// Runs the pool task; waits for ever in other modes.
async fn look_after(pools: Option<&PoolTask>, server: &ApiServer) -> Result<(), SourceError> {
    let Some(pools) = pools else { return std::future::pending().await };
    Ok(Box::pin(pools.run(server)).await.map_err(KubernetesError::Client)?)
}

/// Waits until three checks in a row have failed.
async fn is_gone(server: &kube::Config) {
    let mut misses = 0;
    while misses < 3 {
        tokio::time::sleep(CHECK).await;
        misses = if answers(server).await { 0 } else { misses + 1 };
    }
}

/// Returns true if the server accepts a TCP connection within [`ANSWER`].
async fn answers(server: &kube::Config) -> bool {
    let Some(place) = place(server) else { return false };
    matches!(tokio::time::timeout(ANSWER, TcpStream::connect(place)).await, Ok(Ok(_)))
}

/// Returns the host and port of a server's URL.
fn place(server: &kube::Config) -> Option<(&str, u16)> {
    let url = &server.cluster_url;
    let default_port = if url.scheme_str() == Some("http") { 80 } else { 443 };
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
    Some((host, url.port_u16().unwrap_or(default_port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_of_api_servers_are_told_once() {
        let server = |url: &str| ApiServer::new(kube::Config::new(url.parse().unwrap()), Arc::default());
        let servers = ["https://192.0.2.1:6443", "https://[2001:db8::1]:6443"].map(server);
        let (events, mut receiver) = tokio::sync::mpsc::channel(4);
        let mut known = BTreeSet::new();
        resolve(&servers[..1], &mut known, &events).await;
        resolve(&servers[..1], &mut known, &events).await;
        resolve(&servers[1..], &mut known, &events).await;
        drop(events);
        let [first, second] = ["192.0.2.1", "2001:db8::1"].map(|a| a.parse::<IpAddr>().unwrap());
        assert_eq!(receiver.recv().await, Some(SourceEvent::ApiServers([first].into())));
        assert_eq!(receiver.recv().await, Some(SourceEvent::ApiServers([first, second].into())), "all so far");
        assert_eq!(receiver.recv().await, None);
    }
}
