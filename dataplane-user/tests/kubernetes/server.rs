//! As much of an API server as a watcher needs: GET of a collection, once as a list and once as an endless stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[derive(Default)]
struct State {
    objects: HashMap<String, Vec<Value>>,
    failures: HashMap<String, usize>,
    unknown: Vec<String>,
    watches: HashMap<String, mpsc::Sender<Value>>,
    queries: Vec<String>,
}

/// The server; it ends with the test's runtime.
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { state, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What a list of this collection says.
    pub(crate) fn set(&self, collection: &str, objects: Vec<Value>) {
        self.state.lock().unwrap().objects.insert(collection.into(), objects);
    }

    /// The next requests for this collection fail.
    pub(crate) fn fail(&self, collection: &str, times: usize) {
        self.state.lock().unwrap().failures.insert(collection.into(), times);
    }

    /// There is no such collection.
    pub(crate) fn lack(&self, collection: &str) {
        self.state.lock().unwrap().unknown.push(collection.into());
    }

    pub(crate) fn queries(&self) -> Vec<String> {
        self.state.lock().unwrap().queries.clone()
    }

    /// Sends an event to whoever watches, when somebody does.
    pub(crate) async fn watch_event(&self, collection: &str, event: &Value) {
        for _ in 0..1000 {
            let watch = self.state.lock().unwrap().watches.get(collection).cloned();
            if let Some(watch) = watch
                && watch.send(event.clone()).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody watches {collection}");
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut buffer = Vec::new();
    loop {
        while !buffer.windows(4).any(|w| w == b"\r\n\r\n") {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).await {
                Ok(n) if n > 0 => buffer.extend_from_slice(&chunk[..n]),
                _ => return,
            }
        }
        let text = String::from_utf8_lossy(&buffer).into_owned();
        buffer.clear();
        let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let path = target.split('?').next().unwrap_or_default();
        let collection = path.rsplit('/').next().unwrap_or_default().to_owned();
        if target.contains("watch=true") {
            return watch(stream, &collection, &state).await;
        }
        let (status, body) = answer(&collection, &target, &state);
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(collection: &str, target: &str, state: &Mutex<State>) -> (&'static str, String) {
    let mut state = state.lock().unwrap();
    state.queries.push(target.to_owned());
    if let Some(left) = state.failures.get_mut(collection).filter(|n| **n > 0) {
        *left -= 1;
        return ("500 Internal Server Error", "{}".into());
    }
    if state.unknown.iter().any(|c| c == collection) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                            "message": "the server could not find the requested resource"});
        return ("404 Not Found", status.to_string());
    }
    let items = state.objects.get(collection).cloned().unwrap_or_default();
    (
        "200 OK",
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "10"}, "items": items}).to_string(),
    )
}

async fn watch(mut stream: TcpStream, collection: &str, state: &Mutex<State>) {
    let (tx, mut events) = mpsc::channel(10);
    state.lock().unwrap().watches.insert(collection.into(), tx);
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
