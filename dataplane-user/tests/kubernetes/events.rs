//! Tests of Events on Services against the test API server.
//!
//! Each agent is the event task alone, fed with snapshots by the test.

use std::sync::Arc;
use std::time::Duration;

use dataplane_user::observe::events::{self, Notice};
use dataplane_user::proxy::controller::Snapshot;
use dataplane_user::proxy::source::{Cause, ObjectKey, ObjectKind, Rejection};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::server::Server;

const SOON: Duration = Duration::from_secs(20);

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn conflict(name: &str, reason: &str) -> Rejection {
    Rejection::of(ObjectKind::Service, &key(name), "spec.ports", reason).because(Cause::AddressConflict)
}

fn faults(list: &[Rejection]) -> Arc<Snapshot> {
    Arc::new(Snapshot { rejections: list.into(), ..Snapshot::default() })
}

async fn server() -> Server {
    let server = Server::start().await;
    let meta = |name: &str| json!({"metadata": {"name": name, "namespace": "shop", "uid": format!("uid-of-{name}")}});
    server.set("services", vec![meta("web"), meta("api")]);
    server
}

fn agent(server: &Server, node: &str) -> (watch::Sender<Arc<Snapshot>>, events::Notices) {
    let (snapshots, receiver) = watch::channel(Arc::default());
    let (notices, queue) = events::channel();
    let servers = vec![kube::Config::new(server.url().parse().unwrap())];
    let nodes = watch::channel(Arc::default()).1;
    tokio::spawn(events::run(servers, node.into(), receiver, queue, nodes));
    (snapshots, notices)
}

/// Waits until the server has this many Events, and returns all.
async fn wait_for_events(server: &Server, count: usize) -> Vec<Value> {
    until(|| server.get("events").len() >= count).await;
    server.get("events")
}

/// Returns the number of requests to create an Event.
fn attempts(server: &Server) -> usize {
    server.queries().iter().filter(|q| q.starts_with("POST ") && q.contains("/namespaces/shop/events")).count()
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap();
}

#[tokio::test]
async fn rejected_service_gets_one_event_for_all_nodes() {
    let server = server().await;
    let (n1, n2) = (agent(&server, "n1"), agent(&server, "n2"));
    let reason = "203.0.113.1 port 80 is taken by Service shop/old";
    n1.0.send_replace(faults(&[conflict("web", reason), conflict("gone", reason)]));
    let event = wait_for_events(&server, 1).await.remove(0);
    assert_eq!(event["note"], format!("spec.ports: {reason}"));
    assert_eq!((&event["reason"], &event["type"]), (&json!("AddressConflict"), &json!("Warning")));
    let regarding =
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "uid-of-web"});
    assert_eq!(event["regarding"], regarding);
    n2.0.send_replace(faults(&[conflict("web", reason)]));
    until(|| attempts(&server) == 2).await;
    n2.1.publish(Notice {
        kind: ObjectKind::Service,
        key: key("api"),
        reason: "FailedToStartServiceHealthcheck",
        note: "node n2 failed to start healthcheck on port 30000: in use".into(),
        local: true,
    });
    let events = wait_for_events(&server, 2).await;
    assert_eq!(events.len(), 2, "one for all nodes, and none for a deleted Service: {events:?}");
    assert_eq!(events[1]["reportingInstance"], "n2");
}

#[tokio::test]
async fn forbidden_events_do_not_stop_later_ones() {
    let server = server().await;
    server.forbid("events", true);
    let (snapshots, _notices) = agent(&server, "n1");
    snapshots.send_replace(faults(&[conflict("web", "first")]));
    until(|| attempts(&server) == 1).await;
    server.forbid("events", false);
    snapshots.send_replace(faults(&[conflict("web", "second")]));
    assert_eq!(wait_for_events(&server, 1).await[0]["note"], "spec.ports: second");
    assert_eq!(attempts(&server), 2, "a rejected Event is not retried");
}
