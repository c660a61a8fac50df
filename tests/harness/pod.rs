//! A pod: a network namespace on a node, connected by the plugin.
//!
//! Tests add and delete pods as a container runtime does, through [`crate::plugin`]. Servers and
//! clients are started in it with [`crate::load`].

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::machine::Machine;
use crate::plugin::{self, Attachment};
use crate::run;

/// A pod that the plugin has wired.
#[derive(Debug)]
pub struct Pod {
    node: Machine,
    name: String,
    attachment: Attachment,
    conflist: Value,
    result: Value,
    addresses: Vec<IpAddr>,
}

impl Pod {
    /// Makes a namespace and calls ADD.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn add(node: &Machine, name: &str) -> Result<Self> {
        Self::add_with(node, name, plugin::conflist())
    }

    /// Creates a pod like [`Pod::add`], with a given conflist.
    ///
    /// # Errors
    /// When the plugin fails; the namespace is removed again.
    pub fn add_with(node: &Machine, name: &str, conflist: Value) -> Result<Self> {
        let attachment = Self::namespace(node, name)?;
        let (result, raw) = match plugin::add(node, &attachment, &conflist) {
            Ok(result) => result,
            Err(error) => {
                node.ip(&[format!("netns del {name}")])?;
                return Err(error);
            }
        };
        let addresses = result.addresses()?;
        Ok(Self { node: node.clone(), name: name.to_owned(), attachment, conflist, result: raw, addresses })
    }

    /// Creates only the namespace of a pod, as a runtime does before ADD.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn namespace(node: &Machine, name: &str) -> Result<Attachment> {
        node.ip(&[format!("netns add {name}")])?;
        let netns = format!("/run/netns/{name}");
        node.ip_in(Some(&netns), &["link set lo up"])?;
        let container = format!("{name}-0123456789abcdef");
        Ok(Attachment { container, netns, interface: "eth0".to_owned(), pod: name.to_owned() })
    }

    /// Returns the name of pod and namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the node of the pod.
    #[must_use]
    pub fn node(&self) -> &Machine {
        &self.node
    }

    /// Returns the result of ADD.
    #[must_use]
    pub fn result(&self) -> &Value {
        &self.result
    }

    /// Returns the names that the runtime passes to the plugin.
    #[must_use]
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Returns the addresses from the result of ADD.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Returns the pod's address of a family.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self, family: IpFamily) -> Result<IpAddr> {
        let mut of = self.addresses.iter().filter(|address| family.has(**address));
        of.next().copied().with_context(|| format!("{} has no {family:?} address", self.name))
    }

    /// Returns the pod's address of a family with a port.
    ///
    /// # Errors
    /// When it has none.
    pub fn port(&self, family: IpFamily, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.address(family)?, port))
    }

    /// Returns a command that runs inside the pod.
    ///
    /// # Errors
    /// When its cgroup can't be made.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.node.command_in(&format!("pods/{}", self.name), Some(&self.attachment.netns), program)
    }

    /// Runs `ip` inside the pod.
    ///
    /// # Errors
    /// When a command fails.
    pub fn ip(&self, lines: &[impl AsRef<str>]) -> Result<()> {
        self.node.ip_in(Some(&self.attachment.netns), lines)
    }

    /// Ends its processes, calls DEL, removes the namespace.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn delete(self) -> Result<()> {
        let cgroup = self.node.cgroup().join("pods").join(&self.name);
        run::kill(&cgroup)?;
        run::remove_cgroups(&cgroup)?;
        plugin::delete(&self.node, &self.attachment, &self.conflist, Some(&self.result))?;
        self.node.ip(&[format!("netns del {}", self.name)])
    }
}

/// The IP version of an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum IpFamily {
    /// IP version 4.
    V4,
    /// IP version 6.
    V6,
}

impl IpFamily {
    /// Both families, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Returns true if the address is of this family.
    #[must_use]
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}
