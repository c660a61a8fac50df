//! Sets up the node and repairs it: programs, configuration, host devices, tunnels, routes and
//! networks.
//!
//! One task owns all of it and only sequences its jobs: `facts_tracker` with `attachments`,
//! `config_writer`, `routing`, `host_device` and `pod_routes`. A refresh compares the desired state
//! with the kernel's and applies the difference, so it is safe to run at any event: a Node object,
//! a link, an address, a route. Objects of other programs are never changed;
//! [`crate::network::routes`] and [`crate::load`] define which ones are Ropeway's.

mod attachments;
mod cluster_view;
mod conditions;
mod config_writer;
mod error;
mod facts_tracker;
mod monitor;
mod pod_routes;
mod routing;

pub mod address_gc;
pub mod discover;
pub mod host_device;
pub mod leftovers;
pub mod network_tries;
pub mod node_routes;
pub mod status;
pub mod sysctl;
pub mod uplinks;

#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dataplane_common::types::clock::Clock;
use dataplane_host::netlink::{NetlinkEvent, Socket};
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use ipnetwork::IpNetwork;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::config::Config;
use crate::load::programs::Programs;
use crate::network::blocks::Blocks;
use crate::proxy::controller::{Nodes, Snapshot};
use attachments::Attachments;
use cluster_view::{ClusterFeed, ClusterView};
use config_writer::{ConfigInputs, ConfigWriter, write_file};
use discover::{KernelSnapshot, NodeFacts};
use facts_tracker::FactsTracker;
use host_device::{HostDeviceInputs, HostDeviceState};
use monitor::NetlinkMonitor;
use node_routes::{NodeRoutes, TunnelInputs};
use pod_routes::PodRoutes;
use routing::{Routing, RoutingInputs};
use status::NodeStatus;

pub use error::NodeError;
pub use facts_tracker::Publish;

/// Time in which events are collected before a refresh.
const SETTLE: Duration = Duration::from_millis(20);
/// Pause before a failed refresh is repeated.
const RETRY: Duration = Duration::from_secs(1);
/// Interval of refreshes without an event.
const AUDIT: Duration = Duration::from_secs(30);

/// Interval at which listening sockets are looked up while a device carries a cluster IP: the
/// kernel tells of no new one.
const LISTENERS: Duration = Duration::from_secs(1);

/// What the task is created from.
#[derive(Debug)]
pub struct NodeTaskParts {
    /// Configuration of the agent.
    pub config: Arc<Config>,
    /// Pins of this ABI.
    pub pins: Pins,
    /// Programs to attach.
    pub programs: Programs,
    /// Clock of the packet path.
    pub clock: Clock,
    /// Directory of the cgroup to attach to.
    pub cgroup: PathBuf,
    /// Programs of another ABI are attached; ours replace them only once the maps are filled.
    pub predecessor: bool,
}

/// The task: its jobs, and what they share.
pub struct NodeTask {
    config: Arc<Config>,
    socket: Socket,
    monitor: NetlinkMonitor,
    cluster: ClusterView,
    facts: FactsTracker,
    attachments: Attachments,
    config_writer: ConfigWriter,
    routing: Routing,
    host_device: HostDeviceState,
    pod_routes: PodRoutes,
    status: Arc<NodeStatus>,
    unwritable_settings: sysctl::ReportedErrors,
}

