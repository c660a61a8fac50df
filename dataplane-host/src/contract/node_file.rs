//! `node.json`: the pod ranges and the MTU of this node.
//!
//! The agent writes the file as soon as it knows the node's pod ranges, and again after each
//! change. The plugin reads it at each ADD, CHECK and DEL; `ropeway ipam` reads it to list the
//! ranges. A node whose addresses come from IP pools has `pools` set and its blocks in
//! [`super::pools::PoolsFile`].

use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::AgentFile;
use crate::store::Transport;

/// The content of `node.json`. Fields other than `version` may be missing, as in files that were
/// written by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    /// Version of the format.
    pub version: u32,
    /// Name of the Node object.
    #[serde(default)]
    pub node: String,
    /// The node's pod ranges; empty if `pools` is set.
    #[serde(rename = "podCIDRs", default)]
    pub pod_cidrs: Vec<IpNetwork>,
    /// MTU of pod devices in bytes; 0: the agent does not know it.
    #[serde(default)]
    pub mtu: u32,
    /// Ports of the node that no pod gets as a host port.
    #[serde(rename = "reservedPorts", default, skip_serializing_if = "Vec::is_empty")]
    pub reserved_ports: Vec<ReservedPort>,
    /// Pod addresses come from the node's blocks of IP pools.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pools: bool,
}

/// A port of the node that no pod gets as a host port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedPort {
    /// Transport protocol of the port.
    pub protocol: Transport,
    /// The port.
    pub port: u16,
    /// What has the port, such as `the VXLAN tunnel`.
    pub user: String,
}

impl AgentFile for NodeFile {
    const NAME: &str = "node.json";
    const VERSIONS: RangeInclusive<u32> = 1..=1;
}

impl NodeFile {
    /// Returns the content for a node whose pod addresses come from fixed ranges.
    #[must_use]
    pub fn new(node: &str, pod_cidrs: &[IpNetwork], mtu: u32) -> Self {
        let version = *Self::VERSIONS.end();
        Self { version, node: node.into(), pod_cidrs: pod_cidrs.into(), mtu, ..Self::default() }
    }

    /// Returns the content for a node whose pod addresses come from blocks of IP pools.
    #[must_use]
    pub fn of_pools(node: &str, mtu: u32) -> Self {
        Self { pools: true, ..Self::new(node, &[], mtu) }
    }

    /// Returns the content with these reserved ports.
    #[must_use]
    pub fn with_reserved_ports(self, reserved_ports: Vec<ReservedPort>) -> Self {
        Self { reserved_ports, ..self }
    }
}
