//! `ropeway-peer session`: sends one request from each of its sockets whenever it is told to.
//!
//! [`crate::load::Session`] starts it in a machine or pod, for tests of what is remembered: of a
//! socket that stays open while its backend ends, and of a client that pauses. The sockets are
//! datagram sockets that stay open, or a new socket for each request.

use std::io::{self, BufRead, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::Protocol;
use super::report::word;
use super::socket::{Answer, Request, parse, same, send_request};

/// Options of `ropeway-peer session`.
#[derive(Args, Debug)]
pub struct SessionOptions {
    /// Address and port of the server
    target: SocketAddr,
    /// Protocol of the requests
    #[arg(long, value_enum)]
    protocol: Protocol,
    /// Number of sockets, which stay open; 0: a new socket for each request
    #[arg(long, default_value_t = 0)]
    sockets: usize,
    /// Milliseconds to wait for the answers
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

/// The outcome of one request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// The name of the server that answered.
    Server(String),
    /// The errno name, `timeout`, or the text of the error.
    Error(String),
}

impl From<io::Result<Answer>> for Reply {
    fn from(outcome: io::Result<Answer>) -> Self {
        match outcome {
            Ok(answer) => Self::Server(answer.server),
            Err(error) => Self::Error(word(&error)),
        }
    }
}

/// Prints `ready`, and for each line on standard input a JSON array with a [`Reply`] for each
/// socket. Ends with standard input.
///
/// # Errors
/// When TCP sockets should stay open, or a reply can't be printed.
pub fn run(options: &SessionOptions) -> Result<()> {
    let timeout = Duration::from_millis(options.timeout);
    if options.sockets > 0 && !matches!(options.protocol, Protocol::Udp | Protocol::UdpConnected) {
        bail!("only datagram sockets can stay open");
    }
    let mut sockets: Vec<_> = (0..options.sockets).map(|_| Datagrams::new(options)).collect::<io::Result<_>>()?;
    let mut out = io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in io::stdin().lock().lines() {
        line?;
        let replies = if sockets.is_empty() {
            vec![send_request(&Request::over(options.protocol, options.target, timeout)).into()]
        } else {
            round(&mut sockets, timeout)
        };
        writeln!(out, "{}", serde_json::to_string(&replies)?)?;
        out.flush()?;
    }
    Ok(())
}

/// Sends a datagram from each socket, then waits for the answers of all.
fn round(sockets: &mut [Datagrams], timeout: Duration) -> Vec<Reply> {
    let sent: Vec<_> = sockets.iter_mut().map(Datagrams::send).collect();
    let end = Instant::now() + timeout;
    let receive = |(socket, sent): (&Datagrams, io::Result<()>)| sent.and_then(|()| socket.receive(end)).into();
    sockets.iter().zip(sent).map(receive).collect()
}

/// A datagram socket that stays open.
struct Datagrams {
    socket: UdpSocket,
    target: SocketAddr,
    /// A connected socket whose connect(2) has not succeeded yet.
    to_connect: bool,
    connected: bool,
}

impl Datagrams {
    fn new(options: &SessionOptions) -> io::Result<Self> {
        let any = match options.target {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let connected = options.protocol == Protocol::UdpConnected;
        let socket = UdpSocket::bind((any, 0))?;
        Ok(Self { socket, target: options.target, to_connect: connected, connected })
    }

    /// Sends one datagram. connect(2) of a connected socket is tried again until it succeeds.
    fn send(&mut self) -> io::Result<()> {
        self.forget_earlier_rounds()?;
        if self.to_connect {
            self.socket.connect(self.target)?;
            self.to_connect = false;
        }
        if self.connected {
            same(self.socket.peer_addr()?, self.target)?;
            self.socket.send(&[0]).map(drop)
        } else {
            self.socket.send_to(&[0], self.target).map(drop)
        }
    }

    /// Reads what came after the end of an earlier round: late answers and ICMP errors.
    fn forget_earlier_rounds(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        while !matches!(self.socket.recv(&mut [0; 1024]), Err(e) if e.kind() == ErrorKind::WouldBlock) {}
        self.socket.set_nonblocking(false)
    }

    fn receive(&self, end: Instant) -> io::Result<Answer> {
        // A timeout of zero would be none.
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left))?;
        let mut reply = [0; 1024];
        let (length, from) = self.socket.recv_from(&mut reply)?;
        same(from, self.target)?;
        parse(&String::from_utf8_lossy(&reply[..length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a server that answers with `id` until a datagram comes that is not one byte long.
    fn server(id: &'static str) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let run = move || {
            let mut packet = [0; 8];
            while let Ok((1, client)) = socket.recv_from(&mut packet) {
                socket.send_to(format!("{id} {client}\n").as_bytes(), client).unwrap();
            }
        };
        (address, std::thread::spawn(run))
    }

    fn stop(address: SocketAddr, server: std::thread::JoinHandle<()>) {
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[0, 0], address).unwrap();
        server.join().unwrap();
    }

    fn sockets(target: SocketAddr, protocol: Protocol) -> Vec<Datagrams> {
        let options = SessionOptions { target, protocol, sockets: 3, timeout: 300 };
        (0..3).map(|_| Datagrams::new(&options).unwrap()).collect()
    }

    #[test]
    fn each_open_socket_is_answered_in_each_round() {
        let (address, thread) = server("a");
        for protocol in [Protocol::Udp, Protocol::UdpConnected] {
            let mut sockets = sockets(address, protocol);
            for _ in 0..2 {
                assert_eq!(round(&mut sockets, Duration::from_secs(5)), vec![Reply::Server("a".to_owned()); 3]);
            }
        }
        stop(address, thread);
    }

    #[test]
    fn connected_socket_is_refused_and_works_later() {
        let (address, thread) = server("a");
        stop(address, thread);
        let mut sockets = sockets(address, Protocol::UdpConnected);
        let refused = vec![Reply::Error("ECONNREFUSED".to_owned()); 3];
        assert_eq!(round(&mut sockets, Duration::from_secs(5)), refused);
        assert_eq!(round(&mut sockets, Duration::from_secs(5)), refused, "an error of an earlier round was kept");
    }
}
