//! The agent's process: checks the node, starts all tasks, and stops on SIGTERM or SIGINT.
//!
//! `ropeway-agent` calls [`run`] once. Everything that can fail for a reason outside the agent is
//! checked before the first change to the kernel: options, addresses in use, an unreadable source,
//! a missing kernel feature, a second agent. The agent never detaches anything: programs, maps,
//! routes and devices stay when it ends, and the next agent takes them over.

pub mod conflist;
pub mod logging;
pub mod resize;
pub mod source;
pub mod trace;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane_host::pins::Pins;
use dataplane_host::sys::heap;
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::config::{Config, Ipam};
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
use crate::observe::http::health::{self, Now};
use crate::observe::http::service_health;
use crate::observe::http::{self, BindError, Handler, HttpResponse, listen, reserve};
use crate::observe::metrics::{self, Metrics};
use crate::proxy::apply;
use crate::proxy::controller::{self, ControllerError, Handle, Nodes, Snapshot};
use source::SourceError;

/// The health endpoint starts to answer after this time even if the source is not in sync.
const STARTING: Duration = Duration::from_secs(10);

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
    /// A task that runs as long as the agent has ended.
    #[error("task {task} ended unexpectedly: see the messages before this one")]
    Ended {
        /// Name of the task.
        task: &'static str,
    },
    /// The runtime, a thread or the signal handlers could not be created.
    #[error("cannot start the agent's threads: {0}")]
    Start(#[from] std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The agent can't start, or its source ends with an error.
pub fn run(config: Config) -> Result<(), AgentError> {
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

async fn start(config: Arc<Config>) -> Result<(), AgentError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let _lock = AgentLock::take(&config.state_dir)?;
    let source = source::prepare(&config).await?;
    let metrics_address = take("metrics-bind-address", config.metrics_bind_address, &config).await?;
    let health_address = take("healthz-bind-address", config.healthz_bind_address, &config).await?;
    let cgroup = KernelFacts::gather()?.check(&config.pin_root, config.cgroup_root.as_deref())?;
    let object = Object::get(config.ebpf_object.as_deref())?;

    let pins = Pins::new(&config.pin_root);
    let predecessor = attach::has_predecessor(&pins);
    let sizes = Sizes::new(&config.tables, resize::memory());
    let growing = resize::wanted(&sizes, &pins)?;
    let settings = LoadSettings { trace: config.trace, fixed: &sizes.fixed, growing: &growing };
    let mut programs = programs::load(&pins, &object, &settings)?;
    drop(object);
    heap::trim();
    let status = Arc::new(NodeStatus::default());
    status.operations(programs.operations, false);
    if let Some(traced) = programs.traced.take() {
        trace::start(traced)?;
    }
    let clock = clock::of_kernel();
    info!(jiffies_per_second = clock.jiffies_per_second, cgroup = %cgroup.display(), predecessor, "programs loaded");

    let controller = controller::start(apply::open(&pins)?, clock)?;
    let (nodes, snapshots, sender) = (controller.nodes(), controller.snapshots(), controller.events());
    let service_ranges = controller.service_ranges();
    let publish = publisher(controller);
    let (pools, blocks) = pools(&config, nodes.clone(), Arc::clone(&status));
    let parts = NodeTaskParts { config: Arc::clone(&config), pins: pins.clone(), programs, clock, cgroup, predecessor };
    let node = NodeTask::new(parts, publish, Arc::clone(&status))?;
    let mut node = tokio::spawn(node.run(nodes, service_ranges, snapshots.clone(), blocks));
    let notices = tell_events(&source, &config, &snapshots);
    let mut source = source.start(config.node_name.clone(), config.service_proxy, sender, pools);

    if config.service_proxy {
        tokio::spawn(leftovers::watch());
    }
    tokio::spawn(resize::watch(sizes.growing, growing, pins.clone(), snapshots.clone()));
    tokio::spawn(address_gc::watch(config.state_dir.clone(), Arc::clone(&status)));
    let [tcp, closing, datagrams] =
        [config.tcp_timeout, config.tcp_closing_timeout, config.udp_timeout].map(|seconds| clock.ticks(seconds));
    let timeouts = FlowTimeouts::new(tcp, closing, datagrams);
    let flow_status = Arc::new(FlowStatus::default());
    tokio::spawn(flows::watch(pins.clone(), timeouts, Arc::clone(&flow_status)));
    tokio::spawn(flows::loads::watch(pins.clone(), timeouts, snapshots.clone()));
    let metrics = Arc::new(Metrics::new(&pins, snapshots.clone(), Arc::clone(&status), flow_status));
    let handler = metrics_handler(&config, Arc::clone(&metrics), snapshots.clone(), status);
    tokio::spawn(http::serve(listen("metrics-bind-address", metrics_address)?, handler));
    tokio::spawn(conflist::offer(Arc::clone(&config), snapshots.clone()));
    tokio::spawn(service_health::run(snapshots.clone(), notices, config.node_name.clone()));
    tokio::spawn(await_sync(health_address, metrics, snapshots));
    let cause = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        result = &mut source => {
            result.map_err(SourceError::from)??;
            return Err(AgentError::Ended { task: "source" });
        }
        _ = &mut node => return Err(AgentError::Ended { task: "node" }),
    };
    info!(cause, "agent stopping: programs stay attached and keep running");
    Ok(())
}

