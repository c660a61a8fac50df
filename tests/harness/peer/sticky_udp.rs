//! `ropeway-peer sticky-udp`: one connected UDP socket that sends requests continuously and reports
//! each change of the answering server.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use super::Report;
use super::socket::{Answer, parse, same};

/// Options of `ropeway-peer sticky-udp`.
#[derive(Args, Debug)]
pub struct StickyUdpOptions {
    /// Address and port of the server
    target: SocketAddr,
    /// Milliseconds between two datagrams
    #[arg(long, default_value_t = 20)]
    interval: u64,
}

/// Connects a UDP socket and prints `ready`. Prints a line with the name of the server whenever the
/// answering server changes. When standard input ends, prints a [`Report`].
///
/// # Errors
/// When the socket can't be connected, or shows another address than the one it was connected to.
pub fn run(options: &StickyUdpOptions) -> Result<()> {
    let target = options.target;
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target).with_context(|| format!("cannot connect to {target}"))?;
    same(socket.peer_addr()?, target)?;
    let interval = Duration::from_millis(options.interval);
    socket.set_read_timeout(Some(interval))?;
    print_line("ready")?;
    let stop = AtomicBool::new(false);
    let mut report = Report::default();
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            io::stdin().read_to_end(&mut Vec::new()).ok();
            stop.store(true, Ordering::Relaxed);
        });
        let mut last = String::new();
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let outcome = send_request(&socket, target);
            if let Ok(answer) = &outcome
                && answer.server != last
            {
                last.clone_from(&answer.server);
                print_line(&last)?;
            }
            report.add(outcome, start.elapsed());
            std::thread::park_timeout(interval.saturating_sub(start.elapsed())); // keeps the rate
        }
        same(socket.peer_addr()?, target)?;
        Ok(())
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn send_request(socket: &UdpSocket, target: SocketAddr) -> io::Result<Answer> {
    socket.send(&[0])?;
    let mut reply = [0; 1024];
    let (length, from) = socket.recv_from(&mut reply)?;
    same(from, target)?;
    parse(&String::from_utf8_lossy(&reply[..length]))
}

fn print_line(word: &str) -> io::Result<()> {
    println!("{word}");
    io::stdout().flush()
}
