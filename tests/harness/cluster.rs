//! Nodes on a common link, with a directory of manifests in place of an API server and a client
//! outside.
//!
//! The link is a bridge in a separate machine. Node `n1` has the addresses 192.168.50.11 and
//! `fd00:50::11` and the pod ranges 10.244.1.0/24 and `fd00:10:244:1::/64`, and so on. The client
//! has 192.168.50.1 and `fd00:50::1` and is every node's default gateway, like a data centre's
//! router.
//!
//! A routed cluster has several such links: nodes of the second one have 192.168.51.14 and
//! `fd00:51::14`, and the client, with the first address of each, is the router between them. It
//! has no routes to pods and drops packets from and to their addresses.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::{Agent, Source};
use crate::machine::{Machine, MachineOptions};
use crate::manifest;
use crate::pod::{IpFamily, Pod};
use crate::run::Run;

/// The size of a cluster with one link.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of nodes.
    pub nodes: u8,
    /// MTU of the common link.
    pub mtu: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 2, mtu: 1500 }
    }
}

/// Nodes, their network and their manifests. Dropping it removes everything.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, `n1` first.
    pub nodes: Vec<Node>,
    /// A machine on the link that is not a node.
    pub client: Machine,
    /// The machine with the bridge.
    pub fabric: Machine,
    // Dropped last: removes everything that is left.
    run: Run,
}

/// A node of the cluster, with or without a running agent.
#[derive(Debug)]
pub struct Node {
    /// The namespaces of the node.
    pub machine: Machine,
    /// The agent process, while it runs.
    pub agent: Option<Agent>,
    number: u8,
    link: u8,
    manifests: PathBuf,
    log: PathBuf,
}

impl Cluster {
    /// Creates namespaces and links, without agents.
    ///
    /// # Errors
    /// When the process is not root.
    pub fn network(shape: Shape) -> Result<Self> {
        Self::network_in(Run::start()?, shape, false)
    }

    /// Runs [`Cluster::network`] in a given run, which may outlive this process.
    ///
    /// # Errors
    /// When the process is not root.
    pub fn network_in(run: Run, shape: Shape, stay: bool) -> Result<Self> {
        Self::build(run, &vec![0; shape.nodes.into()], shape.mtu, stay)
    }

    /// Creates namespaces like [`Cluster::network`], on several links with a router between them.
    /// `links`: the link of each node, counted from 0.
    ///
    /// # Errors
    /// When the process is not root.
    pub fn routed(links: &[u8], mtu: u32) -> Result<Self> {
        let cluster = Self::build(Run::start()?, links, mtu, false)?;
        cluster.client.ip(&["route add prohibit 10.244.0.0/16", "route add prohibit fd00:10:244::/48"])?;
        cluster.client.output(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter"])?;
        Ok(cluster)
    }

    fn build(run: Run, links: &[u8], mtu: u32, stay: bool) -> Result<Self> {
        let manifests = run.files().join("manifests");
        fs::create_dir(&manifests)?;
        let fabric = Machine::make(&run, "fabric", MachineOptions { forward: false, stay })?;
        let client = Machine::make(&run, "client", MachineOptions { forward: true, stay })?;
        for link in 0..=links.iter().copied().max().unwrap_or(0) {
            let bridge = format!("br{link}");
            fabric.ip(&[format!("link add {bridge} mtu {mtu} type bridge"), format!("link set {bridge} up")])?;
            join(&fabric, &client, mtu, link, 1, &format!("eth{link}"))?;
        }
        let mut nodes = Vec::new();
        let mut objects = Vec::new();
        for (number, link) in (1..).zip(links.iter().copied()) {
            let machine = Machine::make(&run, &format!("n{number}"), MachineOptions { forward: true, stay })?;
            join(&fabric, &machine, mtu, link, number + 10, "eth0")?;
            let gateway = |family| format!("route add default via {}", address_on(family, link, 1));
            machine.ip(&IpFamily::BOTH.map(gateway))?;
            let log = run.files().join(format!("agent-n{number}.log"));
            let node = Node { machine, agent: None, number, link, manifests: manifests.clone(), log };
            objects.push(node.object());
            nodes.push(node);
        }
        let cluster = Self { nodes, client, fabric, run };
        cluster.apply("nodes", &objects)?;
        Ok(cluster)
    }

    /// Gives every node a second card, `eth1`, in the network of that number, and returns a machine
    /// that is in this network only. The nodes' default routes keep their device.
    ///
    /// # Errors
    /// When a device can't be made.
    pub fn add_network(&self, number: u8, mtu: u32, machine: &str) -> Result<Machine> {
        let bridge = format!("br{number}");
        self.fabric.ip(&[format!("link add {bridge} mtu {mtu} type bridge"), format!("link set {bridge} up")])?;
        for node in &self.nodes {
            join(&self.fabric, &node.machine, mtu, number, node.number + 10, "eth1")?;
        }
        let machine = Machine::make(&self.run, machine, MachineOptions::default())?;
        join(&self.fabric, &machine, mtu, number, 9, "eth0")?;
        Ok(machine)
    }

    /// Runs [`Cluster::network`], and starts a ready agent on each node.
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
        self.start_agents_with(&[])
    }

