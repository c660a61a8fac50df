//! `ropeway-peer echo`: one ICMP echo request of a given size, never in fragments, and its answer.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

/// Options of `ropeway-peer echo`.
#[derive(Args, Debug)]
pub struct EchoOptions {
    /// Address to ping
    address: IpAddr,
    /// Bytes after the ICMP header
    #[arg(long, default_value_t = 56)]
    size: usize,
    /// Milliseconds to wait for the answer
    #[arg(long, default_value_t = 2000)]
    timeout: u64,
}

const HEADER: usize = 8;

/// Sends one echo request and waits for the answer.
///
/// # Errors
/// When there is no answer with the same content in time. The error names other ICMP messages that
/// came instead.
pub fn run(options: &EchoOptions) -> Result<()> {
    let (domain, protocol, request, answer) = match options.address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol)).context("cannot open a raw socket")?;
    match options.address {
        IpAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DO),
        IpAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DO),
    }
    .context("cannot forbid fragmentation")?;
    let id = std::process::id().to_be_bytes();
    let mut packet = vec![request, 0, 0, 0, id[2], id[3], 0, 1];
    packet.extend((0..options.size).map(|i| (i % 251) as u8));
    if options.address.is_ipv4() {
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    // Not connected: errors come from other addresses.
    socket.send_to(&packet, &SocketAddr::new(options.address, 0).into()).context("cannot send the request")?;
    let end = Instant::now() + Duration::from_millis(options.timeout);
    let mut buffer = vec![0; 65536];
    let mut others = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!(
                "no answer from {} to {} bytes; other ICMP messages (type, code): {others:?}",
                options.address,
                options.size
            );
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                continue;
            }
            Err(e) => return Err(e).context("cannot receive the answer"),
        };
        // IPv4 comes with its header.
        let start = if options.address.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let Some(message) = buffer.get(start..length).filter(|m| m.len() >= HEADER) else { continue };
        if message[0] == answer && message[4..6] == packet[4..6] {
            if message[HEADER..] != packet[HEADER..] {
                bail!("the answer has other content");
            }
            return Ok(());
        }
        others.push((message[0], message[1]));
    }
}

/// Computes the Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn icmp_checksum_matches_rfc_1071() {
        // RFC 1071, section 3
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0x01]), !0x0100);
    }
}