impl NodeTask {
    /// Opens netlink in the network namespace of this thread, and runs the first refresh.
    ///
    /// # Errors
    /// The first refresh failed; the agent should end with this error.
    pub fn new(parts: NodeTaskParts, publish: Publish, status: Arc<NodeStatus>) -> Result<Self, NodeError> {
        let NodeTaskParts { config, pins, programs, clock, cgroup, predecessor } = parts;
        // Before the first refresh, or a change between the two would be missed.
        let monitor = NetlinkMonitor::start(Arc::clone(&status))?;
        let socket = Socket::open()?;
        let netns_cookie = sys::netns_cookie(socket.as_fd()).map_err(NodeError::Namespace)?;
        let attachments = Attachments {
            pins: pins.clone(),
            programs,
            cgroup,
            uplink_attach: config.uplink_attach,
            predecessor,
            pods_due: true,
        };
        let mut task = Self {
            socket,
            monitor,
            cluster: ClusterView::new(config.ipam, predecessor),
            facts: FactsTracker::new(publish),
            attachments,
            config_writer: ConfigWriter { pins: pins.clone(), clock, netns_cookie },
            routing: Routing::new(pins),
            host_device: HostDeviceState::default(),
            pod_routes: PodRoutes::default(),
            status,
            unwritable_settings: sysctl::ReportedErrors::default(),
            config,
        };
        task.refresh(false)?;
        Ok(task)
    }

    /// Refreshes at each change and at intervals. Returns when the controller or the netlink
    /// monitor's thread has ended.
    pub async fn run(
        mut self,
        nodes: watch::Receiver<Arc<Nodes>>,
        service_ranges: watch::Receiver<Arc<[IpNetwork]>>,
        controller: watch::Receiver<Arc<Snapshot>>,
        blocks: Option<watch::Receiver<Arc<Blocks>>>,
    ) {
        let mut feed = ClusterFeed { nodes, service_ranges, controller, blocks };
        let mut due = Instant::now() + AUDIT;
        let mut listeners_due = Instant::now();
        loop {
            let external = tokio::select! {
                changed = feed.changed(&mut self.cluster) => {
                    if changed.is_none() {
                        return;
                    }
                    false
                }
                events = self.monitor.next() => {
                    let Some(events) = events else { return };
                    if !self.is_relevant(&events) {
                        continue;
                    }
                    tokio::time::sleep(SETTLE).await;
                    self.monitor.drain();
                    true
                }
                () = sleep_until(listeners_due), if self.facts.carries_cluster_ip(&self.cluster.service_ranges) => {
                    listeners_due = Instant::now() + LISTENERS;
                    if !self.facts.listening_changed() {
                        continue;
                    }
                    true
                }
                () = sleep_until(due) => {
                    self.attachments.pods_due = true;
                    self.routing.settle();
                    due = Instant::now() + AUDIT;
                    true
                }
            };
            if external {
                self.routing.invalidate();
                self.pod_routes.look();
            }
            self.cluster.update(&mut feed);
            if let Err(e) = self.refresh(external) {
                warn!(error = %e, "node setup failed: retry in {RETRY:?}");
                self.status.failed();
                due = Instant::now() + RETRY;
            }
            if self.pod_routes.is_pending() {
                due = due.min(Instant::now() + RETRY);
            }
        }
    }

    fn is_relevant(&self, events: &[NetlinkEvent]) -> bool {
        let relevant = |e: &NetlinkEvent| {
            self.facts.is_relevant(e, &self.config)
                || self.routing.is_relevant(e)
                || self.host_device.is_relevant(e)
                || pod_routes::is_relevant(e)
        };
        self.facts.is_empty() || events.iter().any(relevant)
    }

    /// Compares everything with the kernel and applies the difference. `external`: only the kernel
    /// has changed, so operations count as repairs.
    ///
    /// The order matters. Tunnels come first: programs are attached to them, and pods and the host
    /// devices take their MTU from them. The configuration is written before programs that read it
    /// are attached, and again after the routes that its features need. node.json is written once
    /// the pods' MTU and ranges are known.
    ///
    /// # Errors
    /// All failures of the refresh. A tunnel or the host device that fails does not keep pods of
    /// other nodes from their routes.
    fn refresh(&mut self, external: bool) -> Result<(), NodeError> {
        let mut failed = Vec::new();
        if let Err(e) = self.apply_all(external, &mut failed) {
            failed.push(e);
        }
        NodeError::of_all(failed)?;
        self.status.succeeded(self.cluster.knows_all());
        Ok(())
    }

