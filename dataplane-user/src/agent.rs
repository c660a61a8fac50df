//! The agent's process: checks the node, starts all tasks, and stops on SIGTERM or SIGINT.
//!
//! `ropeway-agent` calls [`run`] once. Everything that can fail for a reason outside the agent is
//! checked before the first change to the kernel: options, addresses in use, an unreadable source,
//! a missing kernel feature, a second agent. The agent never detaches anything: programs, maps,
//! routes and devices stay when it ends, and the next agent takes them over.

pub mod conflist;
mod endpoints;
pub mod logging;
pub mod resize;
pub mod source;
pub mod supervision;
pub mod trace;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use dataplane_common::types::clock::Clock;
use dataplane_host::pins::Pins;
use dataplane_host::sys::heap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::api::Contacts;
use crate::config::{Config, Ipam, ObjectSource};
use crate::ipam::plan::GracePeriods;
use crate::ipam::task::PoolTask;
use crate::load::clock;
use crate::load::lock::AgentLock;
use crate::load::object::Object;
use crate::load::probe::KernelFacts;
use crate::load::programs::{self, LoadSettings};
use crate::load::sizes::Sizes;
use crate::load::{LoadError, attach};
use crate::network::blocks::Blocks;
use crate::network::node;
use crate::network::node::status::NodeStatus;
use crate::network::node::{NodeError, NodeTask, NodeTaskParts};
use crate::network::node::{address_gc, leftovers};
use crate::observe::events::{self, Notices};
use crate::observe::flows::status::FlowStatus;
use crate::observe::flows::{self, evict_policy::FlowTimeouts};
use crate::observe::http::{self, BindError, listen, service_health};
use crate::observe::metrics::{self, Metrics};
use crate::observe::status_file;
use crate::proxy::apply;
use crate::proxy::controller::{self, ControllerError, Handle, Nodes, Snapshot};
use endpoints::{Readiness, Reserved};
use source::SourceError;
use supervision::Supervisor;

/// Error that ends the agent; `main` logs it.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Programs or maps could not be loaded, or programs not be attached.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The node could not be set up.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The source of Kubernetes objects is unusable or has failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The controller could not start.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// A pinned map could not be opened.
    #[error(transparent)]
    Map(#[from] dataplane_host::map::MapError),
    /// A listening address is in use or not an address of this node.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A task that should run as long as the agent has returned.
    #[error("task {task} ended unexpectedly: see the messages before this one")]
    Ended {
        /// Name of the task.
        task: &'static str,
    },
    /// A task has panicked, or a thread whose end it waits for.
    #[error("task {task} panicked: {message}")]
    Panicked {
        /// Name of the task.
        task: &'static str,
        /// Message of the panic.
        message: String,
    },
    /// The runtime, a thread or the signal handlers could not be created.
    #[error("cannot start the agent's threads: {0}")]
    Start(#[from] io::Error),
}

/// Most memory of the process in bytes, ten times what 50,000 Services need. What is beyond it
/// comes from hostile objects, and would be taken from the pods of the node. Maps are not counted.
const MOST_MEMORY: u64 = 512 << 20;

/// Limits the memory that the process can allocate. An allocation beyond it ends the process, which
/// is started again; traffic does not depend on it.
///
/// A limit of the container would count the maps as well, whose size follows from the node's
/// memory.
fn limit_memory() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Data);
    let lower = |limit: Option<u64>| Some(limit.map_or(MOST_MEMORY, |limit| limit.min(MOST_MEMORY)));
    setrlimit(Resource::Data, Rlimit { current: lower(current), maximum: lower(maximum) })?;
    Ok(())
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The agent can't start, or its source ends with an error.
pub fn run(config: Config) -> Result<(), AgentError> {
    limit_memory()?;
    // Two threads: a long list of objects must not delay health checks.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()?;
    let result = runtime.block_on(start(Arc::new(config)));
    // Tasks may be cut off anywhere: every write is safe against a crash.
    runtime.shutdown_background();
    result
}

/// The listening addresses, reserved before the first change to the kernel.
struct Addresses {
    metrics: Reserved,
    health: Reserved,
}

async fn start(config: Arc<Config>) -> Result<(), AgentError> {
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let _lock = AgentLock::take(&config.state_dir)?;
    let source = source::prepare(&config).await?;
    let addresses = Addresses {
        metrics: endpoints::take("metrics-bind-address", config.metrics_bind_address, &config).await?,
        health: endpoints::take("healthz-bind-address", config.healthz_bind_address, &config).await?,
    };
    let mut tasks = Supervisor::default();
    start_tasks(&mut tasks, &config, source, addresses)?;
    let cause = until_stopped(&mut tasks, terminate, interrupt).await?;
    info!(cause, "agent stopping: programs stay attached and keep running");
    Ok(())
}

