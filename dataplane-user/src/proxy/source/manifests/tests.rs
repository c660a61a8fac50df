//! Tests of the manifest source on a temporary directory.
//!
//! Each test writes, renames or removes files and compares the events as text.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::run;
use crate::proxy::source::{ObjectKind, SourceEvent};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
";

const SLICE: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.5]}]
";

struct Source {
    directory: TempDir,
    events: mpsc::Receiver<SourceEvent>,
}

/// Describes an event as text.
fn word(event: &SourceEvent) -> String {
    match event {
        SourceEvent::Service(key, object) => format!("service {key} {}", object.is_some()),
        SourceEvent::Slice(key, object) => format!("slice {key} {}", object.is_some()),
        SourceEvent::Node(name, object) => format!("node {name} {}", object.is_some()),
        SourceEvent::ServiceCidr(name, ranges) => format!("service range {name} {}", ranges.is_some()),
        SourceEvent::ApiServers(addresses) => format!("API servers {addresses:?}"),
        SourceEvent::Relist(kind) => format!("relist {kind}"),
        SourceEvent::InSync(kind) => format!("in sync {kind}"),
        SourceEvent::Rejected(rejection) => rejection.to_string(),
        SourceEvent::Cleared(path) => format!("cleared {}", path.display()),
        SourceEvent::WatchError(kind, error) => format!("error {kind}: {error}"),
    }
}

impl Source {
    /// Starts the source on a directory with these files and waits for the initial state.
    async fn start(files: &[(&str, &str)]) -> (Self, Vec<String>) {
        let directory = TempDir::new().unwrap();
        files.iter().for_each(|(name, text)| fs::write(directory.path().join(name), text).unwrap());
        let (tx, events) = mpsc::channel(100);
        let path = directory.path().to_owned();
        tokio::spawn(async move { run(path, "n1", tx).await });
        let mut source = Self { directory, events };
        let mut seen = Vec::new();
        while seen.last() != Some(&format!("in sync {}", ObjectKind::ServiceCidr)) {
            seen.push(source.next().await);
        }
        let objects = seen.into_iter().filter(|s| !s.starts_with("relist") && !s.starts_with("in sync"));
        (source, objects.collect())
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the next event, without the directory's path.
    async fn next(&mut self) -> String {
        let event = timeout(Duration::from_secs(10), self.events.recv()).await.unwrap().unwrap();
        word(&event).replace(&format!("{}/", self.path().display()), "")
    }

    async fn next_but_cleared(&mut self) -> String {
        loop {
            let next = self.next().await;
            if !next.starts_with("cleared") {
                return next;
            }
        }
    }
}

#[tokio::test]
async fn initial_state_is_complete_then_changes_follow() {
    let both = format!("{SERVICE}---\n{SLICE}");
    let (mut source, seen) = Source::start(&[("a.yaml", &both), ("notes.txt", "no"), (".hidden.yaml", "no")]).await;
    assert_eq!(seen, ["cleared a.yaml", "service shop/web true", "slice shop/web-1 true"]);
    fs::write(source.path().join("a.yaml"), SERVICE).unwrap();
    assert_eq!(source.next_but_cleared().await, "service shop/web true");
    assert_eq!(source.next_but_cleared().await, "slice shop/web-1 false");
    fs::remove_file(source.path().join("a.yaml")).unwrap();
    assert_eq!(source.next_but_cleared().await, "service shop/web false");
}

#[tokio::test]
async fn renamed_file_is_read() {
    let (mut source, _) = Source::start(&[]).await;
    fs::write(source.path().join(".new"), SERVICE).unwrap();
    fs::rename(source.path().join(".new"), source.path().join("web.yml")).unwrap();
    assert_eq!(source.next_but_cleared().await, "service shop/web true");
    fs::rename(source.path().join("web.yml"), source.path().join("away")).unwrap();
    assert_eq!(source.next_but_cleared().await, "service shop/web false");
}

#[tokio::test]
async fn invalid_file_is_reported_and_its_last_valid_state_stays() {
    let (mut source, _) = Source::start(&[("web.yaml", SERVICE)]).await;
    let cases = [
        ("spec: [", "web.yaml, document 1: "),
        ("kind: Service", "web.yaml, document 1, apiVersion: is missing; every Kubernetes object has it"),
        ("- 1", "web.yaml, document 1, kind: is missing; every Kubernetes object has it"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop}",
            "web.yaml, document 1, metadata.name: is missing",
        ),
        (
            "apiVersion: v2\nkind: Service\nmetadata: {name: web}",
            "web.yaml, document 1, apiVersion: \"v2\" is not a supported version of Service",
        ),
    ];
    for (text, wanted) in cases {
        fs::write(source.path().join("web.yaml"), text).unwrap();
        let message = source.next().await;
        assert!(message.starts_with(wanted), "{message}");
    }
    let second = format!("{SERVICE}---\n{}", SERVICE.replace("80", "eighty"));
    fs::write(source.path().join("web.yaml"), second).unwrap();
    let message = source.next().await;
    assert!(
        message.starts_with("web.yaml, document 2, spec.ports[0].port: invalid type: string \"eighty\""),
        "{message}"
    );
    fs::write(source.path().join("web.yaml"), SERVICE).unwrap();
    assert_eq!(source.next().await, "cleared web.yaml");
    assert_eq!(source.next().await, "service shop/web true");
}

