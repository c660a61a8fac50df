//! `ropeway-peer persistent-load`: connections that stay open and are used continuously. Each lost
//! connection is reported.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::report::word;
use super::socket::{Request, connect, line, same};
use super::{Protocol, Report};

/// Options of `ropeway-peer persistent-load`.
#[derive(Args, Debug)]
pub struct PersistentLoadOptions {
    /// Address and port of the server
    target: SocketAddr,
    /// Number of connections
    #[arg(long, default_value_t = 10)]
    count: usize,
    /// Milliseconds between two requests on one connection
    #[arg(long, default_value_t = 10)]
    interval: u64,
    /// Milliseconds to wait for an answer
    #[arg(long, default_value_t = 5000)]
    timeout: u64,
}

/// The report on the connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PersistentLoadReport {
    /// Number of connections that were established.
    pub established: u64,
    /// Number of connections to each server.
    pub servers: BTreeMap<String, u64>,
    /// Connections that broke, with the reason.
    pub lost: Vec<String>,
    /// The smallest number of answers over one connection.
    pub fewest: u64,
    /// The requests over all connections.
    pub requests: Report,
}

/// Connects, prints `ready`, sends requests over the connections until standard input ends, and
/// prints a [`PersistentLoadReport`].
///
/// # Errors
/// When a connection can't be made.
pub fn run(options: &PersistentLoadOptions) -> Result<()> {
    let timeout = Duration::from_millis(options.timeout);
    let request = Request::over(Protocol::Tcp, options.target, timeout);
    let (mut streams, mut servers) = (Vec::new(), BTreeMap::new());
    for number in 0..options.count {
        let mut stream = connect(&request).with_context(|| format!("cannot open connection {number}"))?;
        let answer = line(&mut stream).with_context(|| format!("no answer over connection {number}"))?;
        *servers.entry(answer.server).or_default() += 1;
        streams.push(stream);
    }
    println!("ready");
    io::stdout().flush()?;
    let mut report =
        PersistentLoadReport { established: streams.len() as u64, servers, ..PersistentLoadReport::default() };
    let stop = AtomicBool::new(false);
    let interval = Duration::from_millis(options.interval);
    std::thread::scope(|scope| {
        let users: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(|| use_connection(stream, options.target, interval, &stop)))
            .collect();
        io::stdin().read_to_end(&mut Vec::new()).ok();
        stop.store(true, Ordering::Relaxed);
        report.fewest = u64::MAX;
        for user in users {
            let (part, lost) = user.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            report.fewest = report.fewest.min(part.ok);
            report.requests.merge(part);
            report.lost.extend(lost);
        }
    });
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn use_connection(
    mut stream: TcpStream,
    target: SocketAddr,
    interval: Duration,
    stop: &AtomicBool,
) -> (Report, Option<String>) {
    let mut report = Report::default();
    while !stop.load(Ordering::Relaxed) {
        let start = std::time::Instant::now();
        // getpeername(2) must go on showing the address of the Service.
        let named = stream.peer_addr().and_then(|peer| same(peer, target));
        match named.and_then(|()| line(&mut stream)) {
            Ok(answer) => report.add(Ok(answer), start.elapsed()),
            Err(error) => {
                let why = word(&error);
                report.add(Err(error), start.elapsed());
                return (report, Some(why));
            }
        }
        std::thread::park_timeout(interval); // keeps the rate; waits for no event
    }
    (report, None)
}
