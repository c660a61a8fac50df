//! Nodes on a common link, with a directory of manifests in place of an API server and a client outside.
//!
//! The link is a bridge in a space of its own. Node `n1` has the addresses 192.168.50.11 and `fd00:50::11` and the pod
//! ranges 10.244.1.0/24 and `fd00:10:244:1::/64`, and so on; the client has 192.168.50.1 and `fd00:50::1` and is every node's
//! default gateway, as the way out of a data centre would be.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::Agent;
use crate::manifest;
use crate::pod::{Family, Pod};
use crate::run::Run;
use crate::space::{Kind, Space};

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many nodes.
    pub nodes: u8,
    /// MTU of the common link.
    pub mtu: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 2, mtu: 1500 }
    }
}

/// Nodes, their network, their manifests. Ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, `n1` first.
    pub nodes: Vec<Node>,
    /// A machine on the link that is no node.
    pub client: Space,
    /// The machine with the bridge.
    pub fabric: Space,
    // Last: it ends what is still there.
    run: Run,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its namespaces.
    pub space: Space,
    /// Its agent, while it runs.
    pub agent: Option<Agent>,
    number: u8,
    manifests: PathBuf,
    log: PathBuf,
}

impl Cluster {
    /// Namespaces and links; no agent yet.
    ///
    /// # Errors
    /// Without root.
    pub fn network(shape: Shape) -> Result<Self> {
        Self::network_in(Run::start()?, shape, false)
    }

    /// [`Cluster::network`] in a run of one's own, which may outlive this process.
    ///
    /// # Errors
    /// Without root.
    pub fn network_in(run: Run, shape: Shape, stay: bool) -> Result<Self> {
        let manifests = run.files().join("manifests");
        fs::create_dir(&manifests)?;
        let fabric = Space::make(&run, "fabric", Kind { forward: false, stay })?;
        fabric.ip(&[format!("link add br0 mtu {} type bridge", shape.mtu), "link set br0 up".to_owned()])?;
        let client = Space::make(&run, "client", Kind { forward: true, stay })?;
        join(&fabric, &client, shape.mtu, 1)?;
        let mut nodes = Vec::new();
        let mut objects = Vec::new();
        for number in 1..=shape.nodes {
            let space = Space::make(&run, &format!("n{number}"), Kind { forward: true, stay })?;
            join(&fabric, &space, shape.mtu, number + 10)?;
            space.ip(&["route add default via 192.168.50.1", "route add default via fd00:50::1"])?;
            let log = run.files().join(format!("agent-n{number}.log"));
            let node = Node { space, agent: None, number, manifests: manifests.clone(), log };
            objects.push(manifest::node(
                node.name(),
                &Family::BOTH.map(|family| node.address(family)),
                &node.pod_cidrs(),
            ));
            nodes.push(node);
        }
        let cluster = Self { nodes, client, fabric, run };
        cluster.apply("nodes", &objects)?;
        Ok(cluster)
    }

    /// [`Cluster::network`] with a ready agent on each node.
    ///
    /// # Errors
    /// When an agent doesn't get ready.
    pub fn start(shape: Shape) -> Result<Self> {
        let mut cluster = Self::network(shape)?;
        cluster.start_agents()?;
        Ok(cluster)
    }

    /// Starts all agents, then waits for them.
    ///
    /// # Errors
    /// When one doesn't get ready.
    pub fn start_agents(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start_agent(&[])?;
        }
        for node in &mut self.nodes {
            node.await_agent()?;
        }
        Ok(())
    }

    /// Puts objects into a file of the directory of manifests, in one step.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn apply(&self, file: &str, objects: &[Value]) -> Result<()> {
        let text: Vec<_> = objects.iter().map(ToString::to_string).collect();
        self.apply_text(file, &text.join("\n---\n"))
    }

    /// [`Cluster::apply`], with the text of the file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn apply_text(&self, file: &str, text: &str) -> Result<()> {
        let fresh = self.run.files().join("fresh.yaml");
        fs::write(&fresh, text).with_context(|| format!("{}", fresh.display()))?;
        let place = self.manifests().join(format!("{file}.yaml"));
        fs::rename(&fresh, &place).with_context(|| format!("{}", place.display()))
    }

    /// Removes a file from the directory of manifests.
    ///
    /// # Errors
    /// When it is not there.
    pub fn withdraw(&self, file: &str) -> Result<()> {
        let place = self.manifests().join(format!("{file}.yaml"));
        fs::remove_file(&place).with_context(|| format!("{}", place.display()))
    }

    /// The directory of manifests.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.run.files().join("manifests")
    }

    /// Where files of this run are.
    #[must_use]
    pub fn files(&self) -> &Path {
        self.run.files()
    }

    /// Ends everything, and says so if that fails.
    ///
    /// # Errors
    /// When something stays.
    pub fn end(self) -> Result<()> {
        let Self { nodes, client, fabric, run } = self;
        drop((nodes, client, fabric));
        run.end()
    }

    /// Leaves everything as it is, for a run that is kept.
    pub fn leave(self) {
        for node in self.nodes {
            if let Some(agent) = node.agent {
                agent.leave();
            }
        }
    }
}

impl Node {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.space.name()
    }

    /// Its address on the common link.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        address(family, self.number + 10)
    }

    /// A port of its address.
    #[must_use]
    pub fn port(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    /// The ranges of its pods.
    #[must_use]
    pub fn pod_cidrs(&self) -> Vec<String> {
        vec![format!("10.244.{}.0/24", self.number), format!("fd00:10:244:{}::/64", self.number)]
    }

    /// Starts its agent.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_agent(&mut self, flags: &[&str]) -> Result<()> {
        self.agent = Some(Agent::start(&self.space, &self.manifests, &self.log, flags)?);
        Ok(())
    }

    /// Waits for its agent.
    ///
    /// # Errors
    /// When it doesn't get ready.
    pub fn await_agent(&mut self) -> Result<()> {
        self.agent.as_mut().with_context(|| format!("{} has no agent", self.space.name()))?.await_ready()
    }

    /// Kills its agent.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().with_context(|| format!("{} has no agent", self.space.name()))?.kill()
    }

    /// A pod on it.
    ///
    /// # Errors
    /// What the plugin said.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        Pod::add(&self.space, name)
    }
}

/// The address of a machine on the common link.
#[must_use]
pub fn address(family: Family, machine: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 168, 50, machine).into(),
        // Written as people read it: fd00:50::11 for machine 11.
        Family::V6 => {
            Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, u16::from(machine / 10) * 16 + u16::from(machine % 10)).into()
        }
    }
}

/// Plugs a space into the bridge.
fn join(fabric: &Space, space: &Space, mtu: u32, machine: u8) -> Result<()> {
    let (name, pid) = (space.name(), space.pid());
    fabric.ip(&[
        format!("link add {name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pid}"),
        format!("link set {name} master br0 up"),
    ])?;
    space.ip(&[
        format!("address add {}/24 dev eth0", address(Family::V4, machine)),
        format!("address add {}/64 dev eth0 nodad", address(Family::V6, machine)),
        "link set eth0 up".to_owned(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_alike_in_both_families() {
        assert_eq!(address(Family::V4, 12).to_string(), "192.168.50.12");
        assert_eq!(address(Family::V6, 12).to_string(), "fd00:50::12");
        assert_eq!(address(Family::V6, 1).to_string(), "fd00:50::1");
    }
}
