//! Keeps the node itself right: programs on its devices and its cgroup, routes to other nodes' pods, kernel settings, the
//! node's configuration for the programs and for the plugin.
//!
//! One task owns all of it. Everything it does is a comparison of what should be with what is, so it runs as often as
//! something changes: a Node object, a device, an address, a route. What others own it never touches; see [`crate::network::routes`]
//! and [`crate::load`] for what is ours.

mod conditions;

pub mod address_gc;
pub mod discover;
pub mod host_device;
pub mod leftovers;
pub mod network_tries;
pub mod node_routes;
pub mod status;
pub mod sysctl;

#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dataplane_common::types::clock::Clock;
use dataplane_common::types::pod::{NodeConfig, node_features};
use dataplane_host::contract::{self, FileError, NodeFile};
use dataplane_host::map::{MapError, Table};
use dataplane_host::netlink::{Group, Hop, Monitor, NetlinkError, NetlinkEvent, PROTOCOL, Route, Socket};
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use ipnetwork::IpNetwork;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::config::{Config, Ipam};
use crate::load::programs::Programs;
use crate::load::{LoadError, attach, migrate};
use crate::network::blocks::Blocks;
use crate::network::routes::{self, RoutePlan};
use crate::network::tunnel::TunnelError;
use crate::proxy::controller::{Nodes, Snapshot};
use crate::proxy::desired::NodeContext;
use crate::proxy::source::{NodeObject, ObjectKind};
use conditions::Conditions;
use discover::{KernelSnapshot, NodeFacts};
use host_device::{HostDevice, HostDeviceError};
use network_tries::NetworkTries;
use node_routes::{NodeRoutes, TunnelInputs};
use status::NodeStatus;

/// How long events are gathered before they are looked at.
const SETTLE: Duration = Duration::from_millis(20);
/// How long after a failure everything is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often everything is compared though nothing was heard of.
const AUDIT: Duration = Duration::from_secs(30);

