//! `ropeway-peer hold`: connections that stay open and are used all the time; each lost one counts.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::report::word;
use super::socket::{Question, connect, line};
use super::{Protocol, Report};

/// Options of `ropeway-peer hold`.
#[derive(Args, Debug)]
pub struct HoldOptions {
    /// Address and port of the server
    target: SocketAddr,
    /// Number of connections
    #[arg(long, default_value_t = 10)]
    count: usize,
    /// Milliseconds between two questions on one connection
    #[arg(long, default_value_t = 10)]
    interval: u64,
    /// Milliseconds to wait for an answer
    #[arg(long, default_value_t = 5000)]
    timeout: u64,
}

/// The report on the connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HoldReport {
    /// Connections that were made.
    pub held: u64,
    /// Number of connections to each server.
    pub servers: BTreeMap<String, u64>,
    /// Connections that broke, and why.
    pub lost: Vec<String>,
    /// The questions over all of them.
    pub questions: Report,
}

/// Connects, says `ready`, asks over the connections until standard input ends, prints a
/// [`HoldReport`].
///
/// # Errors
/// When a connection can't be made.
pub fn run(options: &HoldOptions) -> Result<()> {
    let timeout = Duration::from_millis(options.timeout);
    let question = Question::over(Protocol::Tcp, options.target, timeout);
    let (mut streams, mut servers) = (Vec::new(), BTreeMap::new());
    for number in 0..options.count {
        let mut stream = connect(&question).with_context(|| format!("connection {number}"))?;
        let answer = line(&mut stream).with_context(|| format!("connection {number}"))?;
        *servers.entry(answer.server).or_default() += 1;
        streams.push(stream);
    }
    println!("ready");
    io::stdout().flush()?;
    let mut report = HoldReport { held: streams.len() as u64, servers, ..HoldReport::default() };
    let stop = AtomicBool::new(false);
    let interval = Duration::from_millis(options.interval);
    std::thread::scope(|scope| {
        let users: Vec<_> =
            streams.into_iter().map(|stream| scope.spawn(|| keep_asking(stream, interval, &stop))).collect();
        io::stdin().read_to_end(&mut Vec::new()).ok();
        stop.store(true, Ordering::Relaxed);
        for user in users {
            if let Ok((part, lost)) = user.join() {
                report.questions.merge(part);
                report.lost.extend(lost);
            }
        }
    });
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn keep_asking(mut stream: TcpStream, interval: Duration, stop: &AtomicBool) -> (Report, Option<String>) {
    let mut report = Report::default();
    while !stop.load(Ordering::Relaxed) {
        let start = std::time::Instant::now();
        match line(&mut stream) {
            Ok(answer) => report.add(Ok(answer), start.elapsed()),
            Err(error) => {
                let why = word(&error);
                report.add(Err(error), start.elapsed());
                return (report, Some(why));
            }
        }
        std::thread::park_timeout(interval); // the rate that was asked for, not a wait for something
    }
    (report, None)
}
