//! Tests of the HTTP servers: responses, rejected requests, and addresses that are taken.
//!
//! Each test listens on a free port of the loopback interface.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::*;

async fn ask(address: SocketAddr, request: &str) -> String {
    let request = request.to_owned();
    let exchange = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

#[tokio::test]
async fn get_is_answered_and_other_methods_are_rejected() {
    let reserved = reserve("metrics-bind-address", ([127, 0, 0, 1], 0).into()).unwrap();
    let address = reserved.0.local_addr().unwrap();
    assert!(TcpStream::connect(address).is_err(), "reserved addresses do not accept connections");
    let listener = listen("metrics-bind-address", reserved).unwrap();
    let handler: Handler = Arc::new(|path| match path {
        "/proxyMode" => HttpResponse::text("ropeway".into()),
        _ => HttpResponse::not_found(),
    });
    let server = tokio::spawn(serve(listener, handler));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = ask(address, &get("/proxyMode?x=1")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nropeway"), "{answer}");
    assert!(ask(address, &get("/none")).await.starts_with("HTTP/1.1 404"));
    let put = get("/proxyMode").replace("GET", "PUT");
    assert!(ask(address, &put).await.starts_with("HTTP/1.1 405"));
    assert!(ask(address, "what\r\n\r\n").await.starts_with("HTTP/1.1 400"));

    let taken = reserve("metrics-bind-address", address).unwrap_err();
    assert!(
        taken.to_string().starts_with(&format!("--metrics-bind-address {address}: Address already in use")),
        "{taken}"
    );
    let taken = taken.explain(address).await.to_string();
    assert!(taken.ends_with("; another agent serves this node: stop it first"), "{taken}");
    server.abort();
}

#[tokio::test]
async fn kube_proxy_at_the_address_is_named() {
    let reserved = reserve("metrics-bind-address", ([127, 0, 0, 1], 0).into()).unwrap();
    let address = reserved.0.local_addr().unwrap();
    let listener = listen("metrics-bind-address", reserved).unwrap();
    let server = tokio::spawn(serve(listener, Arc::new(|_: &str| HttpResponse::text("iptables".into()))));
    let taken = reserve("metrics-bind-address", address).unwrap_err().explain(address).await.to_string();
    assert!(taken.contains("; kube-proxy (iptables) serves this node: delete its DaemonSet"), "{taken}");
    server.abort();

    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = silent.local_addr().unwrap();
    std::thread::spawn(move || drop(silent.accept()));
    let taken = reserve("healthz-bind-address", address).unwrap_err().explain(address).await.to_string();
    assert!(
        taken.ends_with("; find the listening program with `ss -lntp`, or give this flag another address"),
        "{taken}"
    );
}

/// Starts a server that answers "ok" at once, and "slow" after a while except for health checks.
fn start() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let reserved = reserve("healthz-bind-address", ([127, 0, 0, 1], 0).into()).unwrap();
    let address = reserved.0.local_addr().unwrap();
    let listener = listen("healthz-bind-address", reserved).unwrap();
    let handler: Handler = Arc::new(|path| match path {
        "/livez" => HttpResponse::text("ok".into()),
        _ => HttpResponse::text("a long line of a metric\n".repeat(100_000)),
    });
    (address, tokio::spawn(serve(listener, handler)))
}

/// Asks for `/livez` several times; each answer must come at once.
async fn check_probes(address: SocketAddr) {
    for _ in 0..8 {
        let begin = Instant::now();
        let answer = ask(address, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        assert!(begin.elapsed() < Duration::from_secs(1), "after {:?}", begin.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_delay_probes() {
    let (address, server) = start();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).unwrap());
    }
    check_probes(address).await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_do_not_delay_probes() {
    let (address, server) = start();
    let mut deaf = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20).as_bytes()).unwrap();
        deaf.push(stream);
    }
    check_probes(address).await;
    server.abort();
}

#[tokio::test]
async fn wildcard_address_serves_both_families() {
    let reserved = reserve("healthz-bind-address", "[::]:0".parse().unwrap()).unwrap();
    let port = reserved.0.local_addr().unwrap().port();
    let listener = listen("healthz-bind-address", reserved).unwrap();
    let server = tokio::spawn(serve(listener, Arc::new(|_: &str| HttpResponse::text("ok".into()))));
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let answer = ask(address.parse().unwrap(), "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.ends_with("\r\n\r\nok"), "{address}: {answer}");
    }
    server.abort();
}

#[tokio::test]
async fn silent_client_is_disconnected() {
    let (address, server) = start();
    let begin = Instant::now();
    ask(address, "GET /livez HTTP/1.1\r\n").await;
    assert!(begin.elapsed() < SLOWEST_CLIENT + Duration::from_secs(4), "{:?}", begin.elapsed());
    server.abort();
}
