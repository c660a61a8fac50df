//! `ropeway drops`: dropped packets by reason, and events of the programs.
//!
//! Sums the per-CPU maps `drops` and `counters`; the labels are those of the metrics
//! `ropeway_drops_total` and `ropeway_events_total`. Counters start at 0 when the maps are created
//! and survive a restart of the agent.

use std::collections::BTreeMap;

use dataplane_common::types::event::{Counter, DropReason};
use dataplane_host::map::{MapError, PerCpuMap};
use dataplane_host::pins::Pins;
use serde::Serialize;

use super::{SCHEMA, View, table};
use crate::row;

/// The view of `ropeway drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drops {
    /// Version of the view, [`SCHEMA`].
    pub version: u32,
    /// Dropped packets by label of [`DropReason`].
    pub drops: BTreeMap<&'static str, u64>,
    /// Events by label of [`Counter`].
    pub events: BTreeMap<&'static str, u64>,
}

/// Sums the counters over all CPUs.
///
/// # Errors
/// The map `drops` or `counters` could not be read.
pub fn gather(pins: &Pins) -> Result<Drops, MapError> {
    let sums = |map: &str, labels: Vec<&'static str>| -> Result<BTreeMap<_, _>, MapError> {
        let table = PerCpuMap::<u64>::open(pins, map)?;
        let sum = |(i, label): (usize, _)| Ok((label, table.get(i as u32)?.iter().sum()));
        labels.into_iter().enumerate().map(sum).collect()
    };
    Ok(Drops {
        version: SCHEMA,
        drops: sums("drops", DropReason::ALL.iter().map(|r| r.label()).collect())?,
        events: sums("counters", Counter::ALL.iter().map(|c| c.label()).collect())?,
    })
}

impl View for Drops {
    fn text(&self) -> String {
        let mut rows = vec![row!["DROP REASON", "PACKETS"]];
        rows.extend(self.drops.iter().map(|(reason, count)| row![reason, count]));
        let drops = table::render(&rows);
        let mut rows = vec![row!["EVENT", "COUNT"]];
        rows.extend(self.events.iter().map(|(event, count)| row![event, count]));
        format!("{drops}\n{}", table::render(&rows))
    }
}
