//! Everything that is measured, under kube-proxy's names where it has one and under `ropeway_` where not.
//!
//! The controller calls the methods of [`Metrics`]; what the kernel counts is read from the maps when somebody asks.

use std::sync::Arc;
use std::time::Duration;

use dataplane_common::event::{Counter as EventCounter, DropReason};
use dataplane_host::map::PerCpuTable;
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tracing::warn;

use crate::http::health::Health;
use crate::node::status::NodeStatus;

/// MIME type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// All metrics of the agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// How long one pass from changed objects to written maps took.
    pub sync_duration: Histogram,
    /// From a change of endpoints to written maps, where the change says when it happened.
    pub programming_duration: Histogram,
    /// Changes of Services, by `state` pending or total.
    pub service_changes: Counter,
    /// Changes of endpoints.
    pub endpoint_changes: Counter,
    /// Services that have changed but are not yet applied.
    pub service_changes_pending: Gauge,
    /// Slices that have changed but are not yet applied.
    pub endpoint_changes_pending: Gauge,
    /// Operations on maps.
    pub map_operations: Counter,
    /// Operations on maps that failed.
    pub map_failures: Counter,
    /// Objects of which something can't be used.
    pub rejected: Gauge,
    /// Service ports in the maps.
    pub services: Gauge,
    /// Frontends in the maps.
    pub frontends: Gauge,
    /// Backends in the maps.
    pub backends: Gauge,
    healthz: Family<Labels, Counter>,
    livez: Family<Labels, Counter>,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 18))
}

impl Metrics {
    /// With what the kernel counts behind `pins`.
    #[must_use]
    pub fn new(pins: &Pins, health: Arc<Health>, node: Arc<NodeStatus>) -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            sync_duration: seconds(),
            programming_duration: seconds(),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            endpoint_changes_pending: Gauge::default(),
            map_operations: Counter::default(),
            map_failures: Counter::default(),
            rejected: Gauge::default(),
            services: Gauge::default(),
            frontends: Gauge::default(),
            backends: Gauge::default(),
            healthz: Family::default(),
            livez: Family::default(),
            registry: Registry::default(),
        };
        let m = &metrics;
        let kube = registry.sub_registry_with_prefix("kubeproxy");
        kube.register("sync_proxy_rules_duration_seconds", "From changed objects to written maps", m.sync_duration.clone());
        kube.register("network_programming_duration_seconds", "From the change of an endpoint to written maps", m.programming_duration.clone());
        kube.register("sync_proxy_rules_service_changes", "Changes of Services", m.service_changes.clone());
        kube.register("sync_proxy_rules_endpoint_changes", "Changes of endpoints", m.endpoint_changes.clone());
        kube.register("sync_proxy_rules_service_changes_pending", "Services that wait to be applied", m.service_changes_pending.clone());
        kube.register("sync_proxy_rules_endpoint_changes_pending", "EndpointSlices that wait to be applied", m.endpoint_changes_pending.clone());
        kube.register("proxy_healthz", "Answers of /healthz by status", m.healthz.clone());
        kube.register("proxy_livez", "Answers of /livez by status", m.livez.clone());
        let own = registry.sub_registry_with_prefix("ropeway");
        own.register("build", "The version that runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        own.register("map_operations", "Entries of maps written or removed", m.map_operations.clone());
        own.register("map_failures", "Operations on maps that failed and are tried again", m.map_failures.clone());
        own.register("rejected_objects", "Objects of which something can't be used", m.rejected.clone());
        own.register("service_ports", "Service ports in the maps", m.services.clone());
        own.register("frontends", "Frontends in the maps", m.frontends.clone());
        own.register("backends", "Backends in the maps", m.backends.clone());
        registry.register_collector(Box::new(Kernel { pins: pins.clone(), health, node }));
        Self { registry, ..metrics }
    }

    /// Takes down an answer of a health endpoint.
    pub fn asked(&self, livez: bool, status: u16) {
        let family = if livez { &self.livez } else { &self.healthz };
        family.get_or_create(&vec![("code", status.to_string())]).inc();
    }

    /// Takes down a pass of the controller.
    pub fn synced(&self, took: Duration, operations: usize, failures: usize) {
        self.sync_duration.observe(took.as_secs_f64());
        self.map_operations.inc_by(operations as u64);
        self.map_failures.inc_by(failures as u64);
    }

    /// The text form of everything.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        if let Err(e) = text::encode(&mut out, &self.registry) {
            warn!(error = %e, "can't render metrics");
        }
        out
    }
}

