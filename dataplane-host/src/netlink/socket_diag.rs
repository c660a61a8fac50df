//! Lists the local addresses at which sockets of this network namespace listen (`sock_diag(7)`).
//!
//! The agent asks which cluster IPs a process of the node serves itself. The kernel filters by
//! state, so connections, of which there may be many, are never listed. Needs no privilege.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::NetlinkError;
use super::socket::read;

/// Message types and flags of include/uapi/linux/netlink.h and `sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;

/// Length of `nlmsghdr`.
const HEADER: usize = 16;
/// Length of `inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Offset of the source address in `inet_diag_msg`.
const SOURCE: usize = 8;
/// States of a listening TCP socket and of a UDP socket without a peer (`TCP_LISTEN`, `TCP_CLOSE`).
const LISTENING: u32 = 1 << 10 | 1 << 7;

const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];
const PROTOCOLS: [u8; 2] = [libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8];

const ATTEMPT: &str = "list listening sockets";

/// Returns the addresses to which listening TCP sockets and UDP sockets without a peer are bound.
/// Sockets bound to all addresses are left out.
///
/// # Errors
/// The kernel refused, for example because it has no `udp_diag`.
pub fn listening_addresses() -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let open = || {
        let mut socket = RawSocket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(socket)
    };
    let socket = open().map_err(|e| NetlinkError::socket(ATTEMPT, e))?;
    let mut found = BTreeSet::new();
    let mut buffer = Vec::new();
    let kinds = FAMILIES.into_iter().flat_map(|family| PROTOCOLS.map(|protocol| (family, protocol)));
    for (sequence, (family, protocol)) in (1..).zip(kinds) {
        socket.send(&request(sequence, family, protocol), 0).map_err(|e| NetlinkError::socket(ATTEMPT, e))?;
        loop {
            read(&socket, &mut buffer, ATTEMPT)?;
            if collect(&buffer, sequence, &mut found)? {
                break;
            }
        }
    }
    Ok(found)
}

/// Returns a request for all listening sockets of a family and protocol.
fn request(sequence: u32, family: u8, protocol: u8) -> Vec<u8> {
    let length = HEADER + REQUEST;
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend([family, protocol, 0, 0]);
    message.extend(LISTENING.to_ne_bytes());
    message.resize(length, 0);
    message
}

/// Adds the addresses of one datagram; returns true after the last message of the answer.
fn collect(datagram: &[u8], sequence: u32, found: &mut BTreeSet<IpAddr>) -> Result<bool, NetlinkError> {
    let mut rest = datagram;
    while let Some(length) = rest.first_chunk::<4>().map(|l| u32::from_ne_bytes(*l) as usize) {
        let Some(message) = rest.get(..length).filter(|m| m.len() >= HEADER) else {
            return Err(NetlinkError::answer(ATTEMPT, format!("a message of {length} bytes")));
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        if message[8..12] != sequence.to_ne_bytes() {
            continue;
        }
        match u16::from_ne_bytes([message[4], message[5]]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = message.get(HEADER..).and_then(|m| m.first_chunk()).map_or(0, |c| i32::from_ne_bytes(*c));
                return Err(NetlinkError::socket(ATTEMPT, std::io::Error::from_raw_os_error(code.abs())));
            }
            SOCK_DIAG_BY_FAMILY => found.extend(bound_address(&message[HEADER..])),
            _ => {}
        }
    }
    Ok(false)
}

/// Returns the source address of an `inet_diag_msg`, unless it is unspecified.
fn bound_address(message: &[u8]) -> Option<IpAddr> {
    let source = message.get(SOURCE..)?;
    let address = if i32::from(*message.first()?) == libc::AF_INET {
        IpAddr::from(*source.first_chunk::<4>()?)
    } else {
        IpAddr::from(*source.first_chunk::<16>()?).to_canonical()
    };
    (!address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    /// Addresses of 127/8 that no other test uses, so that their absence means something.
    #[test]
    fn bound_sockets_are_listed_and_connected_ones_are_not() {
        let tcp = TcpListener::bind("127.77.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.77.0.2:0").unwrap();
        let connected = UdpSocket::bind("127.77.0.3:0").unwrap();
        connected.connect("127.77.0.2:9").unwrap();
        let six = UdpSocket::bind("[::1]:0").unwrap();
        let all = UdpSocket::bind("0.0.0.0:0").unwrap();
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let found = listening_addresses().unwrap();
        let has = |address: &str| found.contains(&address.parse().unwrap());
        assert!(has("127.77.0.1") && has("127.77.0.2") && has("::1"), "{found:?}");
        assert!(!has("127.77.0.3") && !has("0.0.0.0") && !has("127.0.0.1"), "{found:?}");
        drop((tcp, udp, six, all, client));
        let found = listening_addresses().unwrap();
        assert!(!found.contains(&"127.77.0.1".parse().unwrap()), "{found:?}");
    }

    #[test]
    fn truncated_answers_are_errors_and_foreign_ones_are_skipped() {
        let mut found = BTreeSet::new();
        let done = [&20_u32.to_ne_bytes()[..], &[3, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert!(collect(&done, 7, &mut found).unwrap());
        assert!(!collect(&done, 8, &mut found).unwrap(), "the answer to an earlier request");
        assert!(collect(&done[..8], 7, &mut found).is_err());
        assert_eq!(bound_address(&[2, 10, 0, 0, 0, 53, 0, 0, 10]), None);
    }
}
