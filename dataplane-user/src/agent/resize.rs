//! Resizes the Service maps when they are full, by restarting the agent in place.
//!
//! A map cannot change its size, and the start of an agent already replaces maps without a loss of
//! traffic. So the agent calls execve(2) on its own program and passes the new sizes in an
//! environment variable; the process id stays the same for the container runtime. Only maps that
//! Services fill are resized; flow tables keep their size.
//!
//! A Service that fits on no node makes all nodes restart and list everything. So each waits for a
//! random time that grows with the number of nodes, and for a minute since its last restart.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dataplane_host::pins::Pins;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::api::random;
use crate::load::LoadError;
use crate::load::resize;
use crate::load::sizes::{ResizableMaps, Sizes, larger};
use crate::proxy::controller::{Nodes, Snapshot};

/// Environment variable with the requested sizes: `map=entries`, separated by commas.
const VARIABLE: &str = "ROPEWAY_RESIZED_MAPS";
/// Environment variable with the time of the last restart, in seconds since 1970.
const LAST_RESTART: &str = "ROPEWAY_GROWN_AT";

/// Time in which the needs of several Services are collected.
const SETTLE: Duration = Duration::from_secs(1);
/// Shortest interval between two restarts.
const PAUSE: Duration = Duration::from_secs(60);
/// Share of one node in the time over which the restarts of all nodes are spread.
const PER_NODE: Duration = Duration::from_millis(10);
/// Longest time over which they are spread.
const LONGEST_SPREAD: Duration = Duration::from_secs(30);

/// Returns the node's memory in bytes.
#[must_use]
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// Returns the size of each resizable map in entries: the largest of the requested size (up to the
/// limit), the present size and the first size.
///
/// # Errors
/// A pinned map could not be read.
pub fn wanted(sizes: &Sizes, pins: &Pins) -> Result<Vec<(&'static str, u32)>, LoadError> {
    let asked = std::env::var(VARIABLE).unwrap_or_default();
    let asked = parse(&asked);
    let mut all = Vec::new();
    for group in &sizes.resizable {
        let present = resize::entries(pins, group.maps[0])?.unwrap_or(0);
        let asked = asked.get(group.maps[0]).map_or(0, |asked| (*asked).min(group.limit));
        let entries = group.first.max(asked).max(present);
        all.extend(group.maps.iter().map(|map| (*map, entries)));
    }
    Ok(all)
}

