//! A minimal API server for the tests: lists and watches of collections, and single objects.
//!
//! Knows no schema. Answers lists as API servers with and without streaming lists do, and sends
//! bookmarks. Failures, missing collections and forbidden ones are set by the tests, as are the
//! faults of `faults.rs`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane_user::api::{ApiServer, Contacts};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::faults::{Fault, LIMITS};
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
    /// Answers to `sendInitialEvents`.
    streams: Streams,
}

/// What a server does with a list that is asked for as a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// Sends all objects and a bookmark.
    Yes,
    /// Knows the parameter and rejects it: Kubernetes 1.27 to 1.31 without the feature gate.
    Rejected,
    /// Sends all objects and no bookmark: before Kubernetes 1.27.
    Unknown,
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
            streams: Streams::Yes,
        }
    }
}

/// The server, which ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    /// The collection and the fault of its requests.
    fault: Arc<watch::Sender<Option<(String, Fault)>>>,
    port: u16,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { state: Arc::default(), fault: Arc::new(watch::Sender::new(None)), port };
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

    /// Returns the server as an agent knows it, with short limits.
    pub(crate) fn api(&self) -> ApiServer {
        let config = kube::Config::new(self.url().parse().unwrap());
        ApiServer { limits: LIMITS, ..ApiServer::new(config, Arc::new(Contacts::new(LIMITS.stalled))) }
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

    /// Sets how lists are answered that are asked for as watches.
    pub(crate) fn streams(&self, streams: Streams) {
        self.state.lock().unwrap().streams = streams;
    }

    /// Begins a fault of all requests for a collection, or ends it.
    pub(crate) fn fault(&self, fault: Option<(&str, Fault)>) {
        self.fault.send_replace(fault.map(|(collection, fault)| (collection.to_owned(), fault)));
    }

    /// Returns the present fault of a collection's requests.
    fn present(&self, collection: &str) -> Option<Fault> {
        self.fault.borrow().as_ref().filter(|(of, _)| of == collection).map(|(_, fault)| *fault)
    }

    /// Waits while a collection has a fault for which `is` returns true.
    async fn while_fault(&self, collection: &str, is: impl Fn(Fault) -> bool) {
        let mut faults = self.fault.subscribe();
        let over =
            |fault: &Option<(String, Fault)>| !fault.as_ref().is_some_and(|(of, fault)| of == collection && is(*fault));
        drop(faults.wait_for(over).await);
    }

    /// Changes a collection: sets its objects, and sends an event about one of them to all watches,
    /// also to those that begin later at an older version.
    pub(crate) fn publish(&self, collection: &str, objects: Vec<Value>, event: &Value) {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        state.version += 1;
        let mut event = event.clone();
        event["object"]["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.objects.insert(collection.into(), objects);
        state.events.entry(collection.into()).or_default().push((state.version, event.clone()));
        let watches = state.watches.entry(collection.into()).or_default();
        watches.retain(|watch| watch.try_send(event.clone()).is_ok());
    }

    /// Tells the watches of a collection that their version is too old.
    pub(crate) async fn expire(&self, collection: &str) {
        let status =
            json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
        self.watch_event(collection, &json!({"type": "ERROR", "object": status})).await;
    }

    /// Ends the watches of all collections.
    pub(crate) fn restart(&self) {
        self.state.lock().unwrap().watches.clear();
    }

    /// Ends all watches of a collection.
    pub(crate) fn end_watches(&self, collection: &str) {
        self.state.lock().unwrap().watches.remove(collection);
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
        server.state.lock().unwrap().queries.push(format!("{method} {target}"));
        let has = |parameter: &str| target.contains(parameter);
        let list = has("sendInitialEvents=true") || (method == "GET" && name.is_empty() && !has("watch=true"));
        // A connection that was stalled while its client gave up is useless afterwards.
        match server.present(collection) {
            Some(Fault::NoHead) => return server.while_fault(collection, |f| f == Fault::NoHead).await,
            Some(Fault::NoListHead) if list => return server.while_fault(collection, |f| f == Fault::NoListHead).await,
            Some(Fault::NoWatchHead) if !list => {
                return server.while_fault(collection, |f| f == Fault::NoWatchHead).await;
            }
            Some(Fault::Closed) => return,
            Some(Fault::Page) => {
                let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 14\r\n\r\n<html>\n</html>";
                drop(stream.write_all(page.as_bytes()).await);
                return;
            }
            _ => {}
        }
        let (status, body) = match rejected(collection, &server) {
            Some(rejected) => rejected,
            None if has("watch=true") => {
                if has("sendInitialEvents=true") && server.state.lock().unwrap().streams == Streams::Rejected {
                    failure(
                        422,
                        "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
                    )
                } else {
                    return watch(stream, collection, target, &server).await;
                }
            }
            None => answer(&Request { method, collection, name, body: &body }, &server),
        };
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let text = format!("{head}{body}");
        let cut = head.len() + body.len() / 2;
        match server.present(collection).filter(|_| list) {
            Some(fault @ (Fault::HalfList | Fault::SlowList)) => {
                if stream.write_all(&text.as_bytes()[..cut]).await.is_err() {
                    return;
                }
                return trickle(stream, &server, collection, fault).await;
            }
            Some(Fault::TruncatedList) => {
                drop(stream.write_all(&text.as_bytes()[..cut]).await);
                return;
            }
            _ => {}
        }
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Sends nothing more while the fault lasts, or a space now and then.
async fn trickle(mut stream: TcpStream, server: &Server, collection: &str, fault: Fault) {
    let over = server.while_fault(collection, |present| present == fault);
    let drops = async {
        while fault == Fault::SlowList && stream.write_all(b"1\r\n \r\n").await.is_ok() {
            tokio::time::sleep(LIMITS.read / 3).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = over => {}
        () = drops => {}
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

/// Returns the answer of a failing, forbidden or missing collection.
fn rejected(collection: &str, server: &Server) -> Option<(String, String)> {
    let mut state = server.state.lock().unwrap();
    if let Some(left) = state.failures.get_mut(collection).filter(|n| **n > 0) {
        *left -= 1;
        return Some(("500 Internal Server Error".into(), "{}".into()));
    }
    if state.forbidden.iter().any(|c| c == collection) {
        return Some(failure(403, "events.events.k8s.io is forbidden"));
    }
    if state.unknown.iter().any(|c| c == collection) {
        return Some(failure(404, "the server could not find the requested resource"));
    }
    None
}

fn failure(code: u16, message: &str) -> (String, String) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "", "code": code,
                        "message": message});
    (format!("{code} Status"), status.to_string())
}

fn answer(request: &Request<'_>, server: &Server) -> (String, String) {
    if request.method == "GET" && request.name.is_empty() {
        let state = server.state.lock().unwrap();
        let items = state.objects.get(request.collection).cloned().unwrap_or_default();
        let version = state.version.to_string();
        let list =
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items});
        return ("200 OK".into(), list.to_string());
    }
    let (status, body) = server.change(request);
    (status.into(), body.to_string())
}

fn added(object: &Value) -> Value {
    json!({"type": "ADDED", "object": object})
}

fn bookmark(version: u64, last: bool) -> Value {
    let annotations = if last { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "Bookmark", "metadata": metadata}})
}

