//! One question and its answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::{Protocol, pattern};

/// A reply of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name of the server.
    pub server: String,
    /// The client as it saw it.
    pub seen_as: SocketAddr,
}

/// A request and the sockets options for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) target: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) timeout: Duration,
    /// Bytes of a datagram.
    pub(super) size: usize,
    /// Send datagrams from this address.
    pub(super) source: Option<IpAddr>,
    pub(super) source_port: u16,
}

impl Question {
    /// Without what only datagrams have.
    pub(super) const fn over(protocol: Protocol, target: SocketAddr, timeout: Duration) -> Self {
        Self { target, protocol, timeout, size: 0, source: None, source_port: 0 }
    }
}

/// Sends one request over a new socket.
pub(super) fn ask(question: &Question) -> io::Result<Answer> {
    match question.protocol {
        Protocol::Tcp => line(&mut connect(question)?),
        Protocol::Http => http(&mut connect(question)?),
        Protocol::Udp | Protocol::UdpConnected => datagram(question),
    }
}

/// Connects; the socket must show the address that was asked for.
pub(super) fn connect(question: &Question) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&question.target, question.timeout)?;
    stream.set_read_timeout(Some(question.timeout))?;
    stream.set_write_timeout(Some(question.timeout))?;
    stream.set_nodelay(true)?;
    same(stream.peer_addr()?, question.target)?;
    Ok(stream)
}

/// One line each way.
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

fn datagram(question: &Question) -> io::Result<Answer> {
    let any = match question.target {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((question.source.unwrap_or(any), question.source_port))?;
    socket.set_read_timeout(Some(question.timeout))?;
    let mut packet = vec![0; question.size.max(1)];
    pattern::fill(&mut packet);
    if question.protocol == Protocol::UdpConnected {
        socket.connect(question.target)?;
        same(socket.peer_addr()?, question.target)?;
        socket.send(&packet)?;
    } else {
        socket.send_to(&packet, question.target)?;
    }
    let mut reply = vec![0; packet.len() + 1024];
    let (length, from) = socket.recv_from(&mut reply)?;
    same(from, question.target)?;
    let end = reply[..length].iter().position(|byte| *byte == b'\n').map_or(length, |end| end + 1);
    pattern::check(&reply[end..length], end as u64)?;
    parse(&String::from_utf8_lossy(&reply[..end]))
}

/// The address that was asked must be the one that answers; anything else would show the client a
/// backend.
pub(super) fn same(shown: SocketAddr, asked: SocketAddr) -> io::Result<()> {
    if (shown.ip(), shown.port()) == (asked.ip(), asked.port()) {
        return Ok(());
    }
    Err(io::Error::other(format!("asked {asked}, and {shown} shows")))
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
        let asked = "10.96.0.1:80".parse().unwrap();
        same(asked, asked).unwrap();
        assert!(same("10.244.1.2:8080".parse().unwrap(), asked).is_err());
    }
}
