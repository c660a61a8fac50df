//! `ropeway-peer request-load`: many requests, each over a new connection.
//!
//! [`crate::load::send_requests`] and [`crate::load::RequestLoad`] start it in a machine or pod. A
//! failed request is counted in the report and never ends the load.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use super::socket::{Request, send_request};
use super::{Protocol, Report};

/// Options of `ropeway-peer request-load`.
#[derive(Args, Debug)]
pub struct RequestLoadOptions {
    /// Address and port of the server
    target: SocketAddr,
    /// Protocol of the requests
    #[arg(long, value_enum, default_value = "tcp")]
    protocol: Protocol,
    /// Number of requests; 0: until standard input ends
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Largest number of requests a second of each parallel client; 0: unlimited
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Number of requests at the same time
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// Milliseconds to wait for an answer
    #[arg(long, default_value_t = 2000)]
    timeout: u64,
    /// Bytes of a datagram
    #[arg(long, default_value_t = 16)]
    size: usize,
    /// Send datagrams from this address
    #[arg(long)]
    source: Option<IpAddr>,
    /// Send datagrams from this port, each from a new socket; 0: the kernel chooses
    #[arg(long, default_value_t = 0)]
    source_port: u16,
    /// Send the n-th datagram from the n-th port from this one on; 0: see --source-port
    #[arg(long, default_value_t = 0)]
    first_port: u16,
    /// Stop as soon as the server of this name has answered
    #[arg(long, value_name = "NAME")]
    until: Option<String>,
}

/// Sends the requests and prints a [`Report`]. If the count is unlimited, prints `ready` after the
/// first request.
///
/// # Errors
/// When the report can't be printed; failed requests are part of the report.
pub fn run(options: &RequestLoadOptions) -> Result<()> {
    let request = Request {
        target: options.target,
        protocol: options.protocol,
        timeout: Duration::from_millis(options.timeout),
        size: options.size,
        source: options.source,
        source_port: options.source_port,
    };
    let stop = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    let mut report = Report::default();
    if options.count == 0 {
        let start = Instant::now();
        report.add(send_request(&request), start.elapsed());
        println!("ready");
        io::stdout().flush()?;
    }
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..options.parallel.max(1)).map(|_| scope.spawn(|| one_client(&request, options, &sent, &stop))).collect();
        if options.count == 0 && options.until.is_none() {
            io::stdin().read_to_end(&mut Vec::new()).ok();
            stop.store(true, Ordering::Relaxed);
        }
        for client in clients {
            report.merge(client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn one_client(request: &Request, options: &RequestLoadOptions, sent: &AtomicU64, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let pause = 1_000_000_u64.checked_div(options.rate.into()).map(Duration::from_micros);
    let begin = Instant::now();
    for turn in 0_u32.. {
        let number = sent.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) || (options.count > 0 && number >= options.count) {
            break;
        }
        let start = Instant::now();
        let outcome = send_request(&of_number(request, options, number));
        if outcome.as_ref().is_ok_and(|answer| options.until.as_ref() == Some(&answer.server)) {
            stop.store(true, Ordering::Relaxed);
        }
        report.add(outcome, start.elapsed());
        if let Some(next) = pause.and_then(|pause| (pause * (turn + 1)).checked_sub(begin.elapsed())) {
            std::thread::park_timeout(next); // keeps the rate; waits for no event
        }
    }
    report
}

/// Returns the request with this number, counted from 0.
fn of_number(request: &Request, options: &RequestLoadOptions, number: u64) -> Request {
    if options.first_port == 0 {
        return *request;
    }
    // The difference is below the count of requests, which the caller chooses to fit.
    Request { source_port: options.first_port.wrapping_add(number as u16), ..*request }
}
