//! Types of single options, each with one text form for flags, environment variables and file.
//!
//! `Options` and `Config` hold them; `load`, `node` and `routes` match on them. The doc comment of
//! a variant is its line in `--help` and in docs/configuration.md. Checks across options are in the
//! parent module.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use dataplane_common::types::service::scheduler;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// Origin of Services, EndpointSlices and Nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A Kubernetes API server
    Kubernetes,
    /// A directory of manifests, without a cluster
    Manifests,
}

/// Source of this node's pod addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Ipam {
    /// spec.podCIDRs of the Node object
    #[default]
    PodCidr,
    /// Blocks of `IPPool` objects, which the agent claims for the node
    Pools,
    /// The ranges of --pod-cidr
    Configured,
    /// Another CNI plugin attaches the pods: no routes, no CNI configuration
    None,
}

/// Format of log messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text per message
    Text,
    /// One JSON object per line
    Json,
}

/// Scheduler of a Service, with the names of `ipvsadm(8)`.
///
/// The discriminants are the numbers of `dataplane_common::types::service::scheduler`, which
/// the maps hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Scheduler {
    /// A random backend for each connection
    #[default]
    Random = scheduler::RANDOM,
    /// Round robin
    Rr = scheduler::RR,
    /// Round robin in proportion to the weights
    Wrr = scheduler::WRR,
    /// Hash of the client's address
    Sh = scheduler::SH,
    /// Hash of the destination address
    Dh = scheduler::DH,
    /// Hash of the client's address in a Maglev table
    Mh = scheduler::MH,
    /// Least connections
    Lc = scheduler::LC,
    /// Least connections in proportion to the weights
    Wlc = scheduler::WLC,
    /// Shortest expected delay
    Sed = scheduler::SED,
    /// An idle backend, else the shortest expected delay
    Nq = scheduler::NQ,
}

/// The processes whose connections the socket hooks translate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketScope {
    /// Those of pods and of the node
    #[default]
    All,
    /// Those of the node; the connections of pods are translated packet by packet
    Node,
}

/// Kind of attachment of the programs to uplinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkAttach {
    /// tcx from Linux 6.6, else clsact
    #[default]
    Auto,
    /// A pinned tcx link (Linux 6.6)
    Tcx,
    /// A tc filter of the clsact qdisc
    Clsact,
}

/// The node addresses at which node ports are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum NodePortRange {
    /// The node's primary address of each family.
    Primary,
    /// Every address of the node within this range.
    Range(IpNetwork),
}

/// Error of parsing a [`NodePortRange`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a CIDR nor `primary`: use for example 192.0.2.0/24")]
pub struct NodePortRangeError(String);

impl FromStr for NodePortRange {
    type Err = NodePortRangeError;

    fn from_str(text: &str) -> Result<Self, NodePortRangeError> {
        match text.trim() {
            "primary" => Ok(Self::Primary),
            other => other.parse().map(Self::Range).map_err(|_| NodePortRangeError(text.into())),
        }
    }
}

impl TryFrom<String> for NodePortRange {
    type Error = NodePortRangeError;

    fn try_from(text: String) -> Result<Self, NodePortRangeError> {
        text.parse()
    }
}

impl From<NodePortRange> for String {
    fn from(range: NodePortRange) -> Self {
        match range {
            NodePortRange::Primary => "primary".into(),
            NodePortRange::Range(range) => range.to_string(),
        }
    }
}

/// The addresses of `spec.externalIPs` that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum ExternalIpRange {
    /// All that belong to no node, pod, cluster IP or server of the node.
    All,
    /// No address.
    None,
    /// Those within this range.
    Range(IpNetwork),
}

/// Error of parsing an [`ExternalIpRange`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a CIDR nor `all` nor `none`: use for example 203.0.113.0/24")]
pub struct ExternalIpRangeError(String);

impl FromStr for ExternalIpRange {
    type Err = ExternalIpRangeError;

    fn from_str(text: &str) -> Result<Self, ExternalIpRangeError> {
        match text.trim() {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            other => other.parse().map(Self::Range).map_err(|_| ExternalIpRangeError(text.into())),
        }
    }
}

impl TryFrom<String> for ExternalIpRange {
    type Error = ExternalIpRangeError;

    fn try_from(text: String) -> Result<Self, ExternalIpRangeError> {
        text.parse()
    }
}

impl From<ExternalIpRange> for String {
    fn from(range: ExternalIpRange) -> Self {
        match range {
            ExternalIpRange::All => "all".into(),
            ExternalIpRange::None => "none".into(),
            ExternalIpRange::Range(range) => range.to_string(),
        }
    }
}

/// Nodes whose pods are reached through the VXLAN tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteMode {
    /// Nodes behind a router
    #[default]
    Auto,
    /// No node: routes only
    Direct,
    /// All nodes
    Vxlan,
}

/// A range of ports, `first` and `last` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    /// Lowest port, at least 1.
    pub first: u16,
    /// Highest port, at least `first`.
    pub last: u16,
}

impl PortRange {
    /// Returns true if the two ranges share a port.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Error of parsing a [`PortRange`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port range: use FIRST-LAST with 1 <= FIRST <= LAST <= 65535, such as 61000-65535")]
pub struct PortRangeError(String);

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let parse = || {
            let (first, last) = text.split_once('-')?;
            Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
        };
        parse().filter(|r| r.first > 0 && r.first <= r.last).ok_or_else(|| PortRangeError(text.into()))
    }
}

impl TryFrom<String> for PortRange {
    type Error = PortRangeError;

    fn try_from(text: String) -> Result<Self, PortRangeError> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}
