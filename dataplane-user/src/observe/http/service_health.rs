//! Serves `spec.healthCheckNodePort`: tells a load balancer if this node has endpoints of a
//! Service.
//!
//! [`run`], a task of the agent, keeps a listener for each port and each node-port address in the
//! controller's snapshot. A failure is reported once and tried again: another program may have the
//! port, and a new IPv6 address can't be bound before duplicate address detection has ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane_common::types::ip_family::IpFamily;
use hyper::StatusCode;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::{info, warn};

use super::health::{self, Now};
use super::{BindError, Handler, HttpResponse, listen, reserve, serve};
use crate::observe::events::{Notice, Notices};
use crate::proxy::controller::{HealthCheck, Snapshot};
use crate::proxy::source::{ObjectKey, ObjectKind};

/// Interval at which failed addresses are tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Returns the response at an address of the family, by kube-proxy's rules.
#[must_use]
pub fn answer(check: &HealthCheck, family: IpFamily, proxy_healthy: bool) -> HttpResponse {
    let local = check.local_endpoints[family.index()];
    let body = json!({
        "service": { "namespace": &*check.namespace, "name": &*check.name },
        "localEndpoints": local,
        "serviceProxyHealthy": proxy_healthy,
    });
    let good = local > 0 && proxy_healthy;
    HttpResponse::json(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body.to_string())
}

/// Keeps the listeners as the snapshots say. Returns when the controller has ended.
///
/// # Errors
/// A server has panicked.
pub async fn run(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    notices: Notices,
    node: String,
) -> Result<(), JoinError> {
    let mut listeners = Listeners {
        snapshots: snapshots.clone(),
        tasks: JoinSet::new(),
        servers: BTreeMap::new(),
        failed: BTreeMap::new(),
    };
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        for (port, error) in listeners.follow(&snapshot) {
            let check = &snapshot.health_checks[&port];
            warn!(service = %format_args!("{}/{}", check.namespace, check.name), "health check server failed: {error}");
            notices.publish(failed_to_listen(check, port, &node, &error));
        }
        let again = !listeners.failed.is_empty();
        let changed = tokio::select! {
            changed = snapshots.changed() => changed,
            () = tokio::time::sleep(AGAIN), if again => Ok(()),
            // A server that is no longer wanted was aborted; none returns.
            Some(Err(e)) = listeners.tasks.join_next() => if e.is_panic() { return Err(e) } else { continue },
        };
        if changed.is_err() {
            return Ok(());
        }
    }
}

struct Listeners {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The servers; all end when this is dropped.
    tasks: JoinSet<()>,
    servers: BTreeMap<SocketAddr, AbortHandle>,
    /// Ports that can't be bound at one or more addresses, with the reason.
    failed: BTreeMap<u16, String>,
}

impl Listeners {
    /// Listens on exactly the addresses of the snapshot. Returns the ports with a new failure.
    fn follow(&mut self, snapshot: &Snapshot) -> Vec<(u16, String)> {
        let wanted = &snapshot.health_checks;
        self.servers.retain(|at, server| {
            let keep = wanted.contains_key(&at.port()) && snapshot.nodeport_addresses.contains(&at.ip());
            if !keep {
                server.abort();
            }
            keep
        });
        self.failed.retain(|port, _| wanted.contains_key(port));
        let mut new = Vec::new();
        for (port, check) in &**wanted {
            let mut errors = Vec::new();
            for at in snapshot.nodeport_addresses.iter().map(|ip| SocketAddr::new(*ip, *port)) {
                if self.servers.contains_key(&at) {
                    continue;
                }
                match server(at, self.snapshots.clone()) {
                    Ok(server) => {
                        let server = self.tasks.spawn(server);
                        info!(address = %at, service = %format_args!("{}/{}", check.namespace, check.name), "health check server started");
                        self.servers.insert(at, server);
                    }
                    Err(e) => errors.push(e.to_string()),
                }
            }
            let error = errors.join("; ");
            if error.is_empty() {
                self.failed.remove(port);
            } else if self.failed.get(port) != Some(&error) {
                self.failed.insert(*port, error.clone());
                new.push((*port, error));
            }
        }
        new
    }
}

