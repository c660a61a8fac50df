//! `ropeway status`: loaded programs, links and filters, and how full the maps are.
//!
//! Reads the pins of this version and asks the kernel about each of them, as `bpftool` does. What
//! cannot be read is listed with the error, so that it does not look absent. The agent's lock file
//! says if it runs, and a file of its own what it could not read or serve. Sysctls with wrong
//! values are listed, because an agent in a container may not be able to set them.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use dataplane_common::types::abi;
use dataplane_common::types::address::Address;
use dataplane_common::types::pod::NodeConfig;
use dataplane_common::types::service::Backend;
use dataplane_host::contract;
use dataplane_host::map::{self, MapError, PinnedMap, SharedArray};
use dataplane_host::netlink::{IfIndex, Socket};
use dataplane_host::pins::{PinError, Pins};
use dataplane_host::sys;
use serde::Serialize;

use super::{SCHEMA, View, pod, table};
use crate::load::lock::AgentLock;
use crate::network::node::sysctl;
use crate::observe::status_file::AgentStatus;
use crate::row;

/// The view of `ropeway status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the view, [`SCHEMA`].
    pub version: u32,
    /// Hash of the map types that agent, plugin and programs share, in hexadecimal.
    pub abi: String,
    /// Hashes of other versions that have pins below the same root.
    pub other_abis: Vec<String>,
    /// Directory of this version's pins.
    pub pins: String,
    /// True if an agent holds its lock; `None` if the lock file cannot be read.
    pub agent_running: Option<bool>,
    /// What the agent has written about itself; `None` if there is no readable file.
    pub agent: Option<AgentStatus>,
    /// The map `config`, from which the programs read the node's configuration.
    pub node: Option<NodeView>,
    /// Sysctls with a wrong value, which the agent sets if it may.
    pub wrong_sysctls: Vec<SysctlView>,
    /// Pinned programs by name.
    pub programs: Vec<ProgramView>,
    /// Pinned links by name.
    pub links: Vec<LinkView>,
    /// tc filters of pods and, before Linux 6.6, of uplinks.
    pub filters: Vec<FilterView>,
    /// Pinned maps by name.
    pub maps: Vec<MapView>,
    /// Reads that failed, each with the error: what they concern is missing from this view.
    pub unreadable: Vec<String>,
}

/// The fields of [`NodeConfig`] that concern an operator.
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

/// A sysctl with a wrong value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SysctlView {
    /// Name as for sysctl(8), such as `kernel.unprivileged_bpf_disabled`.
    pub name: String,
    /// The required value.
    pub required: String,
    /// Effect of the present value.
    pub reason: String,
}

/// A pinned program with its sizes in bytes.
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

/// A pinned link: an attachment to a cgroup or by tcx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkView {
    /// File name of the pin.
    pub name: String,
    /// Id of the object in this kernel.
    pub id: u32,
    /// `cgroup`, `tcx`, or the number of another link type.
    pub kind: String,
    /// `cgroup` and its id, the name of the device, or `gone` if the target was removed.
    pub target: String,
    /// Id of the attached program.
    pub program: u32,
}

/// A tc filter of Ropeway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterView {
    /// Name of the device.
    pub device: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Name of the program.
    pub name: String,
    /// Id of the program.
    pub program: Option<u32>,
}

/// A pinned map and its fill level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapView {
    /// Name of the map.
    pub name: String,
    /// Id of the object in this kernel.
    pub id: u32,
    /// Capacity in entries.
    pub max_entries: u32,
    /// Used entries; `None` for arrays that do not mark used entries.
    pub entries: Option<usize>,
}

/// Errors of reads, in the order of the attempts.
#[derive(Debug, Default)]
struct Unreadable(RefCell<Vec<String>>);

impl Unreadable {
    /// Returns the value, or notes the error and returns `None`.
    fn take<T, E: Display>(&self, subject: impl Display, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.0.borrow_mut().push(format!("{subject}: {e}"))).ok()
    }
}

