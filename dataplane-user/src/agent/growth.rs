//! Larger tables for an agent that needs them.
//!
//! Growing is part of a start, because a start is what changes nothing for traffic: so the agent replaces itself by the same program, which is told
//! the sizes. It remains the same process for whoever started it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;

use dataplane_host::pins::Pins;
use tokio::sync::watch;
use tracing::{error, info};

use crate::load::LoadError;
use crate::load::grow;
use crate::load::sizes::{Growing, Sizes, larger};
use crate::proxy::controller::Snapshot;

/// What an agent tells the one that takes its place: `map=entries` with commas between.
const VARIABLE: &str = "ROPEWAY_GROWN_TABLES";

/// Bytes of memory that the node has.
#[must_use]
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// The sizes that growing maps should have now: what was asked for by the agent whose place this one takes, else what is there, else the first.
///
/// # Errors
/// A pin is damaged.
pub fn wanted(sizes: &Sizes, pins: &Pins) -> Result<Vec<(&'static str, u32)>, LoadError> {
    let asked = std::env::var(VARIABLE).unwrap_or_default();
    let asked = parse(&asked);
    let mut all = Vec::new();
    for group in &sizes.growing {
        let present = grow::entries(pins, group.maps[0])?.unwrap_or(0);
        let asked = asked.get(group.maps[0]).map_or(0, |asked| (*asked).min(group.limit));
        let entries = group.first.max(asked).max(present);
        all.extend(group.maps.iter().map(|map| (*map, entries)));
    }
    Ok(all)
}

/// Watches for maps that are too small, and replaces the process if they may grow. `wanted` is what this process was started with: what it did
/// not get then, it does not ask for again.
pub async fn watch(
    groups: [Growing; 5],
    wanted: Vec<(&'static str, u32)>,
    pins: Pins,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let present = |map: &str| grow::entries(&pins, map).ok().flatten().unwrap_or(u32::MAX);
    let refused = wanted.iter().any(|(map, entries)| present(map) < *entries);
    while !refused && snapshots.wait_for(|s| s.synced && !s.short.is_empty()).await.is_ok() {
        let short = snapshots.borrow_and_update().short.clone();
        let next = next(&groups, &short, present);
        if !next.is_empty() {
            info!(tables = next, "tables are full: starting anew with larger ones");
            let error = again(&next);
            error!(%error, "can't start anew: the tables keep their sizes");
            return;
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// What to ask for; nothing if no map that is short may grow.
fn next(groups: &[Growing], short: &BTreeMap<&str, u32>, present: impl Fn(&str) -> u32) -> String {
    let larger = |group: &Growing| {
        let (map, missing) = (group.maps[0], *short.get(group.maps[0])?);
        Some(format!("{map}={}", larger(present(map), missing, group.limit)?))
    };
    groups.iter().filter_map(larger).collect::<Vec<_>>().join(",")
}

fn parse(text: &str) -> BTreeMap<&str, u32> {
    text.split(',')
        .filter_map(|part| part.split_once('='))
        .filter_map(|(map, n)| Some((map, n.parse().ok()?)))
        .collect()
}

/// Only returns if that failed.
fn again(tables: &str) -> io::Error {
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(VARIABLE, tables).exec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TableSizes;

    #[test]
    fn asks_for_maps_that_are_short_and_may_grow() {
        let groups = Sizes::new(&TableSizes { slots: Some(1 << 18), ..TableSizes::default() }, 0).growing;
        let first = |map: &str| groups.iter().find(|g| g.maps[0] == map).map_or(0, |g| g.first);
        let next = |short: &[(&'static str, u32)]| next(&groups, &short.iter().copied().collect(), first);
        assert_eq!(next(&[("backends", 70_000), ("frontends6", 1)]), "frontends6=262144,backends=262144");
        assert_eq!(next(&[("slots", 1)]), "", "at its limit");
        assert_eq!(next(&[("source_ranges4", 1)]), "", "does not grow");
        assert_eq!(parse("frontends6=262144,backends=262144,x,y=z").len(), 2);
    }
}