    fn apply_all(&mut self, external: bool, failed: &mut Vec<NodeError>) -> Result<(), NodeError> {
        let snapshot = KernelSnapshot::take(&mut self.socket)?;
        let config = Arc::clone(&self.config);
        let own = self.cluster.nodes.get(config.node_name.as_str());
        let (facts, changed) = self.facts.look(&config, &snapshot, &self.cluster.nodes);
        self.status.set_notes(&facts.warnings);
        let plan = self.cluster.knows_ranges().then(|| NodeRoutes::plan(&config, &facts, &self.cluster.nodes));
        let known = TunnelInputs { config: &config, facts: &facts, snapshot: &snapshot, own };
        let (mut operations, errors) = self.routing.apply_tunnels(&mut self.socket, &known, plan.as_ref())?;
        failed.extend(errors.into_iter().map(NodeError::from));
        operations += self.config_writer.apply(&self.config_inputs(&facts), self.cluster.conditions.nodes)?;
        self.apply_settings(&facts);
        if self.cluster.conditions.maps {
            let tunnels = &self.routing.tunnels().links;
            let detach = self.cluster.conditions.nodes;
            operations += self.attachments.apply(&mut self.socket, (&facts.uplinks, tunnels), detach)?;
            let foreign = self.attachments.foreign(&mut self.socket, &facts.uplinks, tunnels);
            report_foreign(&self.status, &foreign);
        }
        match self.apply_host_device(&facts, &snapshot) {
            Ok(count) => operations += count,
            Err(e) => failed.push(e),
        }
        if let Some(plan) = &plan {
            operations += write_file(&self.config_inputs(&facts))?;
            let known = RoutingInputs {
                config: &config,
                cluster: &self.cluster,
                facts: &facts,
                snapshot: &snapshot,
                host_device: self.host_device.present(),
            };
            operations += self.routing.apply(&mut self.socket, &known, plan, &self.status)?;
            operations += self.config_writer.apply(&self.config_inputs(&facts), self.cluster.conditions.nodes)?;
        }
        operations += self.pod_routes.apply(&mut self.socket, &self.attachments.pins, &snapshot, &self.status)?;
        self.status.operations(operations, external && !changed);
        let pools = self.cluster.conditions.nodes.then(|| self.cluster.pools());
        self.facts.publish(&config, facts, pools);
        Ok(())
    }

    fn config_inputs<'a>(&'a self, facts: &'a NodeFacts) -> ConfigInputs<'a> {
        let (tunnels, features) = (self.routing.tunnels(), self.routing.features(&self.config));
        ConfigInputs { config: &self.config, facts, tunnels, features }
    }

    fn apply_host_device(&mut self, facts: &NodeFacts, snapshot: &KernelSnapshot) -> Result<usize, NodeError> {
        let inputs = HostDeviceInputs {
            service_proxy: self.config.service_proxy,
            maps: self.cluster.conditions.maps,
            links: &snapshot.links,
            facts,
            mtu: facts.pod_mtu(&self.config, self.routing.tunnels().mtu()),
        };
        let programs = (&self.attachments.pins, &self.attachments.programs);
        Ok(self.host_device.apply(&mut self.socket, programs, &inputs)?)
    }

    /// Writes the kernel settings that are wrong, and logs each, once if it can't be written.
    fn apply_settings(&mut self, facts: &NodeFacts) {
        let uplinks: Vec<_> = facts.uplinks.iter().map(|l| l.name.clone()).collect();
        let (done, failed) = sysctl::apply(Path::new("/proc/sys"), &uplinks);
        for setting in done {
            info!(setting = setting.name(), value = setting.value, "sysctl set");
        }
        for error in self.unwritable_settings.new_ones(&failed) {
            warn!("{error}");
        }
    }
}

/// Logs the programs of others when they change.
fn report_foreign(status: &NodeStatus, found: &[String]) {
    match (status.set_foreign_programs(found), found) {
        (false, _) => {}
        (true, []) => info!("programs of others are gone"),
        (true, found) => warn!(
            programs = ?found,
            "programs of others are attached: they may translate addresses before Ropeway; remove them with the tool of the network plugin that has left them"
        ),
    }
}
