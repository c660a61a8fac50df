//! The agent's two HTTP endpoints: metrics and status on one address, health checks on the other.
//!
//! `agent` reserves both addresses before it changes the kernel and spawns one task for each. The
//! metrics endpoint answers at once. The health endpoint listens once the maps are in sync, or
//! after [`STARTING`]. The answers are computed in `observe`; nothing is decided here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::Config;
use crate::network::node::status::NodeStatus;
use crate::observe::http::health::{self, Now};
use crate::observe::http::{self, BindError, Handler, HttpResponse, listen, reserve};
use crate::observe::metrics::{self, Metrics};
use crate::proxy::controller::Snapshot;

/// The health endpoint starts to answer after this time even if the source is not in sync.
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

/// Serves health checks once the maps are in sync, or after [`STARTING`].
///
/// Until then the kernel refuses connections to the health address, so that load balancers send no
/// traffic to a node that does not know its Services yet.
///
/// # Errors
/// Another process listens at the address.
pub(super) async fn serve_health(
    address: Reserved,
    metrics: Arc<Metrics>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) -> Result<(), BindError> {
    let answers = snapshots.clone();
    let synced = async { snapshots.wait_for(|s| s.synced).await.map(|s| Arc::clone(&s)).ok() };
    let late = match tokio::time::timeout(STARTING, synced).await {
        Ok(Some(snapshot)) => {
            report_ready(&snapshot);
            false
        }
        Ok(None) => return Ok(()),
        Err(_) => true,
    };
    let listener = listen("healthz-bind-address", address)?;
    let server = http::serve(listener, health_handler(metrics, answers));
    let report = async move {
        if late {
            report_late(snapshots).await;
        }
    };
    tokio::join!(server, report);
    Ok(())
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

/// Returns the handler of the metrics endpoint.
pub(super) fn metrics_handler(
    config: &Config,
    metrics: Arc<Metrics>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    status: Arc<NodeStatus>,
) -> Handler {
    let configz = serde_json::json!({ "ropeway.config": config }).to_string();
    Arc::new(move |path| match path {
        "/metrics" => HttpResponse { kind: metrics::CONTENT_TYPE, ..HttpResponse::text(metrics.render()) },
        "/healthz" | "/livez" => health_answer(path, &metrics, &snapshots),
        "/readyz" if status.is_in_order() => HttpResponse::text("ok\n".into()),
        "/readyz" => HttpResponse {
            status: hyper::StatusCode::SERVICE_UNAVAILABLE,
            ..HttpResponse::text("node setup incomplete: see the agent's log\n".into())
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
