//! Test of the memory that lists of hostile objects take: alone in its process, whose peak it
//! reads.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dataplane_user::api::{ApiServer, Contacts};
use dataplane_user::proxy::source::{ObjectKind, SourceEvent, kubernetes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Services in a list, each with an annotation of a MiB.
const SERVICES: usize = 50;
/// Most growth of the peak in MiB: an eighth of what the agent may allocate.
const MOST: usize = 64;

/// Returns the process's peak of resident memory in MiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() / 1024
}

/// Answers a request. Objects are made while they are sent, so that the server needs no memory.
/// `streams`: lists are sent as watches.
async fn serve(mut stream: TcpStream, streams: bool) -> io::Result<()> {
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        request.push(stream.read_u8().await?.into());
    }
    let line = request.lines().next().unwrap_or_default();
    let watch = line.contains("watch=true");
    let list = !watch || line.contains("sendInitialEvents=true");
    if watch && list && !streams {
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":422,"message":"no WatchList"}"#;
        let head = format!("HTTP/1.1 422 Unprocessable Entity\r\nContent-Length: {}\r\n\r\n", status.len());
        return stream.write_all((head + status).as_bytes()).await;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n").await?;
    let bomb = "x".repeat(1 << 20);
    if !watch {
        stream.write_all(b"{\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[").await?;
    }
    let services = if list && line.contains("/services?") { SERVICES } else { 0 };
    for n in 0..services {
        let metadata = format!("{{\"name\":\"s{n}\",\"namespace\":\"shop\",\"annotations\":{{\"bomb\":\"{bomb}\"}}}}");
        let object = format!("{{\"metadata\":{metadata},\"spec\":{{\"clusterIP\":\"10.96.0.1\"}}}}");
        let text = match (watch, n) {
            (true, _) => format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n"),
            (false, 0) => object,
            (false, _) => format!(",{object}"),
        };
        stream.write_all(text.as_bytes()).await?;
    }
    if !watch {
        return stream.write_all(b"]}").await;
    }
    if list {
        let end = "{\"resourceVersion\":\"7\",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}";
        let object = format!("{{\"kind\":\"Any\",\"apiVersion\":\"v1\",\"metadata\":{end}}}");
        stream.write_all(format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n").as_bytes()).await?;
    }
    std::future::pending().await
}

async fn list(streams: bool) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, streams));
        }
    });
    let (sender, mut events) = mpsc::channel(1024);
    let api = ApiServer::new(kube::Config::new(url.parse().unwrap()), Arc::new(Contacts::default()));
    let source = tokio::spawn(async move { Box::pin(kubernetes::run(&api, "n1", true, sender)).await });
    let mut services = 0;
    while let Some(event) = events.recv().await {
        match event {
            SourceEvent::Service(_, Some(_)) => services += 1,
            SourceEvent::InSync(ObjectKind::Service) => break,
            SourceEvent::WatchError(kind @ ObjectKind::Service, error) => panic!("{kind}: {error}"),
            _ => {}
        }
    }
    source.abort();
    server.abort();
    services
}

#[tokio::test]
async fn list_of_huge_objects_takes_little_memory() {
    let before = peak();
    for streams in [true, false] {
        let services = timeout(Duration::from_secs(120), list(streams)).await.unwrap();
        assert_eq!(services, SERVICES);
        let growth = peak() - before;
        println!("streams: {streams}, {SERVICES} MiB of objects: peak {before} MiB before, {growth} MiB more");
        assert!(growth <= MOST, "{growth} MiB");
    }
}
