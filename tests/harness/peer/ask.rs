//! `ropeway-peer ask`: many questions, each by a new connection.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use super::socket::{Question, ask};
use super::{Protocol, Report};

/// Options of `ropeway-peer ask`.
#[derive(Args, Debug)]
pub struct AskOptions {
    /// Address and port of the server
    target: SocketAddr,
    /// Protocol of the requests
    #[arg(long, value_enum, default_value = "tcp")]
    protocol: Protocol,
    /// Number of requests; 0: until standard input ends
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// At most so many questions a second, for each of the parallel askers; 0: as many as possible
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
    /// Send datagrams from this port, each of a socket of its own; 0: the kernel chooses
    #[arg(long, default_value_t = 0)]
    source_port: u16,
    /// Stop as soon as the server of this name has answered
    #[arg(long, value_name = "NAME")]
    until: Option<String>,
}

/// Asks, then prints a [`Report`]; without an end, says `ready` after the first question.
///
/// # Errors
/// When the report can't be printed; what goes wrong with a question is part of the report.
pub fn run(options: &AskOptions) -> Result<()> {
    let question = Question {
        target: options.target,
        protocol: options.protocol,
        timeout: Duration::from_millis(options.timeout),
        size: options.size,
        source: options.source,
        source_port: options.source_port,
    };
    let stop = AtomicBool::new(false);
    let asked = AtomicU64::new(0);
    let mut report = Report::default();
    if options.count == 0 {
        let start = Instant::now();
        report.add(ask(&question), start.elapsed());
        println!("ready");
        io::stdout().flush()?;
    }
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..options.parallel.max(1))
            .map(|_| scope.spawn(|| one_asker(&question, options, &asked, &stop)))
            .collect();
        if options.count == 0 && options.until.is_none() {
            io::stdin().read_to_end(&mut Vec::new()).ok();
            stop.store(true, Ordering::Relaxed);
        }
        for asker in askers {
            if let Ok(part) = asker.join() {
                report.merge(part);
            }
        }
    });
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn one_asker(question: &Question, options: &AskOptions, asked: &AtomicU64, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let pause = 1_000_000_u64.checked_div(options.rate.into()).map(Duration::from_micros);
    let begin = Instant::now();
    for turn in 0_u32.. {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) || (options.count > 0 && number >= options.count) {
            break;
        }
        let start = Instant::now();
        let outcome = ask(question);
        if outcome.as_ref().is_ok_and(|answer| options.until.as_ref() == Some(&answer.server)) {
            stop.store(true, Ordering::Relaxed);
        }
        report.add(outcome, start.elapsed());
        if let Some(next) = pause.and_then(|pause| (pause * (turn + 1)).checked_sub(begin.elapsed())) {
            std::thread::park_timeout(next); // the rate that was asked for, not a wait for something
        }
    }
    report
}
