//! HTTP servers at kube-proxy's addresses: metrics on one, health on another.
//!
//! Read-only and bounded: request bodies are not read, a connection gets one answer, the numbers of
//! connections and of requests that take time are limited, and slow clients are dropped, the oldest
//! first. Addresses are reserved early and listened on later, so that a second
//! agent fails before it changes anything. The contents come from [`health`], [`service_health`]
//! and [`crate::observe::metrics`].

mod connections;
pub mod health;
pub mod service_health;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1 as client_http1;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use connections::{Busy, Connections, Peer};

/// Requests that take time (metrics) and are worked on at once.
const WORKING: usize = 2;
/// Time within which a client must have sent its request.
const SLOWEST_CLIENT: Duration = Duration::from_secs(5);
/// Time from the beginning of a connection to the end of the answer.
const WHOLE_CONNECTION: Duration = Duration::from_secs(10);
/// Largest accepted answer with a proxy mode, in bytes. The server may be any program.
const MAX_MODE: usize = 64;

/// The reason why a server could not start.
#[derive(Debug, thiserror::Error)]
#[error("--{flag} {address}: {source}{advice}")]
pub struct BindError {
    flag: &'static str,
    address: SocketAddr,
    source: io::Error,
    /// The program that has the address, and how to stop it.
    advice: String,
}

/// A response to a GET request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// HTTP status: 200, 404 or 503.
    pub status: StatusCode,
    /// MIME type of the body.
    pub kind: &'static str,
    /// Text of the body.
    pub text: String,
}

impl HttpResponse {
    /// Returns a response with status 200 and plain text.
    #[must_use]
    pub const fn text(text: String) -> Self {
        Self { status: StatusCode::OK, kind: "text/plain; charset=utf-8", text }
    }

    /// Returns a response with a JSON body.
    #[must_use]
    pub const fn json(status: StatusCode, text: String) -> Self {
        Self { status, kind: "application/json", text }
    }

    /// Returns the response for an unknown path.
    #[must_use]
    pub fn not_found() -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::text("not found\n".into()) }
    }
}

/// Computes the response for a path. It may block, because it runs on a thread for blocking work;
/// except for `/healthz`, `/livez` and `/readyz`.
pub type Handler = Arc<dyn Fn(&str) -> HttpResponse + Send + Sync>;

impl BindError {
    /// Creates an error for the address of a flag.
    #[must_use]
    pub const fn new(flag: &'static str, address: SocketAddr, source: io::Error) -> Self {
        Self { flag, address, source, advice: String::new() }
    }

    /// Adds the program that has the address, and advice. Agents and kube-proxy identify themselves
    /// by `/proxyMode` at the address `metrics`.
    pub async fn explain(self, metrics: SocketAddr) -> Self {
        if self.source.kind() != io::ErrorKind::AddrInUse {
            return self;
        }
        let mode = timeout(SLOWEST_CLIENT, proxy_mode(metrics)).await.ok().and_then(Result::ok);
        Self { advice: advice(mode.as_deref()), ..self }
    }
}

fn advice(mode: Option<&str>) -> String {
    match mode {
        Some("ropeway") => "; another agent serves this node: stop it first".into(),
        Some(mode) => format!(
            "; kube-proxy ({mode}) serves this node: delete its DaemonSet, then remove its rules by `kube-proxy --cleanup` or a reboot, \
             or give this flag another address for the time of the change"
        ),
        None => "; find the listening program with `ss -lntp`, or give this flag another address".into(),
    }
}

/// Asks the proxy whose metrics are at `address` for its mode, a word such as `iptables`.
async fn proxy_mode(address: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = client_http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get("/proxyMode").header(HOST, address.to_string()).header(CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let ok = response.status() == StatusCode::OK;
        let body = Limited::new(response.into_body(), MAX_MODE).collect().await.map_err(io::Error::other)?.to_bytes();
        let is_mode = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
        if ok && !body.is_empty() && body.iter().all(is_mode) {
            Ok(String::from_utf8_lossy(&body).into_owned())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    };
    // The connection makes progress only while it is polled. Its error is the exchange's, too.
    tokio::join!(connection, exchange).1
}

/// Binds an address without listening: connections are refused until [`listen`].
///
/// `[::]` stands for all addresses of both families, whatever `net.ipv6.bindv6only` says. On a
/// kernel without IPv6 it is replaced by `0.0.0.0`.
///
/// # Errors
/// The address is taken, or it is not an address of the node.
pub fn reserve(flag: &'static str, address: SocketAddr) -> Result<(TcpSocket, SocketAddr), BindError> {
    let is_wildcard6 = address.is_ipv6() && address.ip().is_unspecified();
    let (address, taken) = match take(address, is_wildcard6) {
        Err(e) if is_wildcard6 && e.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            (address, take(address, false))
        }
        taken => (address, taken),
    };
    taken.map(|socket| (socket, address)).map_err(|source| BindError::new(flag, address, source))
}

fn take(address: SocketAddr, both_families: bool) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if both_families {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // A restarted agent must not wait for connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Listens on a reserved address.
///
/// # Errors
/// Another program listens there by now.
pub fn listen(flag: &'static str, (socket, address): (TcpSocket, SocketAddr)) -> Result<TcpListener, BindError> {
    socket.listen(128).map_err(|source| BindError::new(flag, address, source))
}

/// Answers requests until the task is dropped: one to a connection.
pub async fn serve(listener: TcpListener, handler: Handler) {
    let mut connections = Connections::default();
    let work = Work { handler, places: Arc::new(Semaphore::new(WORKING)) };
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, Peer::of(peer.ip())),
            Err(e) => {
                // Most likely out of file descriptors: wait until other connections are closed.
                warn!(error = %e, "HTTP: cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !connections.make_room(peer) {
            continue;
        }
        let (work, busy) = (work.clone(), Busy::default());
        let mark = Arc::clone(&busy);
        // Not supervised: a panic here ends one connection, and others are served.
        let task = tokio::spawn(async move {
            let service = service_fn(|request| respond(request, work.clone(), Arc::clone(&mark)));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(SLOWEST_CLIENT)
                .keep_alive(false)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(WHOLE_CONNECTION, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => debug!(error = %e, "connection ended"),
                Err(_) => debug!("connection ended: the client does not read"),
            }
        });
        connections.add(peer, busy, task.abort_handle());
    }
}

/// The handler, and the places for requests that take time.
#[derive(Clone)]
struct Work {
    handler: Handler,
    places: Arc<Semaphore>,
}

impl Work {
    async fn answer(&self, path: String, busy: &Busy) -> HttpResponse {
        let handler = Arc::clone(&self.handler);
        // Answered from memory at once, so that no other request can make a probe wait.
        if matches!(path.as_str(), "/healthz" | "/livez" | "/readyz") {
            return handler(&path);
        }
        // A request that waits here can still give way to a new connection.
        let place = self.places.acquire().await;
        busy.store(true, Ordering::Relaxed);
        // Reading metrics reads maps, which must not block an async thread.
        let answer = tokio::task::spawn_blocking(move || handler(&path)).await;
        busy.store(false, Ordering::Relaxed);
        drop(place);
        answer.unwrap_or_else(|e| HttpResponse {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            ..HttpResponse::text(format!("{e}\n"))
        })
    }
}

async fn respond(request: Request<Incoming>, work: Work, busy: Busy) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = Response::new(Full::from("only GET\n"));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let answer = work.answer(request.uri().path().to_owned(), &busy).await;
    let mut response = Response::new(Full::from(answer.text));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}
