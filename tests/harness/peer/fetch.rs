//! `ropeway-peer fetch`: one HTTP request, its body on standard output.
//!
//! Written by hand, like the HTTP server of the peer: the sockets are blocking and set their source
//! address and timeout, and an async client would need a runtime in every process that the tests
//! start in a pod.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Protocol;
use super::socket::{Request, connect};

/// Options of `ropeway-peer fetch`.
#[derive(Args, Debug)]
pub struct FetchOptions {
    /// Address and port of the server
    server: SocketAddr,
    /// Path of the request
    path: String,
}

/// Sends the request and prints the body of the answer.
///
/// # Errors
/// When there is no answer, or one with another status than 200.
pub fn run(options: &FetchOptions) -> Result<()> {
    let timeout = Duration::from_secs(2);
    let request = Request::over(Protocol::Http, options.server, timeout);
    let mut stream = connect(&request).with_context(|| format!("cannot connect to {}", options.server))?;
    let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", options.path, options.server);
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no HTTP header")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{status}: {}", body.trim());
    }
    print!("{body}");
    Ok(())
}
