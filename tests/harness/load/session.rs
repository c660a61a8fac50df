//! Requests on demand, over sockets that stay open: for tests of what is remembered.
//!
//! Starts `ropeway-peer session`, which sends nothing unless [`Session::request`] tells it to.

use std::io::{BufRead, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{Client, TrafficEndpoint};
use crate::peer::{Protocol, Reply};

/// A client that sends a request from each of its sockets when it is asked to.
#[derive(Debug)]
pub struct Session {
    client: Client,
}

impl Session {
    /// Starts a client with this many datagram sockets, which stay open until it is dropped.
    ///
    /// # Errors
    /// When the client doesn't start.
    pub fn open(
        endpoint: &(impl TrafficEndpoint + ?Sized),
        target: SocketAddr,
        protocol: Protocol,
        sockets: usize,
    ) -> Result<Self> {
        let protocol = format!("--protocol={}", protocol.word());
        let arguments = ["session".to_owned(), target.to_string(), protocol, format!("--sockets={sockets}")];
        Ok(Self { client: Client::start(endpoint, &arguments)? })
    }

    /// Starts a client that uses a new socket for each request.
    ///
    /// # Errors
    /// When the client doesn't start.
    pub fn of_new_sockets(
        endpoint: &(impl TrafficEndpoint + ?Sized),
        target: SocketAddr,
        protocol: Protocol,
    ) -> Result<Self> {
        Self::open(endpoint, target, protocol, 0)
    }

    /// Sends one request from each socket and returns the outcomes, in the order of the sockets.
    ///
    /// # Errors
    /// When the client has died.
    pub fn request(&mut self) -> Result<Vec<Reply>> {
        let Client { process, stdout } = &mut self.client;
        let stdin = process.child().stdin.as_mut().context("standard input of ropeway-peer is not a pipe")?;
        stdin.write_all(b"\n")?;
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        serde_json::from_str(&line)
            .with_context(|| format!("{} printed something that is no list of replies: {line}", process.name()))
    }

    /// Returns the client and its arguments, for messages.
    #[must_use]
    pub fn label(&self) -> &str {
        self.client.process.name()
    }
}