    /// Runs [`Cluster::start_agents`] with additional flags.
    ///
    /// # Errors
    /// When one doesn't get ready.
    pub fn start_agents_with(&mut self, flags: &[&str]) -> Result<()> {
        for node in &mut self.nodes {
            node.start_agent(flags)?;
        }
        for node in &mut self.nodes {
            node.await_agent()?;
        }
        Ok(())
    }

    /// Turns on strict reverse path filtering (`rp_filter`) on every node, as some distributions
    /// do.
    ///
    /// # Errors
    /// When a node's kernel refuses.
    pub fn filter_strictly(&self) -> Result<()> {
        let strict = ["sysctl", "-w", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1"];
        self.nodes.iter().try_for_each(|node| node.machine.output(&strict).map(drop))
    }

    /// Puts objects into a file of the directory of manifests, in one step.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn apply(&self, file: &str, objects: &[Value]) -> Result<()> {
        let text: Vec<_> = objects.iter().map(ToString::to_string).collect();
        self.apply_text(file, &text.join("\n---\n"))
    }

    /// Writes the text of a file of manifests, like [`Cluster::apply`].
    ///
    /// # Errors
    /// When it can't be written.
    pub fn apply_text(&self, file: &str, text: &str) -> Result<()> {
        let fresh = self.run.files().join("fresh.yaml");
        fs::write(&fresh, text).with_context(|| format!("cannot write {}", fresh.display()))?;
        let place = self.manifests().join(format!("{file}.yaml"));
        fs::rename(&fresh, &place).with_context(|| format!("cannot move a file to {}", place.display()))
    }

    /// Removes a file from the directory of manifests.
    ///
    /// # Errors
    /// When it is not there.
    pub fn withdraw(&self, file: &str) -> Result<()> {
        let place = self.manifests().join(format!("{file}.yaml"));
        fs::remove_file(&place).with_context(|| format!("cannot remove {}", place.display()))
    }

    /// Returns the directory of manifests.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.run.files().join("manifests")
    }

    /// Returns the temporary directory of this run.
    #[must_use]
    pub fn files(&self) -> &Path {
        self.run.files()
    }

    /// Removes everything and returns an error if that fails.
    ///
    /// # Errors
    /// When something stays.
    pub fn end(self) -> Result<()> {
        let Self { nodes, client, fabric, run } = self;
        drop((nodes, client, fabric));
        run.end()
    }

    /// Keeps everything running, for a run that is kept.
    pub fn keep_running(self) {
        for node in self.nodes {
            if let Some(agent) = node.agent {
                agent.detach();
            }
        }
    }
}

