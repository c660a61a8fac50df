//! `ropeway uninstall`: the one command that detaches.
//!
//! Goes on after a failure and reports all of them. Takes away only what is ours: see [`crate::load`] and
//! [`crate::network::routes`]. Routes to pods that still run stay, because only they connect these pods; they go with the pods.

use std::fs;
use std::io;
use std::path::Path;

use dataplane_host::netlink::{NetlinkError, PROTOCOL, Socket, delete_route};
use dataplane_host::pins::Pins;
use serde::Serialize;

use super::{SCHEMA, View};
use crate::load::lock::AgentLock;
use crate::load::{LoadError, attach};
use crate::network::node::gate;
use crate::network::{node, routes, tunnel};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// [`SCHEMA`].
    pub version: u32,
    /// Pinned links.
    pub links: usize,
    /// Filters of devices.
    pub filters: usize,
    /// Other pins.
    pub pins: usize,
    /// Routes to other nodes' pods.
    pub routes: usize,
    /// Tunnel devices.
    pub tunnels: usize,
    /// Pairs of devices that lead the node's own packets to the programs.
    pub gates: usize,
    /// Routes to pods of this node that were left.
    pub pod_routes_left: usize,
}

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// An agent would put everything back, or work on pins that are gone.
    #[error("stop the agent first: {0}")]
    Agent(LoadError),
    /// What could not be removed, and why.
    #[error("not everything could be removed: {}", .0.join("; "))]
    Left(Vec<String>),
}

/// Removes everything of every version below the root of the pins.
///
/// # Errors
/// The agent runs, or something could not be removed; everything else is.
pub fn uninstall(pins: &Pins, state_dir: &Path) -> Result<Removed, UninstallError> {
    // Held to the end, so that no agent starts meanwhile.
    let lock = state_dir.is_dir().then(|| AgentLock::take(state_dir)).transpose().map_err(UninstallError::Agent)?;
    let mut removed = Removed { version: SCHEMA, ..Removed::default() };
    let mut left = Vec::new();
    // Links first: traffic stops being translated before the maps go.
    for abi in pins.abis() {
        removed.links += each_entry(&pins.root().join(abi).join("links"), &mut left, |path| {
            attach::detach(path).map_err(|e| e.to_string())
        });
    }
    match Socket::open() {
        Ok(mut socket) => {
            match attach::remove_filters(&mut socket, |_, _| true) {
                Ok(count) => removed.filters = count,
                Err(e) => left.push(e.to_string()),
            }
            if let Err(e) = remove_routes(&mut socket, &mut removed, &mut left) {
                left.push(e.to_string());
            }
            // After the routes that lead there, which would go with them and not be counted.
            match socket.links().and_then(|links| gate::remove(&mut socket, &links)) {
                Ok(count) => removed.gates = count,
                Err(e) => left.push(e.to_string()),
            }
            match tunnel::remove_all(&mut socket) {
                Ok(count) => removed.tunnels = count,
                Err(e) => left.push(e.to_string()),
            }
        }
        Err(e) => left.push(e.to_string()),
    }
    removed.pins = remove_tree(pins.root(), &mut left);
    for name in [node::file::NAME, "agent.lock"] {
        let path = state_dir.join(name);
        note(&path, fs::remove_file(&path), &mut left);
    }
    drop(lock);
    if left.is_empty() { Ok(removed) } else { Err(UninstallError::Left(left)) }
}

/// Says whether it worked; what is not there any longer is no failure and no success.
fn note(path: &Path, result: io::Result<()>, left: &mut Vec<String>) -> bool {
    match result {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => {
            left.push(format!("{}: {e}", path.display()));
            false
        }
    }
}

/// Does `work` to each entry of a directory; counts the successes.
fn each_entry(dir: &Path, left: &mut Vec<String>, work: impl Fn(&Path) -> Result<(), String>) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut count = 0;
    for entry in entries.filter_map(Result::ok) {
        match work(&entry.path()) {
            Ok(()) => count += 1,
            Err(e) => left.push(e),
        }
    }
    count
}

fn remove_routes(socket: &mut Socket, removed: &mut Removed, left: &mut Vec<String>) -> Result<(), NetlinkError> {
    let (ours, pods): (Vec<_>, Vec<_>) = socket.routes(PROTOCOL)?.into_iter().partition(routes::is_ours);
    let requests: Vec<_> = ours.iter().map(delete_route).collect();
    let failed = socket.run_each(&requests);
    removed.routes = requests.len() - failed.len();
    removed.pod_routes_left = pods.len();
    left.extend(failed.into_iter().filter(|(_, e)| !e.is_missing()).map(|(_, e)| e.to_string()));
    Ok(())
}

/// Removes a directory with all below it; counts the files.
fn remove_tree(dir: &Path, left: &mut Vec<String>) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut count = 0;
    for path in entries.filter_map(Result::ok).map(|e| e.path()) {
        if path.is_dir() {
            count += remove_tree(&path, left);
        } else {
            count += usize::from(note(&path, fs::remove_file(&path), left));
        }
    }
    note(dir, fs::remove_dir(dir), left);
    count
}

impl View for Removed {
    fn text(&self) -> String {
        let Self { links, filters, pins, routes, tunnels, gates, pod_routes_left, .. } = self;
        let left = if *pod_routes_left > 0 {
            format!("left {pod_routes_left} routes of pods that still run; they go with the pods\n")
        } else {
            String::new()
        };
        format!(
            "removed {links} links, {filters} filters, {pins} other pins, {routes} routes, {tunnels} tunnels, {gates} gates\n{left}"
        )
    }
}
