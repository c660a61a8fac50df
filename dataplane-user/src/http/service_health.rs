//! `spec.healthCheckNodePort`: tells a load balancer whether this node has endpoints of a Service.
//!
//! A listener for each port that the controller's snapshot names, as long as it names it. A port that can't be had is
//! logged once and tried again with each change.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::health::{self, Now};
use super::{Answer, Handler, listen, reserve, serve};
use crate::controller::{HealthCheck, Snapshot};
use crate::events::{Notice, Notices};
use crate::source::{ObjectKey, SourceKind};

/// What the port of a Service answers, by kube-proxy's rules.
#[must_use]
pub fn answer(check: &HealthCheck, proxy_healthy: bool) -> Answer {
    let body = json!({
        "service": { "namespace": &*check.namespace, "name": &*check.name },
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": proxy_healthy,
    });
    let good = check.local_endpoints > 0 && proxy_healthy;
    Answer::json(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body.to_string())
}

/// Follows the snapshots until the controller ends.
pub async fn run(mut snapshots: watch::Receiver<Arc<Snapshot>>, notices: Notices, node: String) {
    let mut servers: BTreeMap<u16, JoinHandle<()>> = BTreeMap::new();
    let mut failed: BTreeMap<u16, String> = BTreeMap::new();
    loop {
        let wanted = Arc::clone(&snapshots.borrow_and_update().health_checks);
        servers.retain(|port, server| {
            let keep = wanted.contains_key(port);
            if !keep {
                server.abort();
            }
            keep
        });
        failed.retain(|port, _| wanted.contains_key(port));
        for (port, check) in &*wanted {
            if servers.contains_key(port) {
                continue;
            }
            match start(*port, snapshots.clone()) {
                Ok(server) => {
                    info!(port, service = %format_args!("{}/{}", check.namespace, check.name), "health check");
                    failed.remove(port);
                    servers.insert(*port, server);
                }
                Err(e) if failed.get(port) != Some(&e) => {
                    warn!(service = %format_args!("{}/{}", check.namespace, check.name), "{e}");
                    notices.leave(failed_to_listen(check, *port, &node, &e));
                    failed.insert(*port, e);
                }
                Err(_) => {}
            }
        }
        if snapshots.changed().await.is_err() {
            servers.values().for_each(JoinHandle::abort);
            return;
        }
    }
}

/// As kube-proxy says it.
fn failed_to_listen(check: &HealthCheck, port: u16, node: &str, error: &str) -> Notice {
    Notice {
        kind: SourceKind::Service,
        key: ObjectKey { namespace: check.namespace.clone(), name: check.name.clone() },
        reason: "FailedToStartServiceHealthcheck",
        note: format!("node {node} failed to start healthcheck on port {port}: {error}"),
        local: true,
    }
}

fn start(port: u16, snapshots: watch::Receiver<Arc<Snapshot>>) -> Result<JoinHandle<()>, String> {
    const FLAG: &str = "healthCheckNodePort";
    // Both families; a node without IPv6 has only the other one.
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let four = SocketAddr::from(([0, 0, 0, 0], port));
    let reserved = reserve(FLAG, both).or_else(|_| reserve(FLAG, four)).map_err(|e| e.to_string())?;
    let listener = listen(FLAG, reserved).map_err(|e| e.to_string())?;
    let handler: Handler = Arc::new(move |_| {
        let snapshot = Arc::clone(&snapshots.borrow());
        match snapshot.health_checks.get(&port) {
            Some(check) => answer(check, health::is_healthy(&snapshot, Now::get())),
            None => Answer::not_found(),
        }
    });
    Ok(tokio::spawn(serve(listener, handler)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_balancer_is_told() {
        let check = |n| HealthCheck { namespace: "default".into(), name: "web".into(), local_endpoints: n };
        let yes = answer(&check(2), true);
        assert_eq!(yes.status, StatusCode::OK);
        let expected =
            r#"{"localEndpoints":2,"service":{"name":"web","namespace":"default"},"serviceProxyHealthy":true}"#;
        assert_eq!(yes.text, expected);
        assert_eq!(answer(&check(0), true).status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer(&check(2), false).status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn listeners_follow_the_snapshot() {
        let port = free_port();
        let checks = [(port, HealthCheck { namespace: "a".into(), name: "b".into(), local_endpoints: 1 })];
        let with = Snapshot { health_checks: Arc::new(checks.into()), ..Snapshot::default() };
        let (sender, receiver) = watch::channel(Arc::new(with));
        let task = tokio::spawn(run(receiver, Notices::default(), "n1".into()));
        let connects = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        for wanted in [true, false] {
            let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while connects() != wanted {
                assert!(std::time::Instant::now() < end, "listening: {wanted}");
                tokio::task::yield_now().await;
            }
            sender.send_replace(Arc::new(Snapshot::default()));
        }
        drop(sender);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_to_the_service() {
        let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let checks = [(port, HealthCheck { namespace: "a".into(), name: "b".into(), local_endpoints: 1 })];
        let with = Snapshot { health_checks: Arc::new(checks.into()), ..Snapshot::default() };
        let (sender, receiver) = watch::channel(Arc::new(with));
        let (notices, mut left) = crate::events::channel();
        let task = tokio::spawn(run(receiver, notices, "n1".into()));
        let notice = left.recv().await.unwrap();
        assert_eq!((notice.key.to_string(), notice.reason), ("a/b".into(), "FailedToStartServiceHealthcheck"));
        assert!(
            notice.note.starts_with(&format!("node n1 failed to start healthcheck on port {port}: ")),
            "{}",
            notice.note
        );
        drop(sender);
        task.await.unwrap();
    }

    /// A port that nobody listens on, as far as one can tell.
    fn free_port() -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }
}