impl Node {
    /// Returns the node name, such as `n1`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.machine.name()
    }

    /// Returns the Node object of this node.
    #[must_use]
    pub fn object(&self) -> Value {
        manifest::node(self.name(), &IpFamily::BOTH.map(|family| self.address(family)), &self.pod_cidrs())
    }

    /// Returns the node's address on its link.
    #[must_use]
    pub fn address(&self, family: IpFamily) -> IpAddr {
        address_on(family, self.link, self.number + 10)
    }

    /// Returns the node's address with a port.
    #[must_use]
    pub fn port(&self, family: IpFamily, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    /// Returns the pod ranges of the node.
    #[must_use]
    pub fn pod_cidrs(&self) -> Vec<String> {
        vec![format!("10.244.{}.0/24", self.number), format!("fd00:10:244:{}::/64", self.number)]
    }

    /// Starts the agent of this node.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_agent(&mut self, flags: &[&str]) -> Result<()> {
        self.agent = Some(Agent::start(&self.machine, Source::Manifests(&self.manifests), &self.log, flags)?);
        Ok(())
    }

    /// Starts the agent like [`Node::start_agent`], with the API server of a kubeconfig in place of
    /// manifests.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_agent_of(&mut self, kubeconfig: &Path, flags: &[&str]) -> Result<()> {
        self.agent = Some(Agent::start(&self.machine, Source::Kubernetes(kubeconfig), &self.log, flags)?);
        Ok(())
    }

    /// Returns the log of the node's agents.
    #[must_use]
    pub fn agent_log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the node's agent is ready.
    ///
    /// # Errors
    /// When it doesn't get ready.
    pub fn await_agent(&mut self) -> Result<()> {
        self.agent.as_mut().with_context(|| format!("{} has no agent", self.machine.name()))?.await_ready()
    }

    /// Kills the node's agent.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().with_context(|| format!("{} has no agent", self.machine.name()))?.kill()
    }

    /// Creates a pod on the node.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        Pod::add(&self.machine, name)
    }
}

/// Returns the address of a machine on the common link.
#[must_use]
pub fn address(family: IpFamily, host: u8) -> IpAddr {
    address_on(family, 0, host)
}

/// Returns the address of a machine on a link.
#[must_use]
pub fn address_on(family: IpFamily, link: u8, host: u8) -> IpAddr {
    // Written as people read it: fd00:50::11 for machine 11.
    let as_read = |number: u8| u16::from(number / 10) * 16 + u16::from(number % 10);
    match family {
        IpFamily::V4 => Ipv4Addr::new(192, 168, 50 + link, host).into(),
        IpFamily::V6 => Ipv6Addr::new(0xfd00, as_read(50 + link), 0, 0, 0, 0, 0, as_read(host)).into(),
    }
}

/// Connects a machine to a bridge.
fn join(fabric: &Machine, machine: &Machine, mtu: u32, link: u8, host: u8, device: &str) -> Result<()> {
    let (name, pid) = (format!("{}{}", machine.name(), device.trim_start_matches("eth0")), machine.pid());
    fabric.ip(&[
        format!("link add {name} mtu {mtu} type veth peer name {device} mtu {mtu} netns {pid}"),
        format!("link set {name} master br{link} up"),
    ])?;
    machine.ip(&[
        format!("address add {}/24 dev {device}", address_on(IpFamily::V4, link, host)),
        format!("address add {}/64 dev {device} nodad", address_on(IpFamily::V6, link, host)),
        format!("link set {device} up"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_the_same_digits_in_both_families() {
        assert_eq!(address(IpFamily::V4, 12).to_string(), "192.168.50.12");
        assert_eq!(address(IpFamily::V6, 12).to_string(), "fd00:50::12");
        assert_eq!(address(IpFamily::V6, 1).to_string(), "fd00:50::1");
        assert_eq!(IpFamily::BOTH.map(|f| address_on(f, 1, 14).to_string()), ["192.168.51.14", "fd00:51::14"]);
    }
}