/// Waits until a map is full, then restarts the agent with larger maps if the limits allow it.
///
/// `wanted` holds the sizes that this process requested at start. If a map did not get its size
/// then, or if a restart failed, no further restart is tried. Returns when the controller has
/// ended.
pub async fn watch(
    groups: [ResizableMaps; 7],
    wanted: Vec<(&'static str, u32)>,
    pins: Pins,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    nodes: watch::Receiver<Arc<Nodes>>,
) {
    let last = std::env::var(LAST_RESTART).ok().and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let mut refused = false;
    match present(&groups, &pins) {
        Ok(present) => refused = wanted.iter().any(|(map, entries)| present.get(map).is_some_and(|n| n < entries)),
        Err(error) => warn!(%error, "cannot read the sizes of the maps"),
    }
    while !refused && snapshots.wait_for(|s| s.synced && !s.insufficient.is_empty()).await.is_ok() {
        let (count, since_last) = (nodes.borrow().len(), last.map(|last| now().saturating_sub(last)));
        tokio::time::sleep(delay(count, since_last, random())).await;
        // What was missing may fit by now, and more may be missing.
        let insufficient = snapshots.borrow_and_update().insufficient.clone();
        let present = match present(&groups, &pins) {
            Ok(present) => present,
            Err(error) => {
                warn!(%error, "map resize delayed by {PAUSE:?}: cannot read the sizes of the maps");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let next = next(&groups, &insufficient, |map| present.get(map).copied());
        if !next.is_empty() {
            info!(maps = next, "map resize started: restarting the agent with larger maps");
            let error = restart(&next);
            error!(%error, "map resize failed: cannot restart the agent; the maps keep their sizes");
            break;
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
    // The agent keeps serving what fits, so this is not the end of its task.
    while snapshots.changed().await.is_ok() {}
}

/// Returns the sizes of the resizable maps that are pinned.
fn present(groups: &[ResizableMaps], pins: &Pins) -> Result<BTreeMap<&'static str, u32>, LoadError> {
    let mut sizes = BTreeMap::new();
    for map in groups.iter().flat_map(|group| group.maps.iter()) {
        sizes.extend(resize::entries(pins, map)?.map(|entries| (*map, entries)));
    }
    Ok(sizes)
}

/// Returns the sizes to request; empty if every full map is at its limit or is not pinned.
fn next(groups: &[ResizableMaps], insufficient: &BTreeMap<&str, u32>, present: impl Fn(&str) -> Option<u32>) -> String {
    let larger = |group: &ResizableMaps| {
        let (map, missing) = (group.maps[0], *insufficient.get(group.maps[0])?);
        Some(format!("{map}={}", larger(present(map)?, missing, group.limit)?))
    };
    groups.iter().filter_map(larger).collect::<Vec<_>>().join(",")
}

fn parse(text: &str) -> BTreeMap<&str, u32> {
    text.split(',')
        .filter_map(|part| part.split_once('='))
        .filter_map(|(map, n)| Some((map, n.parse().ok()?)))
        .collect()
}

/// Replaces the process; returns only on failure.
fn restart(sizes: &str) -> io::Error {
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(VARIABLE, sizes).env(LAST_RESTART, now().as_secs().to_string()).exec()
}

/// Returns the time since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the time to wait before a restart in a cluster of so many nodes.
fn delay(nodes: usize, since_last: Option<Duration>, random: u64) -> Duration {
    let spread = PER_NODE.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX)).min(LONGEST_SPREAD);
    let spread = Duration::from_millis(random % (spread.as_millis() as u64 + 1));
    let rest = since_last.map_or(Duration::ZERO, |since| PAUSE.saturating_sub(since));
    (SETTLE + spread).max(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TableSizes;

    #[test]
    fn restarts_are_spread_over_the_nodes_and_a_minute_apart() {
        let seconds = Duration::from_secs;
        assert_eq!(delay(0, None, u64::MAX), SETTLE);
        let delays: Vec<_> = (0..5000).map(|_| delay(5000, None, random())).collect();
        let (first, last) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(*first >= SETTLE && *last <= SETTLE + LONGEST_SPREAD && last.saturating_sub(*first) > seconds(25));
        let busiest = (0..32).map(|s| delays.iter().filter(|d| d.as_secs() == s).count()).max().unwrap();
        assert!(busiest < 400, "{busiest} of 5000 in one second");
        assert_eq!(delay(3, Some(seconds(15)), 0), seconds(45));
        assert_eq!(delay(3, Some(seconds(600)), 0), SETTLE);
    }

    #[test]
    fn unreadable_size_is_an_error_and_not_a_map_at_its_limit() {
        let root = tempfile::tempdir().unwrap();
        let pins = Pins::new(root.path());
        let groups = Sizes::new(&TableSizes::default(), 0).resizable;
        assert!(present(&groups, &pins).unwrap().is_empty(), "nothing is pinned");
        std::fs::create_dir_all(pins.directory().join("maps")).unwrap();
        std::fs::write(pins.map("slots"), "no map").unwrap();
        assert!(present(&groups, &pins).is_err());
    }

    #[test]
    fn full_maps_below_their_limit_are_resized() {
        let groups = Sizes::new(&TableSizes { slots: Some(1 << 18), ..TableSizes::default() }, 0).resizable;
        let first = |map: &str| groups.iter().find(|g| g.maps[0] == map).map(|g| g.first);
        let next = |insufficient: &[(&'static str, u32)]| next(&groups, &insufficient.iter().copied().collect(), first);
        assert_eq!(next(&[("backends", 70_000), ("frontends6", 1)]), "frontends6=262144,backends=262144");
        assert_eq!(next(&[("slots", 1)]), "", "at its limit");
        assert_eq!(next(&[("source_ranges4", 1)]), "", "is not resizable");
        assert_eq!(parse("frontends6=262144,backends=262144,x,y=z").len(), 2);
    }
}
