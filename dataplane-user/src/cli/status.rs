//! `ropeway status`: what is loaded and attached, and how full the tables are.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use dataplane_common::types::abi;
use dataplane_common::types::address::Address;
use dataplane_common::types::pod::NodeConfig;
use dataplane_common::types::service::Backend;
use dataplane_host::map::{self, SharedArray, Table};
use dataplane_host::netlink::Socket;
use dataplane_host::pins::{PinError, Pins};
use dataplane_host::sys;
use serde::Serialize;

use super::{SCHEMA, View, pod, table};
use crate::load::lock::AgentLock;
use crate::row;

/// The view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`SCHEMA`].
    pub version: u32,
    /// Fingerprint of the types that agent, plugin and programs share.
    pub abi: String,
    /// Fingerprints of other versions that have pins here.
    pub other_abis: Vec<String>,
    /// Directory of the pins.
    pub pins: String,
    /// Whether an agent runs; `None`: can't be told.
    pub agent_running: Option<bool>,
    /// The node's configuration as the programs see it.
    pub node: Option<NodeView>,
    /// Pinned programs.
    pub programs: Vec<ProgramView>,
    /// Pinned links.
    pub links: Vec<LinkView>,
    /// Filters of pods and, where the kernel has no tcx, of uplinks.
    pub filters: Vec<FilterView>,
    /// Pinned maps.
    pub maps: Vec<MapView>,
}

/// [`NodeConfig`] for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "as in NodeConfig")]
pub struct NodeView {
    pub addresses: Vec<IpAddr>,
    pub uplink: Option<String>,
    pub snat_ports: String,
    pub udp_ticks: u32,
    pub tcp_ticks: u32,
    pub closing_ticks: u32,
}

/// A pinned program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "as bpftool names them")]
pub struct ProgramView {
    pub name: String,
    pub id: u32,
    pub tag: String,
    pub xlated_bytes: u32,
    pub jited_bytes: u32,
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkView {
    /// Name of the pin.
    pub name: String,
    /// Number in this kernel.
    pub id: u32,
    /// `cgroup`, `tcx` or the number of the type.
    pub kind: String,
    /// Where it is attached: `cgroup 1234`, the device, or `gone`.
    pub target: String,
    /// Id of the program that it runs.
    pub program: u32,
}

/// A filter of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterView {
    /// Device.
    pub device: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Name of the program.
    pub name: String,
    /// Its id.
    pub program: Option<u32>,
}

/// A pinned map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapView {
    /// Name.
    pub name: String,
    /// Number in this kernel.
    pub id: u32,
    /// Capacity.
    pub max_entries: u32,
    /// Entries in use, where that can be told.
    pub entries: Option<usize>,
}

/// Reads everything. What can't be read for itself is left out.
///
/// # Errors
/// There are no pins of this version.
pub fn gather(pins: &Pins, state_dir: &Path) -> Result<Status, PinError> {
    if let Some(missing) = pins.missing() {
        return Err(missing);
    }
    let mut socket = Socket::open().ok();
    let devices = socket.as_mut().and_then(|s| s.links().ok()).unwrap_or_default();
    let device = |index: u32| devices.iter().find(|d| d.index == index).map(|d| d.name.clone());
    let filters = devices.iter().flat_map(|d| {
        let all = socket.as_mut().and_then(|s| s.filters(d.index).ok()).unwrap_or_default();
        all.into_iter().filter(dataplane_host::netlink::Filter::is_ours).map(|f| FilterView {
            device: d.name.clone(),
            direction: format!("{:?}", f.direction).to_lowercase(),
            name: f.name.unwrap_or_default(),
            program: f.program,
        })
    });
    let filters = filters.collect();
    let own = format!("{:016x}", abi::HASH);
    Ok(Status {
        version: SCHEMA,
        other_abis: pins.abis().into_iter().filter(|abi| *abi != own).collect(),
        abi: own,
        pins: pins.directory().display().to_string(),
        agent_running: AgentLock::is_held(state_dir),
        node: node(pins, device),
        programs: each(pins, "programs", |name, fd| {
            let info = sys::program_info(fd.as_fd()).ok()?;
            Some(ProgramView {
                name,
                id: info.id,
                tag: info.tag.map(|b| format!("{b:02x}")).concat(),
                xlated_bytes: info.xlated_size,
                jited_bytes: info.jited_size,
            })
        }),
        links: each(pins, "links", |name, fd| {
            let info = sys::link_info(fd.as_fd()).ok()?;
            let (kind, target) = if let Some((cgroup, _)) = info.cgroup() {
                ("cgroup".into(), if cgroup == 0 { "gone".into() } else { format!("cgroup {cgroup}") })
            } else if let Some((index, _)) = info.device() {
                ("tcx".into(), device(index).unwrap_or_else(|| "gone".into()))
            } else {
                (info.link_type.to_string(), "?".into())
            };
            Some(LinkView { name, id: info.id, kind, target, program: info.program })
        }),
        filters,
        maps: each(pins, "maps", |name, fd| {
            let info = sys::map_info(fd.as_fd()).ok()?;
            let entries = used(pins, &name, info.map_type);
            Some(MapView { name, id: info.id, max_entries: info.max_entries, entries })
        }),
    })
}

