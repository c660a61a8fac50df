//! Chooses and starts the source of objects.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tokio::net::TcpStream;
use tokio::task::{JoinError, JoinHandle};
use tracing::{info, warn};

use crate::config::{Config, Source};
use crate::ipam::task::PoolTask;
use crate::proxy::source::EventSender;
use crate::proxy::source::kubernetes::{self, KubernetesError};
use crate::proxy::source::manifests::{self, ManifestsError};

/// How long an API server has to answer before the next one is tried.
const ANSWER: Duration = Duration::from_secs(2);

/// How often an API server is asked whether it is there, if there are others.
const CHECK: Duration = Duration::from_secs(5);

/// Why there are no objects.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory can't be read.
    #[error("--manifests {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is missing or broken.
    #[error("--kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<KubeconfigError>,
    },
    /// No configuration to be found.
    #[error("no kubeconfig was given with --kubeconfig, and this is no pod with a service account: {0}")]
    InCluster(Box<InClusterError>),
    /// A URL that is none.
    #[error("--apiserver {url:?}: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The source of manifests failed.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// The Kubernetes client failed.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// A panic.
    #[error("the source has ended: {0}")]
    Task(#[from] JoinError),
}

/// A source that is known to make sense.
#[derive(Debug)]
pub enum Prepared {
    /// A directory.
    Manifests(PathBuf),
    /// A cluster; several configurations differ in the API server.
    Kubernetes(Vec<kube::Config>),
}

/// Checks what can be checked before anything is changed.
///
/// # Errors
/// The directory or the kubeconfig can't be read.
pub async fn prepare(config: &Config) -> Result<Prepared, SourceError> {
    match &config.source {
        Source::Manifests { directory } => {
            let failed = |source| SourceError::Directory { path: directory.clone(), source };
            std::fs::read_dir(directory).map_err(failed)?;
            Ok(Prepared::Manifests(directory.clone()))
        }
        Source::Kubernetes { kubeconfig, apiservers } => {
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
    /// The API servers, if it is a cluster.
    #[must_use]
    pub fn servers(&self) -> &[kube::Config] {
        match self {
            Self::Manifests(_) => &[],
            Self::Kubernetes(servers) => servers,
        }
    }

    /// Starts the source, without Services where another proxy serves them, and what else talks to the same API server; the task ends only with an error.
    #[must_use]
    pub fn start(
        self,
        node_name: String,
        services: bool,
        events: EventSender,
        pools: Option<PoolTask>,
    ) -> JoinHandle<Result<(), SourceError>> {
        tokio::spawn(async move {
            match self {
                Self::Manifests(directory) => Ok(manifests::run(directory, &node_name, events).await?),
                Self::Kubernetes(servers) => {
                    Box::pin(from_servers(&servers, (&node_name, services), &events, pools.as_ref())).await
                }
            }
        })
    }
}

/// Watches the first API server that can be reached, and another one when that one is gone.
async fn from_servers(
    servers: &[kube::Config],
    (node, services): (&str, bool),
    events: &EventSender,
    pools: Option<&PoolTask>,
) -> Result<(), SourceError> {
    let mut turn = 0;
    loop {
        let server = &servers[turn % servers.len()];
        if servers.len() > 1 {
            if !answers(server).await {
                turn += 1;
                if turn.is_multiple_of(servers.len()) {
                    warn!("no API server can be reached; trying again");
                    tokio::time::sleep(ANSWER).await;
                }
                continue;
            }
            info!(url = %server.cluster_url, "API server");
        }
        tokio::select! {
            ended = kubernetes::run(server.clone(), node, services, events.clone()) => return Ok(ended?),
            ended = look_after(pools, server) => ended?,
            () = is_gone(server), if servers.len() > 1 => warn!(url = %server.cluster_url, "API server does not answer"),
        }
        turn += 1;
    }
}

/// Pools and blocks, in pool mode.
async fn look_after(pools: Option<&PoolTask>, server: &kube::Config) -> Result<(), SourceError> {
    let Some(pools) = pools else { return std::future::pending().await };
    Ok(Box::pin(pools.run(server.clone())).await.map_err(KubernetesError::Client)?)
}

/// Ends when the server has not answered three times.
async fn is_gone(server: &kube::Config) {
    let mut misses = 0;
    while misses < 3 {
        tokio::time::sleep(CHECK).await;
        misses = if answers(server).await { 0 } else { misses + 1 };
    }
}

/// Whether a connection can be made.
async fn answers(server: &kube::Config) -> bool {
    let url = &server.cluster_url;
    let Some(host) = url.host() else { return false };
    let default_port = if url.scheme_str() == Some("http") { 80 } else { 443 };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connection = TcpStream::connect((host, url.port_u16().unwrap_or(default_port)));
    matches!(tokio::time::timeout(ANSWER, connection).await, Ok(Ok(_)))
}
