//! All errors of the plugin, each with its code of the CNI specification.
//!
//! The runtime shows code, message and details to the operator, usually in an Event of the pod.

use std::io;
use std::net::IpAddr;

use dataplane_host::contract::FileError;
use dataplane_host::map::MapError;
use dataplane_host::netlink::NetlinkError;
use dataplane_host::pins::PinError;
use dataplane_host::store::StoreError;

/// Longest message in bytes; the rest is cut off. Runtimes pass messages on to Events and logs.
const MOST_MESSAGE: usize = 16 << 10;

/// The reason why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniError {
    #[error("configuration has cniVersion {found}, this plugin supports {}", crate::spec::VERSIONS.join(", "))]
    Version { found: String },
    #[error("{verb} is part of the specification from {since} on, the configuration has cniVersion {found}")]
    TooOld { verb: &'static str, since: &'static str, found: &'static str },
    #[error("environment variable {name}: {reason}")]
    Environment { name: &'static str, reason: String },
    #[error("cannot open network namespace {path}: {source}")]
    NoNetns { path: String, source: io::Error },
    #[error("interface {ifname} already exists in network namespace {netns}")]
    NameTaken { ifname: String, netns: String },
    #[error("{attempt}: {source}")]
    Io { attempt: String, source: io::Error },
    #[error("{what}: {reason}")]
    Decode { what: String, reason: String },
    #[error("configuration: {field}: {reason}")]
    Config { field: &'static str, reason: String },
    #[error("no address ranges: the configuration has no \"ranges\" and the agent has not yet written {path}")]
    NoNodeData { path: String },
    #[error("no address now, the runtime will retry: {reason}")]
    PoolsNotReady { reason: String },
    #[error("another call has been working on {id} for {seconds} s")]
    StillBusy { id: String, seconds: u64 },
    #[error("no interface index below {} is free", dataplane_common::types::pod::POD_SLOTS)]
    NoIndex,
    #[error(
        "address {address} cannot be given to a pod: the map of addresses has it as an address of this node or of a Service"
    )]
    AddressTaken { address: IpAddr },
    #[error("{port} of this node is taken: it leads to the pod with address {holder}")]
    PortTaken { port: String, holder: IpAddr },
    #[error("{port} of this node is taken by {user}")]
    PortInUse { port: String, user: String },
    #[error("the attachment differs from what ADD created: {}", .0.join("; "))]
    Differs(Vec<String>),
    #[error("not ready for ADD: {reason}")]
    NotReady { reason: Box<CniError> },
    #[error("not ready for ADD, and there are pods: {reason}")]
    Degraded { reason: Box<CniError> },
    #[error("no free address in {}", ranges.join(", "))]
    NoneFree { ranges: Vec<String> },
    #[error("{} of {all} attachments could not be removed: {}", errors.len(), errors.join("; "))]
    Incomplete { all: usize, errors: Vec<String> },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("network setup: {0}")]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl CniError {
    pub(crate) fn io(attempt: impl Into<String>, source: io::Error) -> Self {
        Self::Io { attempt: attempt.into(), source }
    }

    pub(crate) fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Config { field, reason: reason.into() }
    }

    pub(crate) fn environment(name: &'static str, reason: impl Into<String>) -> Self {
        Self::Environment { name, reason: reason.into() }
    }

    /// Codes 1 to 99 have the meaning of the specification, from 100 on ours (README.md lists
    /// them).
    pub(crate) const fn code(&self) -> u32 {
        match self {
            Self::Version { .. } | Self::TooOld { .. } => 1,
            Self::NoNetns { .. } => 3,
            Self::Environment { .. } | Self::NameTaken { .. } => 4,
            Self::Io { .. }
            | Self::File(FileError::Read { .. } | FileError::Write { .. })
            | Self::Store(StoreError::Io { .. }) => 5,
            Self::Decode { .. } | Self::File(_) => 6,
            Self::Config { .. } | Self::Store(StoreError::Range { .. }) => 7,
            Self::NoNodeData { .. }
            | Self::StillBusy { .. }
            | Self::PoolsNotReady { .. }
            | Self::Store(StoreError::Busy { .. } | StoreError::InUse { .. } | StoreError::CoolingDown { .. })
            | Self::Pin(PinError::NeverRan { .. })
            | Self::Map(MapError::Pin(PinError::NeverRan { .. })) => 11,
            Self::Store(StoreError::Exhausted { .. }) | Self::NoneFree { .. } => 100,
            Self::Pin(PinError::OtherAbi { .. }) | Self::Map(MapError::Pin(PinError::OtherAbi { .. })) => 101,
            Self::Netlink(_) => 102,
            Self::Map(_) | Self::Pin(_) => 103,
            Self::NoIndex => 104,
            Self::Store(StoreError::Unsafe { .. }) => 105,
            Self::AddressTaken { .. } => 106,
            Self::Differs(_) => 107,
            Self::Incomplete { .. } => 108,
            Self::PortTaken { .. } | Self::PortInUse { .. } => 109,
            Self::NotReady { .. } => 50,
            Self::Degraded { .. } => 51,
        }
    }

    /// Returns advice for the operator, which the runtime shows after the message.
    const fn details(&self) -> &'static str {
        match self {
            Self::Pin(PinError::NeverRan { .. }) | Self::Map(MapError::Pin(PinError::NeverRan { .. })) => {
                "ropeway-agent makes the pins when it starts; look at its log, and at the plugin's pinRoot"
            }
            Self::Pin(PinError::OtherAbi { .. }) | Self::Map(MapError::Pin(PinError::OtherAbi { .. })) => {
                "install agent and plugin of the same version"
            }
            Self::Store(StoreError::Exhausted { .. }) => {
                "addresses of removed pods come back when the runtime has called DEL for them"
            }
            Self::NoNodeData { .. } => "ropeway-agent writes it when it knows the node's podCIDRs or blocks",
            Self::PoolsNotReady { .. } => {
                "ropeway ipam show lists this node's pools and blocks; the agent's log has more"
            }
            Self::PortInUse { .. } => "choose another hostPort, or stop the process that has the port",
            _ => "",
        }
    }

    /// Renders the error object of the specification.
    pub(crate) fn to_json(&self, version: &str) -> String {
        let mut message = self.to_string();
        if message.len() > MOST_MESSAGE {
            let end = (0..=MOST_MESSAGE).rev().find(|end| message.is_char_boundary(*end));
            message.truncate(end.unwrap_or(0));
            message.push_str("...");
        }
        let error = serde_json::json!({
            "cniVersion": version,
            "code": self.code(),
            "msg": message,
            "details": self.details(),
        });
        error.to_string()
    }
}