/// Waits for a signal and returns its name, or the error of the first task that ends.
async fn until_stopped(
    tasks: &mut Supervisor,
    mut terminate: Signal,
    mut interrupt: Signal,
) -> Result<&'static str, AgentError> {
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
        error = tasks.failed() => Err(error),
    }
}

/// Loads the programs and spawns every task; see [`Supervisor::spawn`] for the order.
fn start_tasks(
    tasks: &mut Supervisor,
    config: &Arc<Config>,
    source: source::Prepared,
    addresses: Addresses,
) -> Result<(), AgentError> {
    let cgroup = KernelFacts::gather()?.check(&config.pin_root, config.cgroup_root.as_deref())?;
    let object = Object::get(config.ebpf_object.as_deref())?;

    let pins = Pins::new(&config.pin_root);
    let predecessor = attach::has_predecessor(&pins);
    let sizes = Sizes::new(&config.tables, resize::memory());
    let resizable = resize::wanted(&sizes, &pins)?;
    let settings = LoadSettings { trace: config.trace, fixed: &sizes.fixed, resizable: &resizable };
    let mut programs = programs::load(&pins, &object, &settings)?;
    drop(object);
    heap::trim();
    let status = Arc::new(NodeStatus::default());
    status.operations(programs.operations, false);
    if let Some(traced) = programs.traced.take() {
        // Not supervised: without the thread only the debug messages of --trace are missing.
        trace::start(traced)?;
    }
    let clock = clock::of_kernel();
    info!(jiffies_per_second = clock.jiffies_per_second, cgroup = %cgroup.display(), predecessor, "programs loaded");

    let mut controller = controller::start(apply::open(&pins)?, clock)?;
    let (nodes, snapshots, sender) = (controller.nodes(), controller.snapshots(), controller.events());
    let service_ranges = controller.service_ranges();
    tasks.spawn("controller", controller_ended(controller.take_thread(), snapshots.clone()));
    let publish = publisher(controller);
    let (pools, blocks) = pools(config, nodes.clone(), Arc::clone(&status));
    let parts = NodeTaskParts { config: Arc::clone(config), pins: pins.clone(), programs, clock, cgroup, predecessor };
    let node = NodeTask::new(parts, publish, Arc::clone(&status))?;
    tasks.spawn("node", node.run(nodes.clone(), service_ranges, snapshots.clone(), blocks));
    let notices = record_events(tasks, &source, config, &snapshots, nodes.clone());
    let contacts = Arc::new(Contacts::default());
    tasks.spawn("contacts", report_contacts(Arc::clone(&contacts)));
    let (state_dir, notes) = (config.state_dir.clone(), notes(config));
    notes.iter().for_each(|note| warn!("{note}"));
    let file = status_file::run(state_dir, snapshots.clone(), Arc::clone(&contacts), Arc::clone(&status), notes);
    tasks.spawn("status-file", file);
    let source = source.run(config.node_name.clone(), config.service_proxy, sender, pools, Arc::clone(&contacts));
    tasks.spawn("source", async { source.await.map_err(AgentError::from) });

    if config.service_proxy {
        tasks.spawn("leftovers", leftovers::watch(Arc::clone(&status)));
    }
    let resize = resize::watch(sizes.resizable, resizable, pins.clone(), snapshots.clone(), nodes.clone());
    tasks.spawn("resize", resize);
    tasks.spawn("address-gc", address_gc::watch(config.state_dir.clone(), Arc::clone(&status)));
    let flow_status = watch_flows(tasks, config, clock, &pins, &snapshots, &status);
    let sources =
        metrics::Sources { controller: snapshots.clone(), node: Arc::clone(&status), flows: flow_status, contacts };
    let readiness = Readiness { node: status, contacts: Arc::clone(&sources.contacts) };
    let metrics = Arc::new(Metrics::new(&pins, sources));
    let handler = endpoints::metrics_handler(config, Arc::clone(&metrics), snapshots.clone(), readiness);
    tasks.spawn("metrics", http::serve(listen("metrics-bind-address", addresses.metrics)?, handler));
    if config.cni_conflist.is_some() {
        tasks.spawn("conflist", conflist::publish(Arc::clone(config), snapshots.clone()));
    }
    tasks.spawn("service-health", service_health::run(snapshots.clone(), notices, config.node_name.clone()));
    let health = endpoints::serve_health(addresses.health, metrics, snapshots);
    tasks.spawn("health", async { health.await.map_err(AgentError::from) });
    Ok(())
}

