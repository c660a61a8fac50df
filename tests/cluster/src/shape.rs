//! The shape of a cluster: number of nodes, proxy, network, subnets. `up` writes it to a file, so
//! that later commands know it.

use std::fs;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::settings::{CONTROL_PLANE, FAR, FIRST_HOST, MAX_NODES, NEAR, Subnet};

/// The service proxy of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Proxy {
    /// Ropeway, by `cluster install`
    Ropeway,
    /// Upstream's kube-proxy in its iptables mode
    KubeProxyIptables,
    /// Upstream's kube-proxy in its nftables mode
    KubeProxyNftables,
}

/// The CNI plugin of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Cni {
    /// Ropeway, by `cluster install`
    Ropeway,
    /// The reference plugins ptp, host-local and portmap, with static routes
    Reference,
}

/// The shape that `up` was asked to build, and the options for it.
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Worker nodes, beside the control plane's
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(super) nodes: usize,
    /// The service proxy
    #[arg(long, value_enum, default_value_t = Proxy::Ropeway)]
    pub(super) proxy: Proxy,
    /// The CNI plugin
    #[arg(long, value_enum, default_value_t = Cni::Ropeway)]
    pub(super) cni: Cni,
    /// Put the last node into another subnet, behind a router
    #[arg(long)]
    pub(super) routed: bool,
}

/// A node: the control plane or a worker.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) subnet: Subnet,
    host: usize,
}

impl Shape {
    /// Rejects a shape that cannot be built.
    pub(super) fn check(&self) -> Result<()> {
        ensure!((1..=MAX_NODES).contains(&self.nodes), "--nodes {}: must be between 1 and {MAX_NODES}", self.nodes);
        Ok(())
    }

    /// Returns true if the cluster needs `install`: Ropeway is its proxy or its network.
    pub(super) fn has_agents(&self) -> bool {
        self.proxy == Proxy::Ropeway || self.cni == Cni::Ropeway
    }

    /// Returns all nodes, the control plane's first.
    pub(super) fn all(&self) -> Vec<Node> {
        std::iter::once(Node::control_plane()).chain(self.workers()).collect()
    }

    /// Returns the nodes that take any pod.
    pub(super) fn workers(&self) -> Vec<Node> {
        (1..=self.nodes).map(|i| self.worker(i)).collect()
    }

    fn worker(&self, index: usize) -> Node {
        let far = self.routed && index == self.nodes;
        Node { name: format!("n{index}"), subnet: if far { FAR } else { NEAR }, host: FIRST_HOST + index }
    }

    /// Returns the shape of the cluster that is up, if any.
    pub(super) fn read(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.run().join("cluster.json");
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).with_context(|| format!("cannot parse {}", path.display()))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Returns the shape of the cluster that is up; an error if there is none.
    pub(super) fn require(layout: &Layout) -> Result<Self> {
        Self::read(layout)?.context("no cluster is up: start one with `cargo xtask cluster up`")
    }

    /// Writes the shape for later commands.
    pub(super) fn write(&self, layout: &Layout) -> Result<()> {
        let path = layout.run().join("cluster.json");
        fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Node {
    pub(super) fn control_plane() -> Self {
        Self { name: CONTROL_PLANE.into(), subnet: NEAR, host: FIRST_HOST }
    }

    pub(super) fn is_control_plane(&self) -> bool {
        self.name == CONTROL_PLANE
    }

    pub(super) fn v4(&self) -> String {
        format!("{}.{}", self.subnet.v4, self.host)
    }

    pub(super) fn v6(&self) -> String {
        format!("{}{}", self.subnet.v6, self.host)
    }

    /// Returns the MAC of the node's uplink, locally administered.
    pub(super) fn mac(&self) -> String {
        format!("02:00:00:00:00:{:02x}", self.host)
    }

    /// Returns the node's zone; each worker has a different one.
    pub(super) fn zone(&self) -> String {
        format!("z{}", self.host - FIRST_HOST)
    }
}

impl Subnet {
    /// Returns the fabric's IPv4 address in the subnet.
    pub(super) fn gateway4(&self) -> String {
        format!("{}.1", self.v4)
    }

    /// Returns the fabric's IPv6 address in the subnet.
    pub(super) fn gateway6(&self) -> String {
        format!("{}1", self.v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_names_addresses_and_zones() {
        let shape = Shape { nodes: 2, proxy: Proxy::Ropeway, cni: Cni::Ropeway, routed: true };
        let all: Vec<_> = shape.all().iter().map(|n| (n.name.clone(), n.v4(), n.v6(), n.zone())).collect();
        let expected = [
            ("cp", "192.168.50.10", "fd00:50::10", "z0"),
            ("n1", "192.168.50.11", "fd00:50::11", "z1"),
            ("n2", "192.168.51.12", "fd00:51::12", "z2"),
        ];
        assert_eq!(all, expected.map(|(a, b, c, d)| (a.into(), b.into(), c.into(), d.into())));
    }

    #[test]
    fn cluster_without_workers_is_rejected() {
        let shape = Shape { nodes: 0, proxy: Proxy::Ropeway, cni: Cni::Ropeway, routed: false };
        assert_eq!(shape.check().unwrap_err().to_string(), "--nodes 0: must be between 1 and 20");
    }
}