#[tokio::test]
async fn lists_and_json_are_read_and_other_kinds_are_skipped() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"clusterIP": "10.96.0.1"}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}]}
        {"apiVersion": "v1", "kind": "NodeList", "items": [{"metadata": {"name": "n1"}}]}"#;
    let (mut source, seen) = Source::start(&[("all.json", list)]).await;
    assert_eq!(seen, ["cleared all.json", "service default/a true", "node n1 true"]);
    let bad = r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "a"}, "spec": {"ports": [{"port": true}]}}]}"#;
    fs::write(source.path().join("all.json"), bad).unwrap();
    let message = source.next().await;
    assert!(
        message.starts_with("all.json, document 1, items[0].spec.ports[0].port: invalid type: boolean"),
        "{message}"
    );
}

#[tokio::test]
async fn object_in_two_files_belongs_to_the_first() {
    let other = SERVICE.replace("10.96.0.1", "10.96.0.2");
    let (mut source, seen) = Source::start(&[("a.yaml", SERVICE), ("b.yaml", &other)]).await;
    let path = source.path().display().to_string();
    let twice = format!("b.yaml, document 1, metadata.name: Service shop/web is already defined in {path}/a.yaml");
    assert_eq!(seen.last().unwrap().replace("in a.yaml", &format!("in {path}/a.yaml")), twice);
    fs::remove_file(source.path().join("a.yaml")).unwrap();
    assert_eq!(source.next_but_cleared().await, "service shop/web false");
    assert_eq!(source.next_but_cleared().await, "service shop/web true");
}

#[tokio::test]
async fn files_behind_a_switched_link_are_read() {
    let (mut source, _) = Source::start(&[]).await;
    let at = |name: &str| source.directory.path().join(name);
    fs::create_dir(at("..v1")).unwrap();
    fs::write(at("..v1").join("web.yaml"), SERVICE).unwrap();
    std::os::unix::fs::symlink("..v1", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/web.yaml", at("web.yaml")).unwrap();
    assert_eq!(source.next_but_cleared().await, "service shop/web true");
    let at = |name: &str| source.directory.path().join(name);
    fs::create_dir(at("..v2")).unwrap();
    fs::write(at("..v2").join("web.yaml"), SERVICE.replace("web", "api")).unwrap();
    std::os::unix::fs::symlink("..v2", at("..tmp")).unwrap();
    fs::rename(at("..tmp"), at("..data")).unwrap();
    let mut seen = vec![source.next_but_cleared().await];
    while !seen.contains(&"service shop/web false".to_owned()) {
        seen.push(source.next_but_cleared().await);
    }
    assert!(seen.contains(&"service shop/api true".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn missing_directory_is_named() {
    let (tx, _events) = mpsc::channel(1);
    let error = run("/nonexistent/manifests".into(), "n1", tx).await.unwrap_err();
    assert!(error.to_string().starts_with("manifest directory /nonexistent/manifests: "), "{error}");
}