/// Returns what an operator should know of the configuration.
fn notes(config: &Config) -> Vec<String> {
    let tenants = config.service_proxy && matches!(config.source, ObjectSource::Kubernetes { .. });
    let all = tenants && config.external_ranges().is_none();
    let open = "externalIPs is `all`: anybody who may create a Service can take over traffic of the whole cluster to \
                addresses outside it; set --external-ips to `none` or to the ranges in use";
    let unmasked = config.service_proxy && config.ipam != Ipam::None && !config.masquerade;
    let routed = "masquerade is false: outside the cluster, pods reach only networks that have a route back to them";
    [all.then_some(open), unmasked.then_some(routed)].into_iter().flatten().map(Into::into).collect()
}

/// Spawns the tasks that remove ended flows and count connections.
fn watch_flows(
    tasks: &mut Supervisor,
    config: &Config,
    clock: Clock,
    pins: &Pins,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    node: &Arc<NodeStatus>,
) -> Arc<FlowStatus> {
    let [tcp, closing, datagrams] =
        [config.tcp_timeout, config.tcp_closing_timeout, config.udp_timeout].map(|seconds| clock.ticks(seconds));
    let timeouts = FlowTimeouts::new(tcp, closing, datagrams);
    let status = Arc::new(FlowStatus::default());
    tasks.spawn("flows", flows::watch(pins.clone(), timeouts, Arc::clone(&status), Arc::clone(node)));
    tasks.spawn("loads", flows::loads::watch(pins.clone(), timeouts, snapshots.clone(), Arc::clone(node)));
    status
}

/// Logs kinds of objects that the API server does not tell about. Never returns.
async fn report_contacts(contacts: Arc<Contacts>) {
    contacts.report().await;
}

/// Waits until the controller's thread has ended; panics with its panic.
async fn controller_ended(thread: Option<JoinHandle<()>>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    while snapshots.changed().await.is_ok() {}
    // The thread drops the sender of snapshots when it ends or unwinds, so the join does not block.
    if let Some(Err(panic)) = thread.map(JoinHandle::join) {
        std::panic::resume_unwind(panic);
    }
}

/// Starts the task that reports faults as Events, if there is an API server to write them to.
fn record_events(
    tasks: &mut Supervisor,
    source: &source::Prepared,
    config: &Config,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    nodes: watch::Receiver<Arc<Nodes>>,
) -> Notices {
    if source.servers().is_empty() || !config.service_proxy {
        return Notices::default();
    }
    let (notices, queue) = events::channel();
    let servers = source.servers().to_vec();
    tasks.spawn("events", events::run(servers, config.node_name.clone(), snapshots.clone(), queue, nodes));
    notices
}

/// Creates the task that manages pool blocks and the channel that publishes them; pool mode only.
fn pools(
    config: &Config,
    nodes: watch::Receiver<Arc<Nodes>>,
    status: Arc<NodeStatus>,
) -> (Option<PoolTask>, Option<watch::Receiver<Arc<Blocks>>>) {
    if config.ipam != Ipam::Pools {
        return (None, None);
    }
    let (sender, receiver) = watch::channel(Arc::default());
    let (node, state_dir, default) = (config.node_name.clone(), config.state_dir.clone(), config.ip_pools.clone());
    let grace = GracePeriods::default();
    (Some(PoolTask { node, state_dir, default, nodes, blocks: sender, grace, status }), Some(receiver))
}

/// Returns the function that passes the node's context to the controller.
fn publisher(controller: Handle) -> node::Publish {
    Box::new(move |context| controller.set_node_context(context))
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn sigterm_stops_the_agent_without_an_error() {
        let signals = || [SignalKind::terminate(), SignalKind::interrupt()].map(|kind| signal(kind).unwrap());
        let [terminate, interrupt] = signals();
        let mut tasks = Supervisor::default();
        tasks.spawn("idle", std::future::pending::<()>());
        kill_process(getpid(), Signal::TERM).unwrap();
        assert_eq!(until_stopped(&mut tasks, terminate, interrupt).await.unwrap(), "SIGTERM");

        let [terminate, interrupt] = signals();
        tasks.spawn("flows", async {});
        let error = until_stopped(&mut tasks, terminate, interrupt).await.unwrap_err();
        assert!(matches!(error, AgentError::Ended { task: "flows" }), "{error}");
    }

    #[tokio::test]
    async fn panic_of_the_controller_thread_ends_the_agent() {
        let (sender, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let thread = std::thread::spawn(move || {
            let _sender = sender;
            panic!("no slot");
        });
        let mut tasks = Supervisor::default();
        tasks.spawn("controller", controller_ended(Some(thread), snapshots));
        assert_eq!(tasks.failed().await.to_string(), "task controller panicked: no slot");
    }
}