/// What is read when it is asked for.
#[derive(Debug)]
struct Kernel {
    pins: Pins,
    health: Arc<Health>,
    node: Arc<NodeStatus>,
}

impl Collector for Kernel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let drops = DropReason::ALL.iter().map(|r| r.label());
        self.per_cpu(&mut encoder, "drops", "ropeway_drops", "Packets dropped, by reason", "reason", drops)?;
        let events = EventCounter::ALL.iter().map(|c| c.label());
        self.per_cpu(&mut encoder, "counters", "ropeway_events", "What the programs did", "event", events)?;
        self.sizes(&mut encoder)?;
        let (queued, updated) = self.health.timestamps();
        let gauge = |encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        let name = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds";
        gauge(&mut encoder, name, "When a change last came in", queued)?;
        let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        gauge(&mut encoder, name, "When all changes were applied last", updated)?;
        let name = "ropeway_unrouted_ranges";
        gauge(&mut encoder, name, "Pod ranges of nodes to which there is no route", self.node.unrouted() as f64)?;
        let (operations, repairs, failures) = self.node.counts();
        for (name, help, value) in [
            ("ropeway_node_operations", "Routes, links, filters and files changed", operations),
            ("ropeway_node_repairs", "Of those, what somebody else had changed or removed", repairs),
            ("ropeway_node_failures", "Attempts to bring the node into order that failed", failures),
        ] {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(encoder)?;
        }
        Ok(())
    }
}

impl Kernel {
    fn per_cpu<'a>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        map: &str,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = &'a str>,
    ) -> Result<(), std::fmt::Error> {
        let table = match PerCpuTable::<u64>::open(&self.pins, map) {
            Ok(table) => table,
            Err(e) => {
                warn!(error = %e, "can't read a map for metrics");
                return Ok(());
            }
        };
        let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (i, value) in values.enumerate() {
            let Ok(counts) = table.get(i as u32) else { continue };
            let labels = [(label, value)];
            ConstCounter::new(counts.iter().sum::<u64>()).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn sizes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        use std::os::fd::AsFd;
        let help = "Entries that a map can have";
        let mut encoder = encoder.encode_descriptor("ropeway_map_max_entries", help, None, MetricType::Gauge)?;
        for map in dataplane_common::abi::MAPS {
            let info = self.pins.open(&self.pins.map(map)).ok().and_then(|fd| sys::map_info(fd.as_fd()).ok());
            if let Some(info) = info {
                ConstGauge::new(i64::from(info.max_entries)).encode(encoder.encode_family(&[("map", *map)])?)?;
            }
        }
        Ok(())
    }
}


#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_dashboards_know() {
        let pins = Pins::new(std::path::Path::new("/nonexistent"));
        let metrics = Metrics::new(&pins, Arc::default(), Arc::default());
        metrics.asked(false, 200);
        metrics.asked(true, 503);
        metrics.synced(Duration::from_millis(3), 12, 1);
        metrics.service_changes.inc();
        let text = metrics.render();
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count 1",
            "kubeproxy_network_programming_duration_seconds_count 0",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds 0.0",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds 0.0",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_service_changes_pending 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 0",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "kubeproxy_proxy_livez_total{code=\"503\"} 1",
            "ropeway_map_operations_total 12",
            "ropeway_map_failures_total 1",
            "ropeway_node_repairs_total 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