/// Reserves a listening address; the error names the process that has it, if it answers.
async fn take(flag: &'static str, address: SocketAddr, config: &Config) -> Result<(TcpSocket, SocketAddr), BindError> {
    match reserve(flag, address) {
        Ok(taken) => Ok(taken),
        Err(e) => Err(e.explain(config.metrics_bind_address).await),
    }
}

/// Starts the task that reports faults as Events, if there is an API server to write them to.
fn tell_events(source: &source::Prepared, config: &Config, snapshots: &watch::Receiver<Arc<Snapshot>>) -> Notices {
    if source.servers().is_empty() || !config.service_proxy {
        return Notices::default();
    }
    let (notices, left) = events::channel();
    tokio::spawn(events::run(source.servers().to_vec(), config.node_name.clone(), snapshots.clone(), left));
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

/// Waits until the maps are in sync, then logs it and starts to serve health checks.
///
/// Until then the kernel refuses connections to the health address, so that load balancers send no
/// traffic to a node that does not know its Services yet.
async fn await_sync(
    address: (TcpSocket, SocketAddr),
    metrics: Arc<Metrics>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let answers = snapshots.clone();
    let synced = async { snapshots.wait_for(|s| s.synced).await.map(|s| Arc::clone(&s)).ok() };
    let late = match tokio::time::timeout(STARTING, synced).await {
        Ok(Some(snapshot)) => {
            report_ready(&snapshot);
            false
        }
        Ok(None) => return,
        Err(_) => true,
    };
    match listen("healthz-bind-address", address) {
        Ok(listener) => drop(tokio::spawn(http::serve(listener, health_handler(metrics, answers)))),
        Err(e) => error!("{e}"),
    }
    if late {
        let waiting = snapshots.borrow().waiting_for.join(", ");
        warn!(
            waiting_for = waiting,
            "not in sync after {STARTING:?}: existing entries stay in the maps; health checks report it"
        );
        if let Ok(snapshot) = snapshots.wait_for(|s| s.synced).await {
            report_ready(&snapshot);
        }
    }
}

fn report_ready(s: &Snapshot) {
    let (services, slices, took) = (s.services, s.slices, s.last_duration);
    info!(services, slices, operations = s.operations.total(), ?took, "in sync: all Services are in the maps");
}

fn metrics_handler(
    config: &Config,
    metrics: Arc<Metrics>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    status: Arc<NodeStatus>,
) -> Handler {
    let configz = serde_json::json!({ "ropeway.config": config }).to_string();
    Arc::new(move |path| match path {
        "/metrics" => HttpResponse { kind: metrics::CONTENT_TYPE, ..HttpResponse::text(metrics.render()) },
        "/healthz" | "/livez" => health_answer(path, &metrics, &snapshots),
        "/readyz" if status.is_in_order() => HttpResponse::text("ok\n".into()),
        "/readyz" => HttpResponse {
            status: hyper::StatusCode::SERVICE_UNAVAILABLE,
            ..HttpResponse::text("node not in order: see the agent's log\n".into())
        },
        "/proxyMode" => HttpResponse::text("ropeway".into()),
        "/configz" => HttpResponse::json(hyper::StatusCode::OK, configz.clone()),
        _ => HttpResponse::not_found(),
    })
}

fn health_handler(metrics: Arc<Metrics>, snapshots: watch::Receiver<Arc<Snapshot>>) -> Handler {
    Arc::new(move |path| match path {
        "/healthz" | "/livez" => health_answer(path, &metrics, &snapshots),
        _ => HttpResponse::not_found(),
    })
}

fn health_answer(path: &str, metrics: &Metrics, snapshots: &watch::Receiver<Arc<Snapshot>>) -> HttpResponse {
    let livez = path == "/livez";
    let snapshot = Arc::clone(&snapshots.borrow());
    let answer = health::answer(&snapshot, Now::get(), livez);
    metrics.count_response(livez, answer.status.as_u16());
    answer
}
