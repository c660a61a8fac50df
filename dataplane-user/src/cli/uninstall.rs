//! `ropeway uninstall`: the one command that detaches.
//!
//! Goes on after a failure and reports all of them. Takes away only what is ours: see [`crate::load`] and
//! [`crate::routes`]. Routes to pods that still run stay, because only they connect these pods; they go with the pods.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, bail};
use dataplane_host::netlink::{PROTOCOL, Socket, delete_route};
use dataplane_host::pins::Pins;
use serde::Serialize;

use super::{SCHEMA, View};
use crate::load::attach;
use crate::load::lock::AgentLock;
use crate::{node, routes};

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
    /// Routes to pods of this node that were left.
    pub pod_routes_left: usize,
}

/// Removes everything of every version below the root of the pins.
///
/// # Errors
/// The agent runs, or something could not be removed; everything else is.
pub fn uninstall(pins: &Pins, state_dir: &Path) -> anyhow::Result<Removed> {
    // Held to the end, so that no agent starts meanwhile.
    let lock =
        if state_dir.is_dir() { Some(AgentLock::take(state_dir).context("stop the agent first")?) } else { None };
    let mut removed = Removed { version: SCHEMA, ..Removed::default() };
    let mut failures = Vec::new();
    let mut note = |what: &str, result: anyhow::Result<()>| {
        if let Err(e) = result {
            failures.push(format!("{what}: {e:#}"));
        }
    };
    note("links", remove_links(pins, &mut removed.links));
    note(
        "filters",
        (|| {
            removed.filters = attach::remove_filters(&mut Socket::open()?, |_, _| true)?;
            Ok(())
        })(),
    );
    note("routes", remove_routes(&mut removed));
    note("pins", remove_pins(pins.root(), &mut removed.pins));
    for name in [node::file::NAME, "agent.lock"] {
        note(name, absent_is_fine(fs::remove_file(state_dir.join(name))));
    }
    drop(lock);
    if failures.is_empty() { Ok(removed) } else { bail!("not everything could be removed: {}", failures.join("; ")) }
}

fn absent_is_fine(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Links first: traffic stops being translated before the maps go.
fn remove_links(pins: &Pins, count: &mut usize) -> anyhow::Result<()> {
    for abi in pins.abis() {
        let dir = pins.root().join(abi).join("links");
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.filter_map(Result::ok).map(|e| e.path()) {
            attach::detach(&path)?;
            *count += 1;
        }
    }
    Ok(())
}

fn remove_routes(removed: &mut Removed) -> anyhow::Result<()> {
    let mut socket = Socket::open()?;
    let all = socket.routes(PROTOCOL)?;
    let (ours, pods): (Vec<_>, Vec<_>) = all.into_iter().partition(routes::is_ours);
    let requests: Vec<_> = ours.iter().map(delete_route).collect();
    if let Some((_, e)) = socket.run_each(&requests).into_iter().find(|(_, e)| !e.is_missing()) {
        return Err(e.into());
    }
    removed.routes = requests.len();
    removed.pod_routes_left = pods.len();
    Ok(())
}

fn remove_pins(dir: &Path, count: &mut usize) -> anyhow::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| dir.display().to_string())?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_pins(&path, count)?;
        } else {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
            *count += 1;
        }
    }
    fs::remove_dir(dir).with_context(|| dir.display().to_string())
}

impl View for Removed {
    fn text(&self) -> String {
        let Self { links, filters, pins, routes, pod_routes_left, .. } = self;
        let left = if *pod_routes_left > 0 {
            format!("left {pod_routes_left} routes of pods that still run; they go with the pods\n")
        } else {
            String::new()
        };
        format!("removed {links} links, {filters} filters, {pins} other pins, {routes} routes\n{left}")
    }
}
