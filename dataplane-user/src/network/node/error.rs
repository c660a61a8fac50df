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
    /// Several parts of a refresh have failed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<NodeError>),
}

impl NodeError {
    /// Returns the failures of a refresh as one result.
    ///
    /// # Errors
    /// There are failures: the only one, or [`Self::Several`].
    pub(super) fn of_all(mut failed: Vec<Self>) -> Result<(), Self> {
        match failed.len() {
            0 | 1 => failed.pop().map_or(Ok(()), Err),
            _ => Err(Self::Several(failed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_of_a_refresh_is_in_the_error() {
        let tunnel = |name| NodeError::from(TunnelError::Foreign { name });
        assert!(NodeError::of_all(vec![]).is_ok());
        let one = NodeError::of_all(vec![tunnel("ropeway.vx4")]).unwrap_err();
        assert!(matches!(one, NodeError::Tunnel(_)), "{one}");
        let namespace = NodeError::Namespace(std::io::ErrorKind::Unsupported.into());
        let all = NodeError::of_all(vec![tunnel("ropeway.vx4"), tunnel("ropeway.vx6"), namespace]).unwrap_err();
        let text = all.to_string();
        assert!(["ropeway.vx4", "ropeway.vx6", "cookie"].iter().all(|part| text.contains(part)), "{text}");
    }
}
