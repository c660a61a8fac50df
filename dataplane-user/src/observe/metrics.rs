//! All metrics, under kube-proxy's names where it has the metric and under `ropeway_` elsewhere.
//!
//! Served by the agent's HTTP server. Counts nothing itself except responses of the health
//! endpoints: the controller's snapshot, the node's status and the maps are read at each scrape.

mod kernel;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dataplane_host::pins::Pins;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tracing::warn;

use crate::api::Contacts;
use crate::network::node::status::{NodeStatus, PeriodicTask};
use crate::observe::flows::FlowCounts;
use crate::observe::flows::evict_policy::Kind;
use crate::observe::flows::status::FlowStatus;
use crate::proxy::controller::{Histogram, Scale, Snapshot};

/// MIME type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// The state that the metrics show.
#[derive(Debug)]
pub struct Sources {
    /// The controller's snapshots.
    pub controller: watch::Receiver<Arc<Snapshot>>,
    /// Status of the node task.
    pub node: Arc<NodeStatus>,
    /// Counts of flows.
    pub flows: Arc<FlowStatus>,
    /// Last contacts with the API server.
    pub contacts: Arc<Contacts>,
}

/// All metrics of the agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    healthz: Family<Labels, Counter>,
    livez: Family<Labels, Counter>,
}

impl Metrics {
    /// Registers the metrics with the sources that are read at each scrape.
    #[must_use]
    pub fn new(pins: &Pins, sources: Sources) -> Self {
        let Sources { controller, node, flows, contacts } = sources;
        let mut registry = Registry::default();
        let (healthz, livez) = (Family::default(), Family::default());
        registry.register("kubeproxy_proxy_healthz", "Responses of /healthz by status code", healthz.clone());
        registry.register("kubeproxy_proxy_livez", "Responses of /livez by status code", livez.clone());
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("ropeway_build", "Version of the running agent", version);
        registry.register_collector(Box::new(ControllerCollector { snapshot: controller }));
        registry.register_collector(Box::new(NodeCollector { status: node, flows }));
        registry.register_collector(Box::new(ContactCollector { contacts }));
        registry.register_collector(Box::new(kernel::KernelCollector { pins: pins.clone() }));
        Self { registry, healthz, livez }
    }

    /// Counts a response of a health endpoint.
    pub fn count_response(&self, livez: bool, status: u16) {
        let family = if livez { &self.livez } else { &self.healthz };
        family.get_or_create(&vec![("code", status.to_string())]).inc();
    }

    /// Renders all metrics in the `OpenMetrics` text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        if let Err(e) = text::encode(&mut out, &self.registry) {
            warn!(error = %e, "cannot render metrics");
        }
        out
    }
}