/// What `view` says of each pin in a directory, by name.
fn each<T>(pins: &Pins, dir: &str, view: impl Fn(String, OwnedFd) -> Option<T>) -> Vec<T> {
    let dir = pins.directory().join(dir);
    let Ok(entries) = fs::read_dir(&dir) else { return Vec::new() };
    let mut names: Vec<_> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names.into_iter().filter_map(|name| sys::obj_get(&dir.join(&name)).ok().and_then(|fd| view(name, fd))).collect()
}

fn used(pins: &Pins, name: &str, map_type: u32) -> Option<usize> {
    const HASH: u32 = 1;
    const LRU_HASH: u32 = 9;
    match (name, map_type) {
        (_, HASH | LRU_HASH) => map::count(pins, name).ok(),
        ("backends", _) => {
            let backends = SharedArray::<Backend>::open(pins, name).ok()?;
            Some((0..backends.len()).filter(|id| backends.get(*id).is_some_and(|b| b.state != 0)).count())
        }
        ("pods", _) => pod::read(pins).ok().map(|pods| pods.len()),
        _ => None,
    }
}

fn node(pins: &Pins, device: impl Fn(u32) -> Option<String>) -> Option<NodeView> {
    let config: NodeConfig = Table::<u32, NodeConfig>::open(pins, "config").ok()?.get(&0).ok()??;
    let v4 = (!config.node4.is_unspecified()).then(|| config.node4.into());
    let v6 = (!config.node6.is_unspecified()).then(|| config.node6.into());
    Some(NodeView {
        addresses: [v4, v6].into_iter().flatten().collect(),
        uplink: device(config.uplink),
        snat_ports: format!("{}-{}", config.snat_port_min, config.snat_port_max),
        udp_ticks: config.udp_ticks,
        tcp_ticks: config.tcp_ticks,
        closing_ticks: config.closing_ticks,
    })
}

impl View for Status {
    fn text(&self) -> String {
        let agent = match self.agent_running {
            Some(true) => "running",
            Some(false) => "not running (traffic does not depend on it)",
            None => "unknown",
        };
        let mut head = vec![row!["ABI", self.abi], row!["Pins", self.pins], row!["Agent", agent]];
        if !self.other_abis.is_empty() {
            head.push(row!["Other ABIs", self.other_abis.join(", ")]);
        }
        if let Some(node) = &self.node {
            let addresses: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
            let or_none = |s: String| if s.is_empty() { "(none)".to_owned() } else { s };
            head.push(row!["Node addresses", or_none(addresses.join(", "))]);
            head.push(row!["Uplink", node.uplink.as_deref().unwrap_or("(the routes decide)")]);
            head.push(row!["SNAT ports", node.snat_ports]);
        }
        let mut programs = vec![row!["PROGRAM", "ID", "TAG", "XLATED", "JITED"]];
        programs.extend(self.programs.iter().map(|p| row![p.name, p.id, p.tag, p.xlated_bytes, p.jited_bytes]));
        let mut links = vec![row!["LINK", "ID", "KIND", "ATTACHED TO", "PROGRAM"]];
        links.extend(self.links.iter().map(|l| row![l.name, l.id, l.kind, l.target, l.program]));
        let mut filters = vec![row!["FILTER", "DEVICE", "DIRECTION", "PROGRAM"]];
        let id = |p: Option<u32>| p.map_or("-".to_owned(), |p| p.to_string());
        filters.extend(self.filters.iter().map(|f| row![f.name, f.device, f.direction, id(f.program)]));
        let mut maps = vec![row!["MAP", "ID", "ENTRIES", "OF", "FULL"]];
        maps.extend(self.maps.iter().map(|m| match m.entries {
            Some(n) => {
                let percent = (n * 100).div_ceil((m.max_entries as usize).max(1));
                row![m.name, m.id, n, m.max_entries, format!("{percent}%")]
            }
            None => row![m.name, m.id, "-", m.max_entries, "-"],
        }));
        let mut parts = vec![head, programs, links];
        if filters.len() > 1 {
            parts.push(filters);
        }
        parts.push(maps);
        parts.iter().map(|rows| table::render(rows)).collect::<Vec<_>>().join("\n")
    }
}
