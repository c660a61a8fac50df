//! A host port of an attachment, as its record stores it.
//!
//! The plugin parses it from the runtime's `portMappings` and writes it to the maps.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A port of the node from which traffic is forwarded to a port of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMapping {
    /// Transport protocol of the port.
    pub protocol: Transport,
    /// The node's address; unspecified: all addresses of its family; `None`: all addresses.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The node's port, not 0.
    pub host_port: u16,
    /// The pod's port, not 0.
    pub container_port: u16,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "their names say it")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl fmt::Display for PortMapping {
    /// Writes protocol, address and port, e.g. `TCP port 192.0.2.1:8080`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(ip) => write!(f, "{} port {}", self.protocol, SocketAddr::new(ip, self.host_port)),
            None => write!(f, "{} port {}", self.protocol, self.host_port),
        }
    }
}