/// Gathers the view. Objects that cannot be read are left out, and the errors are part of the view.
///
/// # Errors
/// There are no pins of this version.
pub fn gather(pins: &Pins, state_dir: &Path) -> Result<Status, PinError> {
    if let Some(missing) = pins.missing() {
        return Err(missing);
    }
    let unreadable = Unreadable::default();
    let mut socket = unreadable.take("devices", Socket::open());
    let devices = socket.as_mut().and_then(|s| unreadable.take("devices", s.links()));
    let filters = devices.iter().flatten().flat_map(|d| {
        let listed = match socket.as_mut().map(|s| s.filters(d.index)) {
            // The device was removed meanwhile.
            Some(Err(e)) if e.is_missing() => None,
            Some(listed) => unreadable.take("filters", listed),
            None => None,
        };
        let ours = listed.into_iter().flatten().filter(dataplane_host::netlink::Filter::is_ours);
        ours.map(|f| FilterView {
            device: d.name.clone(),
            direction: format!("{:?}", f.direction).to_lowercase(),
            name: f.name.unwrap_or_default(),
            program: f.program,
        })
    });
    let filters = filters.collect();
    let device = |index: u32| match &devices {
        Some(devices) => devices.iter().find(|d| d.index == IfIndex(index)).map(|d| d.name.clone()),
        None => Some(format!("device {index}")),
    };
    let own = format!("{:016x}", abi::HASH);
    let links = links(pins, device, &unreadable);
    Ok(Status {
        version: SCHEMA,
        other_abis: pins.abis().into_iter().filter(|abi| *abi != own).collect(),
        abi: own,
        pins: pins.directory().display().to_string(),
        agent_running: AgentLock::is_held(state_dir),
        agent: unreadable.take("agent", contract::read(state_dir)).flatten(),
        node: node(pins, device, &unreadable),
        programs: each(pins, "programs", &unreadable, |name, fd| {
            let info = sys::program_info(fd.as_fd())?;
            Ok(ProgramView {
                name,
                id: info.id,
                tag: info.tag.map(|b| format!("{b:02x}")).concat(),
                xlated_bytes: info.xlated_size,
                jited_bytes: info.jited_size,
            })
        }),
        wrong_sysctls: wrong_sysctls(&links),
        links,
        filters,
        maps: each(pins, "maps", &unreadable, |name, fd| {
            let info = sys::map_info(fd.as_fd())?;
            let entries = unreadable.take(format!("entries of map {name}"), used(pins, &name, info.map_type)).flatten();
            Ok(MapView { name, id: info.id, max_entries: info.max_entries, entries })
        }),
        // The last field: all reads are done.
        unreadable: unreadable.0.take(),
    })
}

fn links(pins: &Pins, device: impl Fn(u32) -> Option<String>, unreadable: &Unreadable) -> Vec<LinkView> {
    each(pins, "links", unreadable, |name, fd| {
        let info = sys::link_info(fd.as_fd())?;
        let (kind, target) = if let Some((cgroup, _)) = info.cgroup() {
            ("cgroup".into(), if cgroup == 0 { "gone".into() } else { format!("cgroup {cgroup}") })
        } else if let Some((index, _)) = info.device() {
            ("tcx".into(), device(index).unwrap_or_else(|| "gone".into()))
        } else {
            (info.link_type.to_string(), "?".into())
        };
        Ok(LinkView { name, id: info.id, kind, target, program: info.program })
    })
}

/// Returns the sysctls with a wrong value, for the uplinks with a pinned link and for all devices.
fn wrong_sysctls(links: &[LinkView]) -> Vec<SysctlView> {
    let uplinks: Vec<_> =
        links.iter().filter(|l| l.name.starts_with("from_uplink-")).map(|l| l.target.clone()).collect();
    let read = |path: &str| fs::read_to_string(Path::new("/proc/sys").join(path)).ok();
    let view = |s: sysctl::Setting| SysctlView { name: s.name(), required: s.value.into(), reason: s.why.into() };
    sysctl::needed(&uplinks, read).into_iter().map(view).collect()
}

