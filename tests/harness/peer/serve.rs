//! `ropeway-peer serve`: answers on the same port over TCP and UDP, IPv4 and IPv6.
//!
//! The server runs in a pod or node of a test, with one thread per connection, until it is killed.
//! Each answer has the server's name and the client's address as the server sees it.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result};
use clap::Args;

use super::pattern;

/// Options of `ropeway-peer serve`.
#[derive(Args, Debug)]
pub struct ServeOptions {
    /// The name in every answer
    #[arg(long)]
    id: String,
    /// Ports, TCP and UDP
    #[arg(long = "port", required = true)]
    ports: Vec<u16>,
    /// Addresses to listen on; without one all of both families
    #[arg(long = "address")]
    addresses: Vec<IpAddr>,
}

/// Serves until it is killed; prints `ready` when it listens.
///
/// # Errors
/// When a port is taken.
pub fn run(options: &ServeOptions) -> Result<()> {
    let all = [Ipv6Addr::UNSPECIFIED.into()];
    let addresses = if options.addresses.is_empty() { &all } else { &options.addresses[..] };
    let places =
        addresses.iter().flat_map(|address| options.ports.iter().map(|port| SocketAddr::from((*address, *port))));
    std::thread::scope(|scope| {
        for place in places {
            let listener = TcpListener::bind(place).with_context(|| format!("cannot listen at TCP {place}"))?;
            let socket = UdpSocket::bind(place).with_context(|| format!("cannot bind UDP {place}"))?;
            scope.spawn(move || datagrams(&socket, &options.id));
            scope.spawn(move || {
                for stream in listener.incoming().flatten() {
                    let id = options.id.clone();
                    // A client that disconnects is not an error of the server.
                    std::thread::spawn(move || connection(stream, &id).ok());
                }
            });
        }
        println!("ready");
        io::stdout().flush().context("cannot write to standard output")
    })
}

fn datagrams(socket: &UdpSocket, id: &str) {
    let mut packet = vec![0; 65_536];
    while let Ok((length, client)) = socket.recv_from(&mut packet) {
        let mut reply = answer(id, client).into_bytes();
        if let Err(error) = pattern::check(&packet[..length], 0) {
            reply = format!("{id} {error}\n").into_bytes();
        }
        if reply.len() < length {
            // The pattern follows the line.
            pattern::fill(&mut packet[..length]);
            reply.extend_from_slice(&packet[reply.len()..length]);
        }
        // Sending fails if the client has closed its socket.
        socket.send_to(&reply, client).ok();
    }
}

fn connection(stream: TcpStream, id: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let client = stream.peer_addr()?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (verb, number) = (words.next(), words.next().and_then(|word| word.parse().ok()));
        match (verb, number) {
            (Some("GET"), _) => return http(&mut reader, &mut writer, &answer(id, client)),
            (Some("take"), Some(bytes)) => match pattern::receive(&mut reader, bytes) {
                Ok(()) => writer.write_all(b"right\n")?,
                Err(error) => return writer.write_all(format!("{error}\n").as_bytes()),
            },
            (Some("give"), Some(bytes)) => pattern::send(&mut writer, bytes)?,
            _ => writer.write_all(answer(id, client).as_bytes())?,
        }
    }
}

fn http(reader: &mut impl BufRead, writer: &mut impl Write, body: &str) -> io::Result<()> {
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    writer.write_all((head + body).as_bytes())
}

fn answer(id: &str, client: SocketAddr) -> String {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    format!("{id} {client}\n")
}
