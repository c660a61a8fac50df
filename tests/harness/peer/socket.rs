//! One request and its answer, over TCP, HTTP or UDP.
//!
//! Used by the clients of `ropeway-peer`. Checks that the socket shows the address of the Service
//! and never that of a backend.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::{Protocol, pattern};

/// A reply of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name of the server.
    pub server: String,
    /// The client's address as the server saw it.
    pub seen_as: SocketAddr,
}

/// A request and the socket options for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) target: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) timeout: Duration,
    /// Size of a datagram in bytes.
    pub(super) size: usize,
    /// Send datagrams from this address.
    pub(super) source: Option<IpAddr>,
    pub(super) source_port: u16,
}

impl Request {
    /// Returns a request with the default of all datagram options.
    pub(super) const fn over(protocol: Protocol, target: SocketAddr, timeout: Duration) -> Self {
        Self { target, protocol, timeout, size: 0, source: None, source_port: 0 }
    }
}

/// Sends one request over a new socket.
pub(super) fn send_request(request: &Request) -> io::Result<Answer> {
    match request.protocol {
        Protocol::Tcp => line(&mut connect(request)?),
        Protocol::Http => http(&mut connect(request)?),
        Protocol::Udp | Protocol::UdpConnected => datagram(request),
    }
}

/// Connects. Checks that getpeername(2) returns the requested address.
pub(super) fn connect(request: &Request) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&request.target, request.timeout)?;
    stream.set_read_timeout(Some(request.timeout))?;
    stream.set_write_timeout(Some(request.timeout))?;
    stream.set_nodelay(true)?;
    same(stream.peer_addr()?, request.target)?;
    Ok(stream)
}

/// Sends one line and reads one line.
pub(super) fn line(stream: &mut TcpStream) -> io::Result<Answer> {
    stream.write_all(b"hello\n")?;
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text)?;
    parse(&text)
}

fn http(stream: &mut TcpStream) -> io::Result<Answer> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Err(io::Error::other("no HTTP answer")) };
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    parse(body)
}

fn datagram(request: &Request) -> io::Result<Answer> {
    let any = match request.target {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((request.source.unwrap_or(any), request.source_port))?;
    socket.set_read_timeout(Some(request.timeout))?;
    let mut packet = vec![0; request.size.max(1)];
    pattern::fill(&mut packet);
    if request.protocol == Protocol::UdpConnected {
        socket.connect(request.target)?;
        same(socket.peer_addr()?, request.target)?;
        socket.send(&packet)?;
    } else {
        socket.send_to(&packet, request.target)?;
    }
    let mut reply = vec![0; packet.len() + 1024];
    let (length, from) = socket.recv_from(&mut reply)?;
    same(from, request.target)?;
    let end = reply[..length].iter().position(|byte| *byte == b'\n').map_or(length, |end| end + 1);
    pattern::check(&reply[end..length], end as u64)?;
    parse(&String::from_utf8_lossy(&reply[..end]))
}

/// Checks that the answer comes from the address that the request was sent to; any other would be
/// an untranslated backend.
pub(super) fn same(shown: SocketAddr, requested: SocketAddr) -> io::Result<()> {
    if (shown.ip(), shown.port()) == (requested.ip(), requested.port()) {
        return Ok(());
    }
    Err(io::Error::other(format!("requested {requested}, but the socket shows {shown}")))
}

/// Parses the line `name address`.
pub(super) fn parse(text: &str) -> io::Result<Answer> {
    let unreadable = || io::Error::other(format!("unreadable answer `{}`", text.trim_end()));
    let (server, seen_as) = text.trim_end().split_once(' ').ok_or_else(unreadable)?;
    Ok(Answer { server: server.to_owned(), seen_as: seen_as.parse().map_err(|_| unreadable())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_replies_are_parsed() {
        assert_eq!(parse("b1 10.0.0.1:5\n").unwrap().server, "b1");
        assert_eq!(parse("").unwrap_err().to_string(), "unreadable answer ``");
    }

    #[test]
    fn reply_from_other_address_is_an_error() {
        let requested = "10.96.0.1:80".parse().unwrap();
        same(requested, requested).unwrap();
        assert!(same("10.244.1.2:8080".parse().unwrap(), requested).is_err());
    }
}
