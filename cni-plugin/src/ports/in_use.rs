//! Ports of the node that no pod gets as a host port: those that the agent names in `node.json`,
//! kubelet's, and those at which a process of the node listens.
//!
//! The kernel programs look host ports up before the node's sockets, so an entry would take the
//! port away from the process. ADD asks before it reserves anything. The rule is that of bind(2): a
//! listener at one address conflicts with a host port at all of them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane_host::contract::ReservedPort;
use dataplane_host::store::{PortMapping, Transport};

use crate::error::CniError;

/// Port of kubelet's API.
const KUBELET: u16 = 10250;

/// Fails if one of the ports is in use by the node. `reserved`: what the agent has written.
pub(crate) fn check(ports: &[PortMapping], reserved: &[ReservedPort]) -> Result<(), CniError> {
    for port in ports {
        if let Some(user) = reserved_for(port, reserved) {
            return Err(CniError::PortInUse { port: port.to_string(), user });
        }
    }
    for (protocol, files) in [(Transport::Tcp, ["tcp", "tcp6"]), (Transport::Udp, ["udp", "udp6"])] {
        if !ports.iter().any(|port| port.protocol == protocol) {
            continue;
        }
        for file in files {
            let path = format!("/proc/net/{file}");
            let found = match File::open(&path) {
                Ok(file) => conflict(ports, protocol, BufReader::new(file)),
                // A kernel without IPv6.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            };
            if let Some((port, listener)) = found.map_err(|e| CniError::io(format!("read {path}"), e))? {
                let user = format!("a process that listens at {listener}");
                return Err(CniError::PortInUse { port: port.to_string(), user });
            }
        }
    }
    Ok(())
}

/// Returns for what a port is reserved.
fn reserved_for(port: &PortMapping, reserved: &[ReservedPort]) -> Option<String> {
    let known = reserved.iter().find(|r| (r.protocol, r.port) == (port.protocol, port.host_port));
    let kubelet = (port.protocol, port.host_port) == (Transport::Tcp, KUBELET);
    known.map(|r| r.user.clone()).or_else(|| kubelet.then(|| "kubelet".into()))
}

/// Returns the first port that conflicts with a listener in a file of /proc/net.
fn conflict(
    ports: &[PortMapping],
    protocol: Transport,
    file: impl BufRead,
) -> io::Result<Option<(PortMapping, SocketAddr)>> {
    // The first line has the names of the columns.
    for line in file.lines().skip(1) {
        let Some(socket) = ProcSocket::parse(&line?) else { continue };
        if protocol == Transport::Tcp && socket.state != ProcSocket::LISTEN {
            // Listeners come first. There may be many connections.
            break;
        }
        let taken = |port: &&PortMapping| port.protocol == protocol && socket.is_at(port);
        if socket.is_unconnected
            && let Some(port) = ports.iter().find(taken)
        {
            return Ok(Some((*port, socket.local)));
        }
    }
    Ok(None)
}

/// A line of `tcp`, `tcp6`, `udp` or `udp6` in /proc/net, see proc(5).
#[derive(Clone, Copy, Debug)]
struct ProcSocket {
    local: SocketAddr,
    is_unconnected: bool,
    state: u8,
}

impl ProcSocket {
    const LISTEN: u8 = 10;

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (words.next()?, words.next()?);
        let state = u8::from_str_radix(words.next()?, 16).ok()?;
        Some(Self { local: address(local)?, is_unconnected: address(remote)?.port() == 0, state })
    }

    fn is_at(&self, port: &PortMapping) -> bool {
        let overlaps = |ip: IpAddr| ip.is_unspecified() || self.local.ip().is_unspecified() || ip == self.local.ip();
        self.local.port() == port.host_port && port.host_ip.is_none_or(overlaps)
    }
}

/// Parses `ADDRESS:PORT`: words of 32 bits in the machine's byte order, and a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |i: usize| {
        let digits = address.get(i * 8..i * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (i, chunk) in octets.chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i)?);
            }
            IpAddr::from(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(protocol: Transport, host_ip: Option<&str>, host_port: u16) -> PortMapping {
        PortMapping { protocol, host_ip: host_ip.map(|ip| ip.parse().unwrap()), host_port, container_port: 80 }
    }

    #[test]
    fn ports_of_the_agent_and_of_kubelet_are_reserved() {
        let tunnel = ReservedPort { protocol: Transport::Udp, port: 4789, user: "the VXLAN tunnel".into() };
        for (port, user) in [
            (mapping(Transport::Udp, None, 4789), Some("the VXLAN tunnel")),
            (mapping(Transport::Udp, Some("192.0.2.1"), 4789), Some("the VXLAN tunnel")),
            (mapping(Transport::Tcp, None, 4789), None),
            (mapping(Transport::Tcp, None, 10250), Some("kubelet")),
            (mapping(Transport::Udp, None, 10250), None),
        ] {
            assert_eq!(reserved_for(&port, std::slice::from_ref(&tunnel)).as_deref(), user, "{port}");
        }
    }

    #[test]
    fn listeners_conflict_as_in_bind() {
        // 127.0.0.1:10249, 0.0.0.0:22 and a connection from port 8080, as a little-endian kernel
        // writes them.
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                   0: 0100007F:2809 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1\n   \
                   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2\n   \
                   2: 0100007F:1F90 0100007F:1F91 01 00000000:00000000 00:00000000 00000000     0        0 3\n";
        // [::ffff:192.0.2.1]:53 and [::1]:53, and a connected socket at [::1]:54.
        let udp = "  sl  local_address                         remote_address                        st\n   \
                   0: 0000000000000000FFFF0000010200C0:0035 00000000000000000000000000000000:0000 07 0\n   \
                   1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0\n   \
                   2: 00000000000000000000000001000000:0036 00000000000000000000000001000000:0035 01 0\n";
        let found = |protocol, host_ip, port| {
            let file = if protocol == Transport::Tcp { tcp } else { udp };
            let port = mapping(protocol, host_ip, port);
            conflict(&[port], protocol, file.as_bytes()).unwrap().map(|(_, listener)| listener.to_string())
        };
        let at = |listener: &str| Some(listener.to_owned());
        assert_eq!(found(Transport::Tcp, None, 10249), at("127.0.0.1:10249"));
        assert_eq!(found(Transport::Tcp, Some("127.0.0.1"), 10249), at("127.0.0.1:10249"));
        assert_eq!(found(Transport::Tcp, Some("192.0.2.1"), 10249), None, "another address");
        assert_eq!(found(Transport::Tcp, Some("192.0.2.1"), 22), at("0.0.0.0:22"));
        assert_eq!(found(Transport::Tcp, None, 8080), None, "no listener");
        assert_eq!(found(Transport::Udp, Some("192.0.2.1"), 53), at("192.0.2.1:53"));
        assert_eq!(found(Transport::Udp, Some("0.0.0.0"), 53), at("192.0.2.1:53"));
        assert_eq!(found(Transport::Udp, Some("::1"), 53), at("[::1]:53"));
        assert_eq!(found(Transport::Udp, None, 54), None, "connected");
    }
}
