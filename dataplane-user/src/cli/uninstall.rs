//! `ropeway uninstall`: detaches all programs and removes pins, routes and devices.
//!
//! The only code that detaches; the agent never does. It continues after a failure and reports all
//! failures at the end. It removes only objects of Ropeway: pins, filters and devices as defined by
//! the loader, and routes of Ropeway's routing protocol number. Routes to running pods are kept,
//! because they are these pods' only connection; the kernel removes them with the pods' devices.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dataplane_host::contract::{self, AgentFile, NodeFile};
use dataplane_host::netlink::{NetlinkError, PROTOCOL, Socket, delete_route};
use dataplane_host::pins::Pins;
use serde::Serialize;

use super::{SCHEMA, View};
use crate::load::lock::AgentLock;
use crate::load::{LoadError, attach};
use crate::network::node::host_device;
use crate::network::{routes, tunnel};
use crate::observe::status_file::AgentStatus;

/// The view of `ropeway uninstall`: numbers of removed objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// Version of the view, [`SCHEMA`].
    pub version: u32,
    /// Pinned links (cgroup and tcx) that were detached.
    pub links: usize,
    /// tc filters of uplinks and pods.
    pub filters: usize,
    /// Pinned programs and maps.
    pub pins: usize,
    /// Routes to other nodes' pods.
    pub routes: usize,
    /// VXLAN devices (`ropeway.vx4`, `ropeway.vx6`).
    pub tunnels: usize,
    /// Pairs of host devices (`ropeway.out` and `ropeway.in`).
    pub host_devices: usize,
    /// Routes to running pods of this node that were kept.
    pub pod_routes_kept: usize,
}

/// Error of `ropeway uninstall`.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// An agent runs; it would attach everything again.
    #[error("stop the agent first (delete its DaemonSet or its pod): {0}")]
    Agent(LoadError),
    /// Objects that were not removed, each with the error.
    #[error("uninstall incomplete: {}; remove the cause and run `ropeway uninstall` again", .0.join("; "))]
    Incomplete(Vec<String>),
}

/// Removes the objects of all versions below the root of the pins.
///
/// # Errors
/// The agent runs and nothing was removed, or some objects could not be removed.
pub fn uninstall(pins: &Pins, state_dir: &Path) -> Result<Removed, UninstallError> {
    // Held until the end, so that no agent can start during the removal.
    let lock = state_dir.is_dir().then(|| AgentLock::take(state_dir)).transpose().map_err(UninstallError::Agent)?;
    let mut removed = Removed { version: SCHEMA, ..Removed::default() };
    let mut failures = Vec::new();
    // Links first: programs must not run on maps that are being removed.
    for abi in pins.abis() {
        removed.links += each_entry(&pins.root().join(abi).join("links"), &mut failures, |path| {
            attach::detach(path).map_err(|e| e.to_string())
        });
    }
    match Socket::open() {
        Ok(mut socket) => {
            match attach::remove_filters(&mut socket, |_, _| true) {
                Ok(count) => removed.filters = count,
                Err(e) => failures.push(e.to_string()),
            }
            if let Err(e) = remove_routes(&mut socket, &mut removed, &mut failures) {
                failures.push(e.to_string());
            }
            // After the routes: the kernel would remove those of the host device with it,
            // uncounted.
            match socket.links().and_then(|links| host_device::remove(&mut socket, &links)) {
                Ok(count) => removed.host_devices = count,
                Err(e) => failures.push(e.to_string()),
            }
            match tunnel::remove_all(&mut socket) {
                Ok(count) => removed.tunnels = count,
                Err(e) => failures.push(e.to_string()),
            }
        }
        Err(e) => failures.push(e.to_string()),
    }
    removed.pins = remove_tree(pins.root(), &mut failures);
    for name in [NodeFile::NAME, AgentStatus::NAME, contract::AGENT_LOCK] {
        let path = state_dir.join(name);
        note(&path, fs::remove_file(&path), &mut failures);
    }
    drop(lock);
    if failures.is_empty() { Ok(removed) } else { Err(UninstallError::Incomplete(failures)) }
}

/// Returns true on success. A missing file is neither a success nor a failure.
fn note(path: &Path, result: io::Result<()>, failures: &mut Vec<String>) -> bool {
    match result {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => {
            failures.push(format!("cannot remove {}: {e}", path.display()));
            false
        }
    }
}

/// Calls `work` for each entry of a directory and returns the number of successes.
fn each_entry(dir: &Path, failures: &mut Vec<String>, work: impl Fn(&Path) -> Result<(), String>) -> usize {
    let mut count = 0;
    for path in list(dir, failures) {
        match work(&path) {
            Ok(()) => count += 1,
            Err(e) => failures.push(e),
        }
    }
    count
}

/// Returns the entries of a directory; none if it is missing.
fn list(dir: &Path, failures: &mut Vec<String>) -> Vec<PathBuf> {
    let read = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
    match read() {
        Ok(paths) => paths,
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                failures.push(format!("cannot list {}: {e}", dir.display()));
            }
            Vec::new()
        }
    }
}

fn remove_routes(socket: &mut Socket, removed: &mut Removed, failures: &mut Vec<String>) -> Result<(), NetlinkError> {
    let (ours, pods): (Vec<_>, Vec<_>) = socket.routes(PROTOCOL)?.into_iter().partition(routes::is_ours);
    let requests: Vec<_> = ours.iter().map(delete_route).collect();
    let failed = socket.run_each(&requests);
    removed.routes = requests.len() - failed.len();
    removed.pod_routes_kept = pods.len();
    failures.extend(failed.into_iter().filter(|(_, e)| !e.is_missing()).map(|(_, e)| e.to_string()));
    Ok(())
}

/// Removes a directory tree and returns the number of removed files.
fn remove_tree(dir: &Path, failures: &mut Vec<String>) -> usize {
    let mut count = 0;
    for path in list(dir, failures) {
        if path.is_dir() {
            count += remove_tree(&path, failures);
        } else {
            count += usize::from(note(&path, fs::remove_file(&path), failures));
        }
    }
    note(dir, fs::remove_dir(dir), failures);
    count
}

impl View for Removed {
    fn text(&self) -> String {
        let Self { links, filters, pins, routes, tunnels, host_devices, pod_routes_kept, .. } = self;
        let kept = if *pod_routes_kept > 0 {
            format!("kept {pod_routes_kept} routes to running pods; they are removed with the pods\n")
        } else {
            String::new()
        };
        format!(
            "removed {links} links, {filters} filters, {pins} other pins, {routes} routes, {tunnels} tunnels, \
             {host_devices} host devices\n{kept}"
        )
    }
}
