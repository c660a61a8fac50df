//! The agent's two HTTP endpoints: metrics and status on one address, health checks on the other.
//!
//! `agent` reserves both addresses before it changes the kernel and spawns one task for each. Both
//! answer at once: until the maps are in sync, `/healthz` tells load balancers whether a
//! predecessor has left Services in them. The answers are computed in `observe`; only readiness is
//! decided here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::api::Contacts;
use crate::config::Config;
use crate::network::node::status::NodeStatus;
use crate::observe::http::health::{self, Now};
use crate::observe::http::{self, BindError, Handler, HttpResponse, listen, reserve};
use crate::observe::metrics::{self, Metrics};
use crate::proxy::controller::Snapshot;

/// Time after which the log says what a start is waiting for.
const STARTING: Duration = Duration::from_secs(10);

/// A reserved address; connections to it are refused until [`listen`].
pub(super) type Reserved = (TcpSocket, SocketAddr);

/// Reserves a listening address; the error names the process that has it, if it answers.
pub(super) async fn take(flag: &'static str, address: SocketAddr, config: &Config) -> Result<Reserved, BindError> {
    match reserve(flag, address) {
        Ok(taken) => Ok(taken),
        Err(e) => Err(e.explain(config.metrics_bind_address).await),
    }
}

/// Serves health checks, and logs when the maps are in sync for the first time.
///
/// # Errors
/// Another process listens at the address.
pub(super) async fn serve_health(
    address: Reserved,
    metrics: Arc<Metrics>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) -> Result<(), BindError> {
    let listener = listen("healthz-bind-address", address)?;
    tokio::join!(http::serve(listener, health_handler(metrics, snapshots.clone())), report_start(snapshots));
    Ok(())
}

async fn report_start(mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let synced = async { snapshots.wait_for(|s| s.synced).await.map(|s| Arc::clone(&s)).ok() };
    match tokio::time::timeout(STARTING, synced).await {
        Ok(Some(snapshot)) => report_ready(&snapshot),
        Ok(None) => {}
        Err(_) => report_late(snapshots).await,
    }
}

async fn report_late(mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let waiting = snapshots.borrow().waiting_for.join(", ");
    warn!(
        waiting_for = waiting,
        "agent not in sync after {STARTING:?}: the maps keep their entries, and the health checks report it"
    );
    if let Ok(snapshot) = snapshots.wait_for(|s| s.synced).await {
        report_ready(&snapshot);
    }
}

fn report_ready(s: &Snapshot) {
    let (services, slices, took) = (s.services, s.slices, s.last_duration);
    info!(services, slices, operations = s.operations.total(), ?took, "agent in sync: all Services are in the maps");
}

/// What `/readyz` answers from.
#[derive(Debug)]
pub(super) struct Readiness {
    pub(super) node: Arc<NodeStatus>,
    pub(super) contacts: Arc<Contacts>,
}

impl Readiness {
    /// Returns the reason why the node is not ready.
    fn problem(&self, now: Instant) -> Option<String> {
        if !self.node.is_in_order() {
            return Some("node setup incomplete: see the agent's log\n".into());
        }
        let stalled = self.contacts.stalled(now);
        let stall = stalled.first()?;
        let kinds: Vec<_> = stalled.iter().map(|stall| stall.kind).collect();
        Some(format!("API server stalled: nothing heard of {} for {} s\n", kinds.join(", "), stall.lasting.as_secs()))
    }
}

/// Returns the handler of the metrics endpoint.
pub(super) fn metrics_handler(
    config: &Config,
    metrics: Arc<Metrics>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    readiness: Readiness,
) -> Handler {
    let configz = serde_json::json!({ "ropeway.config": config }).to_string();
    Arc::new(move |path| match path {
        "/metrics" => HttpResponse { kind: metrics::CONTENT_TYPE, ..HttpResponse::text(metrics.render()) },
        "/healthz" | "/livez" => health_answer(path, &metrics, &snapshots),
        "/readyz" => match readiness.problem(Instant::now()) {
            None => HttpResponse::text("ok\n".into()),
            Some(text) => HttpResponse { status: hyper::StatusCode::SERVICE_UNAVAILABLE, ..HttpResponse::text(text) },
        },
        "/proxyMode" => HttpResponse::text("ropeway".into()),
        "/configz" => HttpResponse::json(hyper::StatusCode::OK, configz.clone()),
        _ => HttpResponse::not_found(),
    })
}

fn health_handler(metrics: Arc<Metrics>, snapshots: watch::Receiver<Arc<Snapshot>>) -> Handler {
    Arc::new(move |path| match path {
        "/healthz" | "/livez" => health_answer(path, &metrics, &snapshots),
        _ => HttpResponse::not_found(),
    })
}

fn health_answer(path: &str, metrics: &Metrics, snapshots: &watch::Receiver<Arc<Snapshot>>) -> HttpResponse {
    let livez = path == "/livez";
    let snapshot = Arc::clone(&snapshots.borrow());
    let answer = health::answer(&snapshot, Now::get(), livez);
    metrics.count_response(livez, answer.status.as_u16());
    answer
}
