//! `ropeway-peer stay`: one connected socket that goes on asking, and who answers it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use super::Report;
use super::socket::{Answer, parse, same};

/// Options of `ropeway-peer stay`.
#[derive(Args, Debug)]
pub struct StayOptions {
    /// Address and port of the server
    target: SocketAddr,
    /// Milliseconds between two datagrams
    #[arg(long, default_value_t = 20)]
    interval: u64,
}

/// Connects a UDP socket, says `ready`, then a line with the name of the server whenever another
/// one answers than before. When standard input ends, prints a [`Report`].
///
/// # Errors
/// When the socket can't be connected, or shows another address than the one it was connected to.
pub fn run(options: &StayOptions) -> Result<()> {
    let target = options.target;
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target).with_context(|| format!("connect to {target}"))?;
    same(socket.peer_addr()?, target)?;
    let interval = Duration::from_millis(options.interval);
    socket.set_read_timeout(Some(interval))?;
    say("ready")?;
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
            let outcome = ask(&socket, target);
            if let Ok(answer) = &outcome
                && answer.server != last
            {
                last.clone_from(&answer.server);
                say(&last)?;
            }
            report.add(outcome, start.elapsed());
            std::thread::park_timeout(interval.saturating_sub(start.elapsed())); // the rate that was asked for
        }
        same(socket.peer_addr()?, target)?;
        Ok(())
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn ask(socket: &UdpSocket, target: SocketAddr) -> io::Result<Answer> {
    socket.send(&[0])?;
    let mut reply = [0; 1024];
    let (length, from) = socket.recv_from(&mut reply)?;
    same(from, target)?;
    parse(&String::from_utf8_lossy(&reply[..length]))
}

fn say(word: &str) -> io::Result<()> {
    println!("{word}");
    io::stdout().flush()
}