/// Opens each pin of a directory in the order of names and returns the results of `view`.
fn each<T>(pins: &Pins, dir: &str, unreadable: &Unreadable, view: impl Fn(String, OwnedFd) -> io::Result<T>) -> Vec<T> {
    let dir = pins.directory().join(dir);
    let list = || -> io::Result<Vec<_>> {
        fs::read_dir(&dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = unreadable.take(dir.display(), list()).unwrap_or_default();
    names.sort();
    let open = |name: String| {
        let pin = dir.join(&name);
        unreadable.take(pin.display(), sys::obj_get(&pin).and_then(|fd| view(name, fd)))
    };
    names.into_iter().filter_map(open).collect()
}

fn used(pins: &Pins, name: &str, map_type: u32) -> Result<Option<usize>, MapError> {
    const HASH: u32 = 1;
    const LRU_HASH: u32 = 9;
    const LPM_TRIE: u32 = 11;
    Ok(match (name, map_type) {
        (_, HASH | LRU_HASH | LPM_TRIE) => Some(map::count(pins, name)?),
        ("backends", _) => {
            let backends = SharedArray::<Backend>::open(pins, name)?;
            Some((0..backends.len()).filter(|id| backends.get(*id).is_some_and(|b| b.state != 0)).count())
        }
        ("pods", _) => Some(pod::read(pins)?.len()),
        _ => None,
    })
}

fn node(pins: &Pins, device: impl Fn(u32) -> Option<String>, unreadable: &Unreadable) -> Option<NodeView> {
    let read = || PinnedMap::<u32, NodeConfig>::open(pins, "config")?.get(&0);
    let config = unreadable.take("configuration of the node", read()).flatten()?;
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

/// Returns the rows about what the agent has told; none if all is well.
fn agent_rows(agent: &AgentStatus) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    if !agent.synced {
        rows.push(row!["Not in sync", format!("waiting for {}", agent.waiting_for.join(", "))]);
    }
    rows.extend(agent.stalled.iter().map(|stall| row!["API server", stall]));
    rows.extend(agent.last_error.iter().map(|error| row!["Last error", error]));
    rows.extend(agent.notes.iter().map(|note| row!["Note", note]));
    rows.extend(agent.foreign_programs.iter().map(|program| row!["Foreign program", program]));
    rows.extend(agent.rejections.iter().map(|rejection| row!["Rejected", rejection]));
    let more = agent.rejected.saturating_sub(agent.rejections.len());
    rows.extend((more > 0).then(|| row!["Rejected", format!("{more} more: see the agent's log")]));
    rows
}

impl View for Status {
    fn text(&self) -> String {
        let agent = match self.agent_running {
            Some(true) => "running",
            Some(false) => "not running (programs keep forwarding; changes are not applied)",
            None => "unknown",
        };
        let mut head = vec![row!["ABI", self.abi], row!["Pins", self.pins], row!["Agent", agent]];
        head.extend(self.agent.iter().flat_map(agent_rows));
        if !self.other_abis.is_empty() {
            head.push(row!["Other ABIs", self.other_abis.join(", ")]);
        }
        if let Some(node) = &self.node {
            let addresses: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
            let or_none = |s: String| if s.is_empty() { "(none)".to_owned() } else { s };
            head.push(row!["Node addresses", or_none(addresses.join(", "))]);
            head.push(row!["Uplink", node.uplink.as_deref().unwrap_or("(chosen by the routes)")]);
            head.push(row!["SNAT ports", node.snat_ports]);
        }
        let sysctls =
            self.wrong_sysctls.iter().map(|s| row!["Sysctl", format!("{}={} ({})", s.name, s.required, s.reason)]);
        head.extend(sysctls);
        head.extend(self.unreadable.iter().map(|error| row!["Unreadable", error]));
        let mut programs = vec![row!["PROGRAM", "ID", "TAG", "XLATED", "JITED"]];
        programs.extend(self.programs.iter().map(|p| row![p.name, p.id, p.tag, p.xlated_bytes, p.jited_bytes]));
        let mut links = vec![row!["LINK", "ID", "KIND", "ATTACHED TO", "PROGRAM"]];
        links.extend(self.links.iter().map(|l| row![l.name, l.id, l.kind, l.target, l.program]));
        let mut filters = vec![row!["FILTER", "DEVICE", "DIRECTION", "PROGRAM"]];
        let id = |p: Option<u32>| p.map_or("-".to_owned(), |p| p.to_string());
        filters.extend(self.filters.iter().map(|f| row![f.name, f.device, f.direction, id(f.program)]));
        let mut maps = vec![row!["MAP", "ID", "ENTRIES", "MAX", "USED"]];
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
