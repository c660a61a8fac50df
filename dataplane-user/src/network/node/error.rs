//! The error of the node's task.
//!
//! Each job of the task returns its own error or this one. The task logs it and tries again; an
//! error during the first refresh ends the agent.

use dataplane_host::contract::FileError;
use dataplane_host::map::MapError;
use dataplane_host::netlink::NetlinkError;

use super::host_device::HostDeviceError;
use crate::load::LoadError;
use crate::network::tunnel::TunnelError;

/// Error of a refresh; the message names the object.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Links, addresses or routes could not be read or changed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A tunnel could not be created or configured.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The host devices could not be created or configured.
    #[error(transparent)]
    HostDevice(#[from] HostDeviceError),
    /// Programs could not be attached, or the configuration map not be written.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The LPM tries of networks could not be read or written.
    #[error(transparent)]
    Map(#[from] MapError),
    /// node.json could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel returned no cookie (`SO_NETNS_COOKIE`).
    #[error("cannot read the cookie of the node's network namespace: {0}")]
    Namespace(#[source] std::io::Error),
    /// The thread of the netlink monitor could not be created.
    #[error("cannot watch devices, addresses and routes: {0}")]
    Monitor(#[from] std::io::Error),
}
