//! Metrics of the kernel programs, read from the pinned maps.
//!
//! Drops and events are per-CPU arrays, summed at each scrape. A map that can't be read is logged
//! and left out, so that the other metrics are still served.

use std::fmt;
use std::os::fd::AsFd;

use dataplane_common::types::abi;
use dataplane_common::types::event::{Counter, DropReason};
use dataplane_host::map::PerCpuMap;
use dataplane_host::pins::Pins;
use dataplane_host::sys;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tracing::warn;

/// Collector of the programs' counters and of map sizes.
#[derive(Debug)]
pub(super) struct KernelCollector {
    pub(super) pins: Pins,
}

/// A per-CPU array of counts: map, metric, its help, its label.
type Counted = (&'static str, &'static str, &'static str, &'static str);

const DROPS: Counted = ("drops", "ropeway_drops", "Packets dropped, by reason", "reason");
const EVENTS: Counted = ("counters", "ropeway_events", "Actions of the programs, by kind", "event");

impl Collector for KernelCollector {
    fn encode(&self, mut e: DescriptorEncoder<'_>) -> fmt::Result {
        self.per_cpu(&mut e, DROPS, DropReason::ALL.iter().map(|r| r.label()))?;
        self.per_cpu(&mut e, EVENTS, Counter::ALL.iter().map(|c| c.label()))?;
        let help = "Maximum number of entries of a map";
        let mut family = e.encode_descriptor("ropeway_map_max_entries", help, None, MetricType::Gauge)?;
        for map in abi::MAPS {
            let info = self.pins.open(&self.pins.map(map)).ok().and_then(|fd| sys::map_info(fd.as_fd()).ok());
            if let Some(info) = info {
                ConstGauge::new(i64::from(info.max_entries)).encode(family.encode_family(&[("map", *map)])?)?;
            }
        }
        Ok(())
    }
}

impl KernelCollector {
    fn per_cpu(
        &self,
        e: &mut DescriptorEncoder<'_>,
        (map, name, help, label): Counted,
        values: impl Iterator<Item = &'static str>,
    ) -> fmt::Result {
        let table = match PerCpuMap::<u64>::open(&self.pins, map) {
            Ok(table) => table,
            Err(e) => {
                warn!(error = %e, "cannot read a map for metrics");
                return Ok(());
            }
        };
        let mut family = e.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (i, value) in values.enumerate() {
            let Ok(counts) = table.get(i as u32) else { continue };
            ConstCounter::new(counts.iter().sum::<u64>()).encode(family.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }
}