/// Returns the notice with kube-proxy's reason and text.
fn failed_to_listen(check: &HealthCheck, port: u16, node: &str, error: &str) -> Notice {
    Notice {
        kind: ObjectKind::Service,
        key: ObjectKey { namespace: check.namespace.clone(), name: check.name.clone() },
        reason: "FailedToStartServiceHealthcheck",
        note: format!("node {node} failed to start healthcheck on port {port}: {error}"),
        local: true,
    }
}

/// Listens at `at` and returns the server's task.
fn server(
    at: SocketAddr,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) -> Result<impl Future<Output = ()> + Send + 'static, BindError> {
    const FLAG: &str = "healthCheckNodePort";
    let listener = listen(FLAG, reserve(FLAG, at)?)?;
    // Looked up for each request: the endpoints change while the listener stays.
    let handler: Handler = Arc::new(move |_| {
        let snapshot = Arc::clone(&snapshots.borrow());
        match snapshot.health_checks.get(&at.port()) {
            Some(check) => answer(check, IpFamily::of(at.ip()), health::is_healthy(&snapshot, Now::get())),
            None => HttpResponse::not_found(),
        }
    });
    Ok(serve(listener, handler))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_tells_local_endpoints_and_proxy_health() {
        let check = |n| HealthCheck { namespace: "default".into(), name: "web".into(), local_endpoints: [n, 1] };
        let yes = answer(&check(2), IpFamily::V4, true);
        assert_eq!(yes.status, StatusCode::OK);
        let expected =
            r#"{"localEndpoints":2,"service":{"name":"web","namespace":"default"},"serviceProxyHealthy":true}"#;
        assert_eq!(yes.text, expected);
        assert_eq!(answer(&check(0), IpFamily::V4, true).status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer(&check(2), IpFamily::V4, false).status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer(&check(0), IpFamily::V6, true).status, StatusCode::OK, "the other family has an endpoint");
    }

    fn at(addresses: &[&str], port: u16) -> Arc<Snapshot> {
        let checks = [(port, HealthCheck { namespace: "a".into(), name: "b".into(), local_endpoints: [1, 0] })];
        let nodeport_addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        Arc::new(Snapshot { health_checks: Arc::new(checks.into()), nodeport_addresses, ..Snapshot::default() })
    }

    #[tokio::test]
    async fn listeners_follow_the_snapshot() {
        let port = free_port();
        let (sender, receiver) = watch::channel(Arc::default());
        let task = tokio::spawn(run(receiver, Notices::default(), "n1".into()));
        let listens = |last: u8| std::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, last], port))).is_ok();
        let steps: [(&[&str], [bool; 3]); 4] = [
            (&["127.0.0.2", "127.0.0.3"], [false, true, true]),
            (&["127.0.0.3"], [false, false, true]),
            (&["127.0.0.4", "127.0.0.3", "127.0.0.1"], [true, false, true]),
            (&[], [false; 3]),
        ];
        for (addresses, wanted) in steps {
            sender.send_replace(at(addresses, port));
            let end = std::time::Instant::now() + Duration::from_secs(5);
            while [1, 2, 3].map(listens) != wanted {
                assert!(std::time::Instant::now() < end, "{addresses:?}: {:?}", [1, 2, 3].map(listens));
                tokio::task::yield_now().await;
            }
        }
        drop(sender);
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn taken_port_is_reported_and_other_addresses_are_served() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let (sender, receiver) = watch::channel(at(&["127.0.0.1", "127.0.0.5"], port));
        let (notices, mut queued) = crate::observe::events::channel();
        let task = tokio::spawn(run(receiver, notices, "n1".into()));
        let notice = queued.recv().await.unwrap();
        assert_eq!((notice.key.to_string(), notice.reason), ("a/b".into(), "FailedToStartServiceHealthcheck"));
        let start = format!("node n1 failed to start healthcheck on port {port}: ");
        assert!(notice.note.starts_with(&start) && notice.note.contains("127.0.0.1"), "{}", notice.note);
        assert!(std::net::TcpStream::connect(("127.0.0.5", port)).is_ok(), "the other address is served");
        drop(sender);
        task.await.unwrap().unwrap();
    }

    /// Returns a port that was free a moment ago.
    fn free_port() -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }
}