async fn watch(mut stream: TcpStream, collection: &str, target: &str, server: &Server) {
    let (tx, mut events) = mpsc::channel(1000);
    let version = target.split(['?', '&']).find_map(|pair| pair.strip_prefix("resourceVersion=")?.parse().ok());
    let initial = target.contains("sendInitialEvents=true");
    let mut first = Vec::new();
    {
        let mut state = server.state.lock().unwrap();
        if initial {
            first.extend(state.objects.get(collection).into_iter().flatten().map(added));
            first.extend((state.streams == Streams::Yes).then(|| bookmark(state.version, true)));
        } else {
            let missed = state.events.get(collection).into_iter().flatten().filter(|(v, _)| Some(*v) > version);
            first.extend(missed.map(|(_, event)| event.clone()));
        }
        state.watches.entry(collection.into()).or_default().push(tx);
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let half = first.len() / 2;
    for (i, event) in first.into_iter().enumerate() {
        let fault = server.present(collection).filter(|_| initial && i == half);
        if let Some(fault @ (Fault::HalfList | Fault::SlowList)) = fault {
            return trickle(stream, server, collection, fault).await;
        }
        if fault == Some(Fault::TruncatedList)
            || stream.write_all(chunk(&format!("{event}\n")).as_bytes()).await.is_err()
        {
            return;
        }
    }
    loop {
        let event = tokio::select! {
            event = events.recv() => {
                let Some(event) = event else {
                    drop(stream.write_all(b"0\r\n\r\n").await);
                    return;
                };
                event
            }
            () = tokio::time::sleep(LIMITS.quiet / 2) => {
                let version = server.state.lock().unwrap().version;
                bookmark(version, false)
            }
        };
        let line = format!("{event}\n");
        match server.present(collection) {
            // The event is lost, as in a connection that is half open.
            Some(Fault::SilentWatch) => {
                server.while_fault(collection, |fault| fault == Fault::SilentWatch).await;
                return;
            }
            Some(Fault::HalfEvent) => {
                drop(stream.write_all(chunk(&line[..line.len() / 2]).as_bytes()).await);
                return server.while_fault(collection, |fault| fault == Fault::HalfEvent).await;
            }
            Some(Fault::Garbage) => {
                drop(stream.write_all(chunk("{\"type\": 7}\n").as_bytes()).await);
                return server.while_fault(collection, |fault| fault == Fault::Garbage).await;
            }
            _ if stream.write_all(chunk(&line).as_bytes()).await.is_err() => return,
            _ => {}
        }
    }
}
