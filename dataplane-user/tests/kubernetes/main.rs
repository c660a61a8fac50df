//! Tests of the Kubernetes source, of pool mode and of Events against a small API server in this
//! process.
//!
//! Covers lists, watches, lost connections, expired resource versions and conflicts of writers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures, reason = "a test")]

mod events;
mod faults;
mod objects;
mod pools;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane_user::api::Contacts;
use dataplane_user::proxy::source::{ObjectKind, SourceEvent, kubernetes};
use serde_json::{Value, json};
use server::Server;
use tokio::sync::mpsc;
use tokio::time::timeout;

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop", "resourceVersion": "5"},
           "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}})
}

fn slice(name: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
           "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}, "resourceVersion": "5"},
           "endpoints": [{"addresses": ["10.1.0.5"], "nodeName": "n1"}], "ports": [{"port": 8080}]})
}

fn service_cidr() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes", "resourceVersion": "5"},
           "spec": {"cidrs": ["10.96.0.0/16"]}})
}

struct Source {
    server: Server,
    events: mpsc::Receiver<SourceEvent>,
    contacts: Arc<Contacts>,
}

impl Source {
    async fn start(services: &[&str]) -> Self {
        Self::begin(Server::start().await, services)
    }

    /// Starts a source of a server with these Services and one object of each other kind.
    fn begin(server: Server, services: &[&str]) -> Self {
        server.set("services", services.iter().map(|n| service(n)).collect());
        server.set("endpointslices", vec![slice("web-1")]);
        server.set("nodes", vec![json!({"metadata": {"name": "n1", "resourceVersion": "5"}})]);
        server.set("pods", Vec::new());
        server.set("servicecidrs", vec![service_cidr()]);
        Self::of(server, true)
    }

    fn of(server: Server, services: bool) -> Self {
        let (tx, events) = mpsc::channel(100);
        let api = server.api();
        let contacts = Arc::clone(&api.contacts);
        tokio::spawn(async move { kubernetes::run(&api, "n1", services, tx).await });
        Self { server, events, contacts }
    }

    /// Waits until a kind is in sync.
    async fn sync(&mut self, kind: ObjectKind) {
        while self.next(kind).await != "in sync" {}
    }

    /// Waits until all kinds are in sync.
    async fn sync_all(&mut self) {
        let mut missing: Vec<_> = ObjectKind::ALL.into();
        while !missing.is_empty() {
            if let SourceEvent::InSync(kind) =
                timeout(Duration::from_secs(20), self.events.recv()).await.unwrap().unwrap()
            {
                missing.retain(|of| *of != kind);
            }
        }
    }

    fn is_stalled(&self, kind: &str) -> bool {
        self.contacts.stalled(Instant::now()).iter().any(|stall| stall.kind == kind)
    }

    /// Drops the events of a time.
    async fn pass(&mut self, time: Duration) {
        let drops = async { while self.events.recv().await.is_some() {} };
        drop(timeout(time, drops).await);
    }

    /// Returns the next event about a kind as text. Events about other kinds are dropped.
    async fn next(&mut self, kind: ObjectKind) -> String {
        loop {
            let event = timeout(Duration::from_secs(20), self.events.recv()).await.unwrap().unwrap();
            let (of, word) = match event {
                SourceEvent::Service(key, object) => (ObjectKind::Service, format!("{key} {}", object.is_some())),
                SourceEvent::Slice(key, object) => (ObjectKind::Slice, format!("{key} {}", object.is_some())),
                SourceEvent::Node(name, object) => (ObjectKind::Node, format!("{name} {}", object.is_some())),
                SourceEvent::ServiceCidr(name, ranges) => (ObjectKind::ServiceCidr, format!("{name} {ranges:?}")),
                SourceEvent::Relist(kind) => (kind, "relist".into()),
                SourceEvent::InSync(kind) => (kind, "in sync".into()),
                SourceEvent::WatchError(kind, _) => (kind, "watch error".into()),
                other => panic!("{other:?}"),
            };
            if of == kind {
                return word;
            }
        }
    }

    async fn expect(&mut self, kind: ObjectKind, words: &[&str]) {
        for word in words {
            assert_eq!(self.next(kind).await, *word);
        }
    }
}

#[tokio::test]
async fn complete_list_comes_first_then_changes() {
    let mut source = Source::start(&["web", "api"]).await;
    source.expect(ObjectKind::Service, &["relist", "shop/web true", "shop/api true", "in sync"]).await;
    source.server.watch_event("services", &json!({"type": "MODIFIED", "object": service("web")})).await;
    source.server.watch_event("services", &json!({"type": "DELETED", "object": service("api")})).await;
    source.expect(ObjectKind::Service, &["shop/web true", "shop/api false"]).await;
}

#[tokio::test]
async fn slices_and_nodes_are_listed_with_label_selectors() {
    let mut source = Source::start(&[]).await;
    source.expect(ObjectKind::Slice, &["relist", "shop/web-1 true", "in sync"]).await;
    let queries = source.server.queries();
    let of = |kind: &str| queries.iter().find(|q| q.contains(&format!("/{kind}?"))).unwrap().clone();
    assert!(
        of("endpointslices").contains(
            "labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name"
        ),
        "{queries:?}"
    );
    assert!(of("services").contains("labelSelector=%21service.kubernetes.io%2Fservice-proxy-name"), "{queries:?}");
    let mut source = Source::start(&[]).await;
    source.expect(ObjectKind::Node, &["relist", "n1 true", "in sync"]).await;
}

#[tokio::test]
async fn service_cidrs_are_read_if_the_server_has_them() {
    let mut source = Source::start(&[]).await;
    let ranges = "kubernetes Some([V4(Ipv4Network { addr: 10.96.0.0, prefix: 16 })])";
    source.expect(ObjectKind::ServiceCidr, &["relist", ranges, "in sync"]).await;

    let server = Server::start().await;
    server.lack("servicecidrs");
    let mut old = Source::of(server, true);
    old.expect(ObjectKind::ServiceCidr, &["relist", "in sync"]).await;
}

#[tokio::test]
async fn no_services_are_read_beside_another_proxy() {
    let server = Server::start().await;
    server.set("services", vec![service("web")]);
    for kind in ["endpointslices", "nodes", "pods"] {
        server.set(kind, Vec::new());
    }
    let mut source = Source::of(server, false);
    source.expect(ObjectKind::Service, &["relist", "in sync"]).await;
}

#[tokio::test]
async fn expired_resource_version_causes_a_relist() {
    let mut source = Source::start(&["web", "api"]).await;
    source.expect(ObjectKind::Service, &["relist", "shop/web true", "shop/api true", "in sync"]).await;
    source.server.set("services", vec![service("api")]);
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}});
    source.server.watch_event("services", &gone).await;
    source.expect(ObjectKind::Service, &["watch error", "relist", "shop/api true", "in sync"]).await;
}

#[tokio::test]
async fn failing_server_is_retried() {
    let server = Server::start().await;
    server.fail("services", 2);
    server.set("services", vec![service("web")]);
    for kind in ["endpointslices", "nodes", "pods"] {
        server.set(kind, Vec::new());
    }
    let mut source = Source::of(server, true);
    let mut words = Vec::new();
    while words.last().is_none_or(|w| w != "in sync") {
        words.push(source.next(ObjectKind::Service).await);
    }
    assert!(words.contains(&"watch error".to_owned()), "{words:?}");
    assert_eq!(words[words.len() - 2], "shop/web true", "{words:?}");
}