/// Why the node could not be brought into order.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Devices, addresses or routes.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The way to nodes behind a router.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The host devices.
    #[error(transparent)]
    HostDevice(#[from] HostDeviceError),
    /// Programs and hooks.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tries of networks.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The plugin's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel doesn't number network namespaces.
    #[error("cookie of the node's network namespace: {0}")]
    Namespace(#[source] std::io::Error),
    /// No thread for the monitor.
    #[error("watching devices, addresses and routes: {0}")]
    Monitor(#[from] std::io::Error),
}

/// What the task works with.
#[derive(Debug)]
pub struct NodeTaskParts {
    /// The configuration.
    pub config: Arc<Config>,
    /// The pins of this ABI.
    pub pins: Pins,
    /// The programs to attach.
    pub programs: Programs,
    /// The clock of the packet path.
    pub clock: Clock,
    /// The cgroup to attach to.
    pub cgroup: PathBuf,
    /// Programs of another ABI are attached: ours take their place only when the maps are filled.
    pub predecessor: bool,
}

/// Told of the node's context, at first and whenever it changes.
pub type Publish = Box<dyn Fn(NodeContext) + Send>;

/// The task.
pub struct NodeTask {
    parts: NodeTaskParts,
    socket: Socket,
    /// Of the node's network namespace.
    netns_cookie: u64,
    heard: mpsc::Receiver<Vec<NetlinkEvent>>,
    nodes: Arc<Nodes>,
    /// Only in pool mode.
    blocks: Option<Arc<Blocks>>,
    node_routes: NodeRoutes,
    tries: NetworkTries,
    /// The host devices.
    host_device: Option<HostDevice>,
    /// Routes lead there.
    host_device_routed: bool,
    service_ranges: Arc<[IpNetwork]>,
    conditions: Conditions,
    /// The pods' devices are to be looked at.
    pods_due: bool,
    last: Option<NodeFacts>,
    context: Option<NodeContext>,
    publish: Publish,
    status: Arc<NodeStatus>,
}

impl NodeTask {
    /// Opens netlink in the network namespace of this thread, and brings the node into a first order.
    ///
    /// # Errors
    /// The node can't be brought into order: nothing will work, so the agent should say so and end.
    pub fn new(parts: NodeTaskParts, publish: Publish, status: Arc<NodeStatus>) -> Result<Self, NodeError> {
        // Listen first: what changes between the first look and the listening would be missed.
        let monitor = Monitor::open(&Group::ALL)?;
        let (sender, heard) = mpsc::channel(16);
        thread::Builder::new().name("netlink".into()).stack_size(256 << 10).spawn(move || listen(monitor, &sender))?;
        let socket = Socket::open()?;
        let mut task = Self {
            netns_cookie: sys::netns_cookie(socket.as_fd()).map_err(NodeError::Namespace)?,
            socket,
            heard,
            nodes: Arc::default(),
            blocks: (parts.config.ipam == Ipam::Pools).then(Arc::default),
            node_routes: NodeRoutes::default(),
            tries: NetworkTries::default(),
            host_device: None,
            host_device_routed: false,
            service_ranges: Arc::default(),
            conditions: Conditions { nodes: false, maps: !parts.predecessor, services: false },
            pods_due: true,
            last: None,
            context: None,
            publish,
            status,
            parts,
        };
        task.refresh(false)?;
        Ok(task)
    }

    /// Works until the controller has ended.
    pub async fn run(
        mut self,
        mut nodes: watch::Receiver<Arc<Nodes>>,
        mut service_ranges: watch::Receiver<Arc<[IpNetwork]>>,
        mut controller: watch::Receiver<Arc<Snapshot>>,
        mut blocks: Option<watch::Receiver<Arc<Blocks>>>,
    ) {
        let mut due = Instant::now() + AUDIT;
        loop {
            let mut external = false;
            tokio::select! {
                changed = nodes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                changed = service_ranges.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                changed = controller.changed(), if self.conditions != Conditions::ALL => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = Arc::clone(&controller.borrow_and_update());
                    let now = Conditions {
                        nodes: !snapshot.waiting_for.contains(&ObjectKind::Node.name()),
                        maps: self.conditions.maps || snapshot.synced,
                        services: snapshot.synced,
                    };
                    if std::mem::replace(&mut self.conditions, now) == now {
                        continue;
                    }
                }
                () = blocks_changed(&mut blocks) => {}
                Some(events) = self.heard.recv() => {
                    if !self.is_relevant(&events) {
                        continue;
                    }
                    tokio::time::sleep(SETTLE).await;
                    while self.heard.try_recv().is_ok() {}
                    external = true;
                }
                () = sleep_until(due) => {
                    external = true;
                    self.pods_due = true;
                    self.tries.settle();
                    due = Instant::now() + AUDIT;
                }
            }
            if external {
                self.tries.invalidate();
            }
            self.nodes = Arc::clone(&nodes.borrow_and_update());
            if let Some(blocks) = &mut blocks {
                let blocks = Arc::clone(&blocks.borrow_and_update());
                self.nodes = Arc::new(with_blocks(&self.nodes, &blocks));
                self.blocks = Some(blocks);
            }
            if self.parts.config.ipam == Ipam::None {
                self.nodes = Arc::new(with_blocks(&self.nodes, &Blocks::default()));
            }
            self.service_ranges = Arc::clone(&service_ranges.borrow_and_update());
            if let Err(e) = self.refresh(external) {
                warn!(error = %e, "the node is not in order; trying again in {RETRY:?}");
                self.status.failed();
                due = Instant::now() + RETRY;
            }
        }
    }

    fn is_relevant(&self, events: &[NetlinkEvent]) -> bool {
        let config = &self.parts.config;
        let host_device =
            |e: &NetlinkEvent| self.host_device.as_ref().is_some_and(|host_device| host_device.is_relevant(e));
        let relevant = |facts| {
            events.iter().any(|e| is_relevant(e, facts, config) || self.node_routes.is_relevant(e) || host_device(e))
        };
        self.last.as_ref().is_none_or(relevant)
    }

    /// Compares everything and does the difference. `external`: nothing but the kernel has changed, so what has to be done is a repair.
    fn refresh(&mut self, external: bool) -> Result<(), NodeError> {
        let snapshot = KernelSnapshot::take(&mut self.socket)?;
        let config = Arc::clone(&self.parts.config);
        let own = self.nodes.get(config.node_name.as_str());
        let facts = discover::facts(&config, &snapshot, own);
        let changed = self.last.as_ref() != Some(&facts);
        if changed {
            report(&facts);
        }
        let ranges = self.conditions.knows_ranges(self.blocks.as_deref());
        let plan = ranges.then(|| NodeRoutes::plan(&config, &facts, &self.nodes));
        let (mut operations, mut failed) = (0, None::<NodeError>);
        if let Some(plan) = &plan {
            let known = TunnelInputs { config: &config, facts: &facts, snapshot: &snapshot, own };
            let (count, errors) = self.node_routes.tunnels(&mut self.socket, &known, plan)?;
            operations += count;
            failed = errors.into_iter().next().map(Into::into);
        } else {
            self.node_routes.adopt(&snapshot.links);
        }
        operations += self.write_config(&facts)?;
        settings(&facts);
        if self.conditions.maps {
            operations += self.attach(&facts)?;
        }
        match self.sync_host_device(&snapshot, &facts) {
            Ok(count) => operations += count,
            Err(e) => failed = Some(e.into()),
        }
        if plan.is_some() {
            // Not earlier: whether pods must leave room for the tunnel is known by then, and that there are blocks in pool mode.
            operations += usize::from(self.write_file(&facts)?);
        }
        if let Some(plan) = &plan {
            operations += self.sync_routes(plan, &snapshot, &facts)?;
            operations += self.write_config(&facts)?;
        }
        self.status.operations(operations, external && !changed);
        let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        let mut context = facts.context(&config, ipv6);
        context.pod_ranges.extend(self.blocks.iter().flat_map(|blocks| &blocks.pools));
        if self.context.as_ref() != Some(&context) {
            (self.publish)(context.clone());
            self.context = Some(context);
        }
        self.last = Some(facts);
        if let Some(e) = failed {
            return Err(e);
        }
        if self.conditions.knows_all(self.blocks.as_deref()) {
            self.status.set_in_order();
        }
        Ok(())
    }

    /// Sees to the host devices; without the programs' maps it stays as it is.
    fn sync_host_device(&mut self, snapshot: &KernelSnapshot, facts: &NodeFacts) -> Result<usize, HostDeviceError> {
        let NodeTaskParts { config, pins, programs, .. } = &self.parts;
        if !config.service_proxy {
            self.host_device = None;
            return Ok(host_device::remove(&mut self.socket, &snapshot.links)?);
        }
        if !self.conditions.maps {
            self.host_device = HostDevice::find(&snapshot.links);
            return Ok(0);
        }
        self.host_device = None;
        let mtu = facts.pod_mtu(config, self.node_routes.tunnels.mtu());
        let (host_device, operations) =
            host_device::ensure(&mut self.socket, (pins, programs), &snapshot.links, facts, mtu)?;
        self.host_device = Some(host_device);
        Ok(operations)
    }

    /// Sees to the routes and the tries.
    fn sync_routes(
        &mut self,
        plan: &RoutePlan,
        snapshot: &KernelSnapshot,
        facts: &NodeFacts,
    ) -> Result<usize, NodeError> {
        let config = &self.parts.config;
        let devices = self.node_routes.tunnels.devices;
        let pools = self.blocks.as_ref().map_or(&[][..], |blocks| &blocks.pools);
        let known = network_tries::NetworkInputs { plan, devices, pools, service_ranges: &self.service_ranges };
        let pins = &self.parts.pins;
        let pending = if self.conditions.services { Some(self.tries.compare(pins, config, &known)?) } else { None };
        let index = self.host_device.as_ref().map(|host_device| host_device.out.index);
        let services = match &pending {
            Some(pending) => pending.services(),
            // Until all networks of Services are told, those that led there still do.
            None => {
                self.host_device.as_ref().map_or_else(Vec::new, |host_device| host_device.networks(&snapshot.routes))
            }
        };
        let host_device =
            index.map(|index| routes::HostDeviceRoutes { index, node_ips: &facts.node_ips, services: &services });
        // A packet that the programs send by the tunnel needs its route.
        let mut operations = self.node_routes.routes(
            &mut self.socket,
            config,
            (plan, host_device.as_ref()),
            &snapshot.routes,
            &self.status,
        )?;
        self.host_device_routed = host_device.is_some();
        if let Some(pending) = pending {
            operations += self.tries.write(pins, config, pending)?;
        }
        Ok(operations)
    }

    fn write_file(&self, facts: &NodeFacts) -> Result<bool, FileError> {
        let config = &self.parts.config;
        let mtu = facts.pod_mtu(config, self.node_routes.tunnels.mtu());
        let file = match self.blocks {
            Some(_) => NodeFile::of_pools(&config.node_name, mtu),
            None if facts.pod_cidrs.is_empty() => return Ok(false),
            None => NodeFile::new(&config.node_name, &facts.pod_cidrs, mtu),
        };
        contract::write(&config.state_dir, &file)
    }

    fn write_config(&self, facts: &NodeFacts) -> Result<usize, LoadError> {
        let table: Table<u32, NodeConfig> = Table::open(&self.parts.pins, "config")?;
        let present = table.get(&0)?;
        let mut wanted = facts.node_config(&self.parts.config, self.parts.clock);
        wanted.netns_cookie = self.netns_cookie;
        wanted.tunnel_mtu = self.node_routes.tunnels.mtu();
        // Until the tries have been compared, what was on stays on.
        let client = if self.host_device_routed { node_features::NODE_CLIENT } else { 0 };
        wanted.features = self.tries.features().map_or_else(|| present.map_or(0, |c| c.features), |bits| bits | client);
        if !self.node_routes.tunnels.links.is_empty()
            && self.tries.features().is_none()
            && present.is_none_or(|c| c.uplink == 0)
        {
            // until the tries say so, only the host's routes know what leads through the tunnel
            wanted.uplink = 0;
        }
        if present == Some(wanted) {
            return Ok(0);
        }
        table.insert(&0, &wanted)?;
        Ok(1)
    }

    fn attach(&mut self, facts: &NodeFacts) -> Result<usize, LoadError> {
        let NodeTaskParts { config, pins, programs, cgroup, predecessor, .. } = &mut self.parts;
        let mut operations = 0;
        if *predecessor {
            operations += migrate::migrate_maps(pins)?;
        }
        operations += attach::cgroup(pins, programs, cgroup)?;
        // What comes out of a tunnel is treated as what comes from an uplink.
        let uplinks: Vec<_> = facts.uplinks.iter().chain(&self.node_routes.tunnels.links).cloned().collect();
        operations += attach::uplinks(pins, programs, &uplinks, config.uplink_attach, &mut self.socket)?;
        if self.pods_due {
            operations += attach::pods(pins, programs, &mut self.socket)?;
            self.pods_due = false;
        }
        if std::mem::take(predecessor) {
            operations += attach::remove_predecessors(pins)?;
        }
        Ok(operations)
    }
}

/// The Nodes with their blocks for pod ranges. A node that has blocks and no object has no address to route to.
fn with_blocks(nodes: &Nodes, blocks: &Blocks) -> Nodes {
    let ranges = |name: &str| blocks.by_node.get(name).map_or(&[][..], |ranges| ranges);
    let with = |name: &str, node: &NodeObject| NodeObject { pod_cidrs: ranges(name).into(), ..node.clone() };
    nodes.iter().map(|(name, node)| (name.clone(), with(name, node))).collect()
}

/// For ever in other modes, and when the sender has ended: then the agent ends, too.
async fn blocks_changed(blocks: &mut Option<watch::Receiver<Arc<Blocks>>>) {
    let changed = match blocks {
        Some(blocks) => blocks.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

fn report(facts: &NodeFacts) {
    let uplinks: Vec<_> = facts.uplinks.iter().map(|l| l.name.as_str()).collect();
    info!(?uplinks, node_ips = ?facts.node_ips, pod_cidrs = ?facts.pod_cidrs, mtu = facts.uplink_mtu, "node");
    for name in &facts.missing {
        warn!(uplink = name, "--uplink: no such device; it is attached when it appears");
    }
    if facts.uplinks.is_empty() && facts.missing.is_empty() {
        warn!("no uplink: there is no default route, and no device has the node's address; name one with --uplink");
    }
}

fn settings(facts: &NodeFacts) {
    let uplinks: Vec<_> = facts.uplinks.iter().map(|l| l.name.clone()).collect();
    let (done, failed) = sysctl::apply(Path::new("/proc/sys"), &uplinks);
    for setting in done {
        info!(setting = setting.path, value = setting.value, "kernel setting");
    }
    for error in &failed {
        warn!("{error}");
    }
}

/// Passes on what the kernel says for as long as somebody listens.
fn listen(mut monitor: Monitor, sender: &mpsc::Sender<Vec<NetlinkEvent>>) {
    while !sender.is_closed() {
        match monitor.wait(AUDIT) {
            Ok(events) if events.is_empty() => {}
            Ok(events) => {
                if sender.blocking_send(events).is_err() {
                    return;
                }
            }
            Err(e) => {
                error!(error = %e, "can't listen to changes of devices; looking every {AUDIT:?}");
                return;
            }
        }
    }
}

/// Whether an event can have to do with us: not the comings and goings of pods.
fn is_relevant(event: &NetlinkEvent, facts: &NodeFacts, config: &Config) -> bool {
    let uplink = |name: &str, index: u32| {
        config.uplinks.iter().any(|u| u == name) || facts.uplinks.iter().any(|l| l.index == index || l.name == name)
    };
    match event {
        NetlinkEvent::Link(link) => uplink(&link.name, link.index) && !facts.uplinks.iter().any(|known| known == link),
        NetlinkEvent::LinkGone(link) => uplink(&link.name, link.index),
        NetlinkEvent::Address(_) | NetlinkEvent::AddressGone(_) | NetlinkEvent::Lost => true,
        NetlinkEvent::Route(route) => {
            route.protocol != PROTOCOL && (route.destination.prefix() == 0 || is_on_link(route))
        }
        NetlinkEvent::RouteGone(route) => {
            routes::is_ours(route) || route.destination.prefix() == 0 || is_on_link(route)
        }
    }
}

fn is_on_link(route: &Route) -> bool {
    route.protocol != PROTOCOL && matches!(route.hop, Hop::Device { .. })
}