fn counter(e: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(e.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn gauge(e: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize) -> fmt::Result {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(e.encode_descriptor(
        name,
        help,
        None,
        MetricType::Gauge,
    )?)
}

fn histogram<S: Scale>(e: &mut DescriptorEncoder<'_>, name: &str, help: &str, h: &Histogram<S>) -> fmt::Result {
    let buckets: Vec<_> = h.buckets().collect();
    let mut encoder = e.encode_descriptor(name, help, None, MetricType::Histogram)?;
    encoder.encode_histogram::<NoLabelSet>(h.sum().as_secs_f64(), h.count(), &buckets, None)
}

/// Encodes seconds since 1970; 0 stands for never.
fn timestamp(e: &mut DescriptorEncoder<'_>, name: &str, help: &str, time: Option<SystemTime>) -> fmt::Result {
    ConstGauge::new(seconds(time)).encode(e.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn seconds(time: Option<SystemTime>) -> f64 {
    time.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0.0, |d| d.as_secs_f64())
}

/// Metrics of the controller: objects, rounds and map operations.
#[derive(Debug)]
struct ControllerCollector {
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Collector for ControllerCollector {
    fn encode(&self, mut e: DescriptorEncoder<'_>) -> fmt::Result {
        // One snapshot for the whole scrape, so that its metrics agree.
        let s = Arc::clone(&self.snapshot.borrow());
        let e = &mut e;
        histogram(
            e,
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time from changed objects to written maps",
            &s.rounds,
        )?;
        let help = "Time from the change of an endpoint to written maps";
        histogram(e, "kubeproxy_network_programming_duration_seconds", help, &s.programming)?;
        let name = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds";
        timestamp(e, name, "Time at which the last change arrived", s.last_queued)?;
        let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        timestamp(e, name, "Time at which all changes were last applied", s.last_sync)?;
        counter(e, "kubeproxy_sync_proxy_rules_service_changes", "Changes of Services", s.service_changes)?;
        counter(e, "kubeproxy_sync_proxy_rules_endpoint_changes", "Changes of EndpointSlices", s.endpoint_changes)?;
        let name = "kubeproxy_sync_proxy_rules_service_changes_pending";
        gauge(e, name, "Services that have changed and are not in the maps yet", s.pending.services())?;
        let name = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
        let help = "Services whose EndpointSlices have changed and are not in the maps yet";
        gauge(e, name, help, s.pending.endpoints())?;
        no_local(e, &s)?;
        gauge(e, "ropeway_synced", "1 after the first full sync of the maps", usize::from(s.synced))?;
        gauge(e, "ropeway_services", "Services", s.services)?;
        gauge(e, "ropeway_endpoint_slices", "EndpointSlices", s.slices)?;
        gauge(e, "ropeway_rejections", "Parts of objects and files that can't be used", s.rejected)?;
        used(e, &s)?;
        let name = "ropeway_map_operations";
        let mut family = e.encode_descriptor(name, "Map entries written or removed", None, MetricType::Counter)?;
        for (map, count) in s.operations.by_map() {
            ConstCounter::new(count).encode(family.encode_family(&[("map", map)])?)?;
        }
        Ok(())
    }
}

/// Encodes kube-proxy's metric of Services without local endpoints, which is a gauge in spite of
/// its name.
fn no_local(e: &mut DescriptorEncoder<'_>, s: &Snapshot) -> fmt::Result {
    let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    let help = "Services with a policy Local that have endpoints, but none on this node";
    let mut family = e.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (ip_family, counts) in [("IPv4", s.no_local[0]), ("IPv6", s.no_local[1])] {
        for (policy, count) in [("internal", counts[0]), ("external", counts[1])] {
            let labels = [("ip_family", ip_family), ("traffic_policy", policy)];
            ConstGauge::new(i64::from(count)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn used(e: &mut DescriptorEncoder<'_>, s: &Snapshot) -> fmt::Result {
    let help = "Entries in use of the maps that the agent writes";
    let mut family = e.encode_descriptor("ropeway_map_entries", help, None, MetricType::Gauge)?;
    for (map, count) in [
        ("services", i64::try_from(s.service_ports).unwrap_or(i64::MAX)),
        ("frontends4", s.frontends.0.into()),
        ("frontends6", s.frontends.1.into()),
        ("backends", s.backends.into()),
        ("slots", s.slots.into()),
    ] {
        ConstGauge::new(count).encode(family.encode_family(&[("map", map)])?)?;
    }
    Ok(())
}

/// Times of the last contacts with the API server.
#[derive(Debug)]
struct ContactCollector {
    contacts: Arc<Contacts>,
}

impl Collector for ContactCollector {
    fn encode(&self, mut e: DescriptorEncoder<'_>) -> fmt::Result {
        let name = "ropeway_api_last_contact_timestamp_seconds";
        let help = "Time at which the API server was last heard of, by kind of object; 0: never";
        let mut family = e.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (kind, time) in self.contacts.times() {
            ConstGauge::new(seconds(time)).encode(family.encode_family(&[("kind", kind)])?)?;
        }
        Ok(())
    }
}

/// Metrics of the node task and of the flow tables.
#[derive(Debug)]
struct NodeCollector {
    status: Arc<NodeStatus>,
    flows: Arc<FlowStatus>,
}

impl Collector for NodeCollector {
    fn encode(&self, mut e: DescriptorEncoder<'_>) -> fmt::Result {
        let (operations, repairs, failures) = self.status.counts();
        let e = &mut e;
        counter(e, "ropeway_node_operations", "Programs, links, filters, routes and files changed", operations)?;
        counter(e, "ropeway_node_repairs", "Operations that repaired changes of other programs", repairs)?;
        counter(e, "ropeway_node_failures", "Failed rounds of the node task", failures)?;
        let help = "Leaked addresses found: their pods ended without a DEL";
        counter(e, "ropeway_leaked_addresses", help, self.status.leaks())?;
        let help = "Routes to other nodes' pods restored after another program had removed or changed them";
        counter(e, "ropeway_route_repairs", help, self.status.route_repairs())?;
        let help = "Netlink sockets for events of links, addresses and routes that failed and were opened again";
        counter(e, "ropeway_netlink_monitor_restarts", help, self.status.monitor_restarts())?;
        let help = "Failed rounds of a task of the agent that works at intervals";
        let mut family = e.encode_descriptor("ropeway_task_failures", help, None, MetricType::Counter)?;
        for task in PeriodicTask::ALL {
            ConstCounter::new(self.status.failed_rounds(task))
                .encode(family.encode_family(&[("task", task.label())])?)?;
        }
        flows(e, &self.flows.get())?;
        let unrouted = self.status.unrouted();
        gauge(e, "ropeway_unrouted_ranges", "Pod ranges of nodes to which there is no route", unrouted)?;
        gauge(
            e,
            "ropeway_pool_problems",
            "Problems of IP pools and of this node's blocks",
            self.status.pool_problem_count(),
        )
    }
}

fn flows(e: &mut DescriptorEncoder<'_>, flows: &[FlowCounts; 2]) -> fmt::Result {
    let families = || ["IPv4", "IPv6"].into_iter().zip(flows);
    let help = "Pairs of flows at the last sweep, by the state of the direction that opened them";
    let mut family = e.encode_descriptor("ropeway_flows", help, None, MetricType::Gauge)?;
    for (ip_family, counts) in families() {
        for (kind, count) in Kind::ALL.into_iter().zip(counts.pairs) {
            let labels = [("ip_family", ip_family), ("state", kind.label())];
            ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Entries of a flow table at the last sweep as a fraction of its maximum";
    let mut family = e.encode_descriptor("ropeway_flow_table_pressure", help, None, MetricType::Gauge)?;
    for (ip_family, counts) in families() {
        let pressure = f64::from(counts.entries) / f64::from(counts.max_entries.max(1));
        ConstGauge::new(pressure).encode(family.encode_family(&[("ip_family", ip_family)])?)?;
    }
    let help = "Pairs of flows removed by the agent because they had ended, or because the table was nearly full";
    let mut family = e.encode_descriptor("ropeway_flows_removed", help, None, MetricType::Counter)?;
    for (ip_family, counts) in families() {
        ConstCounter::new(counts.removed).encode(family.encode_family(&[("ip_family", ip_family)])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn metric_names_match_kube_proxy() {
        let pins = Pins::new(std::path::Path::new("/nonexistent"));
        let mut snapshot =
            Snapshot { service_changes: 1, frontends: (7, 3), no_local: [[1, 0], [0, 2]], ..Snapshot::default() };
        let mut rounds = Histogram::default();
        rounds.record(Duration::from_millis(3));
        rounds.record(Duration::from_secs(100));
        snapshot.rounds = Arc::new(rounds);
        snapshot.operations.backends = 12;
        let (_sender, receiver) = watch::channel(Arc::new(snapshot));
        let node = Arc::new(NodeStatus::default());
        node.round_failed(PeriodicTask::Leftovers);
        let sources = Sources { controller: receiver, node, flows: Arc::default(), contacts: Arc::default() };
        let metrics = Metrics::new(&pins, sources);
        metrics.count_response(false, 200);
        metrics.count_response(true, 503);
        let text = metrics.render();
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"+Inf\"} 2",
            "kubeproxy_sync_proxy_rules_duration_seconds_count 2",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"16.384\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.25\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"300.0\"} 0",
            "kubeproxy_network_programming_duration_seconds_count 0",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"internal\"} 1",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"external\"} 2",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds 0.0",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds 0.0",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_service_changes_pending 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 0",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "kubeproxy_proxy_livez_total{code=\"503\"} 1",
            "ropeway_map_operations_total{map=\"backends\"} 12",
            "ropeway_map_entries{map=\"frontends4\"} 7",
            "ropeway_node_repairs_total 0",
            "ropeway_netlink_monitor_restarts_total 0",
            "ropeway_task_failures_total{task=\"flows\"} 0",
            "ropeway_task_failures_total{task=\"leftovers\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
