//! The HTTP endpoints that users of kube-proxy know: metrics on one address, health on another.
//!
//! Read-only, small and bounded: no request has a body that is read, few connections at once, a slow client is dropped.
//! Nothing here decides anything; see [`health`] and [`crate::observe::metrics`] for what is said.

pub mod health;
pub mod service_health;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

const CONNECTIONS: usize = 64;
const SLOWEST_CLIENT: Duration = Duration::from_secs(5);

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[error("--{flag} {address}: {source}{advice}")]
pub struct BindError {
    flag: &'static str,
    address: SocketAddr,
    source: io::Error,
    /// Who is there, and what to do about it.
    advice: String,
}

/// What is sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// 200, 404 or 503.
    pub status: StatusCode,
    /// MIME type.
    pub kind: &'static str,
    /// The body.
    pub text: String,
}

impl HttpResponse {
    /// Success with plain text.
    #[must_use]
    pub const fn text(text: String) -> Self {
        Self { status: StatusCode::OK, kind: "text/plain; charset=utf-8", text }
    }

    /// JSON.
    #[must_use]
    pub const fn json(status: StatusCode, text: String) -> Self {
        Self { status, kind: "application/json", text }
    }

    /// There is no such path.
    #[must_use]
    pub fn not_found() -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::text("not found\n".into()) }
    }
}

/// Gives the answer for a path.
pub type Handler = Arc<dyn Fn(&str) -> HttpResponse + Send + Sync>;

impl BindError {
    /// For the address of a flag.
    #[must_use]
    pub const fn new(flag: &'static str, address: SocketAddr, source: io::Error) -> Self {
        Self { flag, address, source, advice: String::new() }
    }

    /// Finds out who has the address: an agent and a kube-proxy tell it by `/proxyMode` at `metrics`.
    pub async fn explain(self, metrics: SocketAddr) -> Self {
        if self.source.kind() != io::ErrorKind::AddrInUse {
            return self;
        }
        let mode = tokio::time::timeout(SLOWEST_CLIENT, proxy_mode(metrics)).await.ok().and_then(Result::ok);
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
        None => "; find who listens there by `ss -lntp`, or give this flag another address".into(),
    }
}

/// What a proxy says of itself.
async fn proxy_mode(address: SocketAddr) -> io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET /proxyMode HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.take(4096).read_to_string(&mut text).await?;
    let (head, mode) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let ok = head.split_whitespace().nth(1) == Some("200") && !mode.is_empty();
    if ok && mode.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        Ok(mode.into())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Takes an address without listening yet: connections to it are refused until [`listen`].
///
/// # Errors
/// The address is taken or not the node's.
pub fn reserve(flag: &'static str, address: SocketAddr) -> Result<(TcpSocket, SocketAddr), BindError> {
    let take = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    take().map(|socket| (socket, address)).map_err(|source| BindError::new(flag, address, source))
}

/// Listens on an address that was reserved.
///
/// # Errors
/// Somebody else listens there since.
pub fn listen(flag: &'static str, (socket, address): (TcpSocket, SocketAddr)) -> Result<TcpListener, BindError> {
    socket.listen(128).map_err(|source| BindError::new(flag, address, source))
}

/// Answers requests until the task is dropped.
pub async fn serve(listener: TcpListener, handler: Handler) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors, most likely: others must close some first.
                warn!(error = %e, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = Arc::clone(&handler);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(request, Arc::clone(&handler)));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(SLOWEST_CLIENT)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(e) = connection.await {
                debug!(error = %e, "connection ended");
            }
            drop(place);
        });
    }
}

async fn respond(request: Request<Incoming>, handler: Handler) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = Response::new(Full::from("only GET\n"));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let path = request.uri().path().to_owned();
    // Gathering metrics reads maps: not on a thread that others wait for.
    let answer = tokio::task::spawn_blocking(move || handler(&path)).await;
    let answer = answer.unwrap_or_else(|e| HttpResponse {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        ..HttpResponse::text(format!("{e}\n"))
    });
    let mut response = Response::new(Full::from(answer.text));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}
