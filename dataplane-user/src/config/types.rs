//! Values of single settings, each with one text form for flags, environment and file.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use dataplane_common::types::service::scheduler;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// Where objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A Kubernetes API server
    Kubernetes,
    /// A directory of manifests; no cluster
    Manifests,
}

/// Where this node's pods get their addresses from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Ipam {
    /// spec.podCIDRs of the Node object
    #[default]
    PodCidr,
    /// Blocks of `IPPool` objects, which the agent claims
    Pools,
    /// The ranges of --pod-cidr
    Configured,
    /// Another CNI plugin gives them out: no routes, no CNI configuration
    None,
}

/// The form of log messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for a person
    Text,
    /// A JSON object on a line
    Json,
}

/// The rule that picks a backend, as in `ipvsadm(8)`; by its number in [`dataplane_common::types::service::scheduler`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Scheduler {
    /// Each connection anew
    #[default]
    Random = scheduler::RANDOM,
    /// In turn
    Rr = scheduler::RR,
    /// In turn, in proportion to the weights
    Wrr = scheduler::WRR,
    /// By the client's address
    Sh = scheduler::SH,
    /// By the address that was asked for
    Dh = scheduler::DH,
    /// By the client's address, in a Maglev table
    Mh = scheduler::MH,
    /// Fewest connections
    Lc = scheduler::LC,
    /// Fewest connections for its weight
    Wlc = scheduler::WLC,
    /// Shortest expected delay
    Sed = scheduler::SED,
    /// An idle one, else the shortest expected delay
    Nq = scheduler::NQ,
}

/// How programs are attached to uplinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkAttach {
    /// tcx where the kernel has it, else clsact
    #[default]
    Auto,
    /// A pinned tcx link (Linux 6.6)
    Tcx,
    /// A filter of the clsact queueing discipline
    Clsact,
}

/// Which of the node's addresses have node ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum NodePortRange {
    /// The node's own address of each family.
    Primary,
    /// Those in this range.
    Range(IpNetwork),
}

/// Why a text says nothing about node ports.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a CIDR nor `primary`")]
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

/// Which nodes' pods are reached by the tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteMode {
    /// Those behind a router
    #[default]
    Auto,
    /// None
    Direct,
    /// All
    Vxlan,
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    /// First.
    pub first: u16,
    /// Last.
    pub last: u16,
}

impl PortRange {
    /// Whether the two have a port in common.
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

/// Why a text is no port range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port range: expected FIRST-LAST with 1 <= FIRST <= LAST <= 65535, such as 61000-65535")]
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
