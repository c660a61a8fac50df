//! A minimal API server for the tests: lists and endless watches of collections, and single
//! objects.
//!
//! Knows no schema. Failures, missing collections and forbidden ones are set by the tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::objects::{self, Request};

struct State {
    objects: HashMap<String, Vec<Value>>,
    failures: HashMap<String, usize>,
    unknown: Vec<String>,
    forbidden: Vec<String>,
    watches: HashMap<String, Vec<mpsc::Sender<Value>>>,
    queries: Vec<String>,
    /// Watch events by version, for watches that start after a list.
    events: HashMap<String, Vec<(u64, Value)>>,
    version: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            failures: HashMap::new(),
            unknown: Vec::new(),
            forbidden: Vec::new(),
            watches: HashMap::new(),
            queries: Vec::new(),
            events: HashMap::new(),
            version: 10,
        }
    }
}

/// The server, which ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { state: Arc::default(), port };
        let shared = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets the objects that a list of this collection returns.
    pub(crate) fn set(&self, collection: &str, objects: Vec<Value>) {
        self.state.lock().unwrap().objects.insert(collection.into(), objects);
    }

    /// Returns the objects of a collection.
    pub(crate) fn get(&self, collection: &str) -> Vec<Value> {
        self.state.lock().unwrap().objects.get(collection).cloned().unwrap_or_default()
    }

    /// Lets the next requests for this collection fail with status 500.
    pub(crate) fn fail(&self, collection: &str, times: usize) {
        self.state.lock().unwrap().failures.insert(collection.into(), times);
    }

    /// Lets requests for this collection fail with status 404.
    pub(crate) fn lack(&self, collection: &str) {
        self.state.lock().unwrap().unknown.push(collection.into());
    }

    /// Lets requests for this collection fail with status 403, or ends that.
    pub(crate) fn forbid(&self, collection: &str, forbidden: bool) {
        let all = &mut self.state.lock().unwrap().forbidden;
        all.retain(|c| c != collection);
        all.extend(forbidden.then(|| collection.to_owned()));
    }

    pub(crate) fn queries(&self) -> Vec<String> {
        self.state.lock().unwrap().queries.clone()
    }

    /// Sends an event to the latest watch of the collection, and waits for one if there is none.
    pub(crate) async fn watch_event(&self, collection: &str, event: &Value) {
        for _ in 0..1000 {
            let watches = self.state.lock().unwrap().watches.get(collection).cloned().unwrap_or_default();
            if let Some(watch) = watches.last()
                && watch.send(event.clone()).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no watch of {collection}");
    }

    /// Executes a request for a single object and notifies the watches.
    pub(crate) fn change(&self, request: &Request<'_>) -> (&'static str, Value) {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let objects = state.objects.entry(request.collection.into()).or_default();
        let answer = objects::answer(request, objects, &mut state.version);
        if let Some(event) = &answer.event {
            state.events.entry(request.collection.into()).or_default().push((state.version, event.clone()));
            let watches = state.watches.entry(request.collection.into()).or_default();
            watches.retain(|watch| watch.try_send(event.clone()).is_ok());
        }
        (answer.status, answer.body)
    }
}

async fn serve(mut stream: TcpStream, server: Server) {
    let mut buffer = Vec::new();
    loop {
        let Some((head, body)) = read(&mut stream, &mut buffer).await else { return };
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path: Vec<_> = target.split('?').next().unwrap_or_default().split('/').collect();
        // /api/v1/nodes and /apis/GROUP/VERSION/nodes, with an optional name. Namespaces are
        // ignored.
        let prefix = if path.get(1) == Some(&"api") { 3 } else { 4 };
        let prefix =
            if path.get(prefix) == Some(&"namespaces") && path.len() > prefix + 2 { prefix + 2 } else { prefix };
        let (collection, name) = match path.get(prefix..) {
            Some([collection]) => (*collection, ""),
            Some([collection, name]) => (*collection, *name),
            _ => panic!("{target}"),
        };
        if target.contains("watch=true") {
            return watch(stream, collection, target, &server).await;
        }
        let (status, body) = answer(&Request { method, collection, name, body: &body }, target, &server);
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads head and body of the next request; `None` if the connection has ended.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let field = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok();
            let length: usize = head.lines().find_map(field).unwrap_or(0);
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Some((head, body));
            }
        }
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => buffer.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
}

fn answer(request: &Request<'_>, target: &str, server: &Server) -> (&'static str, String) {
    {
        let mut state = server.state.lock().unwrap();
        state.queries.push(format!("{} {target}", request.method));
        if let Some(left) = state.failures.get_mut(request.collection).filter(|n| **n > 0) {
            *left -= 1;
            return ("500 Internal Server Error", "{}".into());
        }
        if state.forbidden.iter().any(|c| c == request.collection) {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
                                "message": "events.events.k8s.io is forbidden"});
            return ("403 Forbidden", status.to_string());
        }
        if state.unknown.iter().any(|c| c == request.collection) {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                                "message": "the server could not find the requested resource"});
            return ("404 Not Found", status.to_string());
        }
        if request.method == "GET" && request.name.is_empty() {
            let items = state.objects.get(request.collection).cloned().unwrap_or_default();
            let version = state.version.to_string();
            let list =
                json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items});
            return ("200 OK", list.to_string());
        }
    }
    let (status, body) = server.change(request);
    (status, body.to_string())
}

async fn watch(mut stream: TcpStream, collection: &str, target: &str, server: &Server) {
    let (tx, mut events) = mpsc::channel(1000);
    let version = target.split(['?', '&']).find_map(|pair| pair.strip_prefix("resourceVersion=")?.parse().ok());
    {
        let mut state = server.state.lock().unwrap();
        let missed = state.events.get(collection).into_iter().flatten().filter(|(v, _)| Some(*v) > version);
        missed.for_each(|(_, event)| tx.try_send(event.clone()).unwrap());
        state.watches.entry(collection.into()).or_default().push(tx);
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    while let Some(event) = events.recv().await {
        let line = format!("{event}\n");
        if stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.is_err() {
            return;
        }
    }
}
