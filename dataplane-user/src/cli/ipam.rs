//! `ropeway ipam`: who holds which address, whether store, devices and tables agree, and the way out when they don't.
//!
//! Reads the address store under its lock, as the plugin does; needs neither agent nor API server.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::pod::{Addr, addr_kind};
use dataplane_host::map::{MapError, Table};
use dataplane_host::netlink::{NetlinkError, Socket};
use dataplane_host::pins::Pins;
use dataplane_host::pools::{self, POOLS_FILE, PoolsFile};
use dataplane_host::store::{Claim, Range, Record, Store, StoreError};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{SCHEMA, View, table};
use crate::network::node::{file, leaks};
use crate::row;

/// How long the store is waited for.
const LOCK: Duration = Duration::from_secs(10);

/// Why nothing can be said of addresses.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// The address store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The devices.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A leak can't be marked.
    #[error(transparent)]
    Leak(#[from] leaks::LeakError),
    /// A table.
    #[error(transparent)]
    Map(#[from] MapError),
    /// There is none.
    #[error("{dir}/addresses: there is no address store: no pod was ever attached here, or --state-dir is another")]
    NoStore {
        /// The state directory.
        dir: String,
    },
    /// A file of the agent can't be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody holds the address.
    #[error("address {address} is held by nobody here")]
    NotHeld {
        /// The address.
        address: IpAddr,
    },
    /// The pod lives.
    #[error(
        "address {address} is that of {pod}, which has its device {device}: delete the pod, then its address is freed"
    )]
    Alive {
        /// The address.
        address: IpAddr,
        /// The pod, or its container.
        pod: String,
        /// The device.
        device: String,
    },
    /// A process of the plugin has it.
    #[error("address {address}: a process works on it now, or it is going away already")]
    Busy {
        /// The address.
        address: IpAddr,
    },
}

/// `ropeway ipam show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ipam {
    /// [`SCHEMA`].
    pub version: u32,
    /// Ranges or blocks of this node.
    pub ranges: Vec<RangeView>,
    /// Attachments, by address.
    pub attachments: Vec<AttachmentView>,
}

/// A range or block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RangeView {
    /// The range.
    pub range: IpNetwork,
    /// The pool of a block.
    pub pool: Option<String>,
    /// Addresses that are held.
    pub held: usize,
    /// Addresses that can be given out.
    pub free: usize,
}

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachmentView {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `<namespace>/<name>`, if the runtime said so.
    pub pod: Option<String>,
    /// The container's id.
    pub container: String,
    /// The interface in the pod.
    pub ifname: String,
    /// The host-side device.
    pub device: String,
    /// How it is.
    pub state: AttachmentState,
}

/// How an attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    /// Its device is there.
    Attached,
    /// Its device is not there: its pod is gone without a DEL, or the machine was started anew.
    NoDevice,
    /// A process works on it.
    Busy,
    /// It is going away.
    Releasing,
}

/// `ropeway ipam check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// [`SCHEMA`].
    pub version: u32,
    /// Attachments that were looked at.
    pub attachments: usize,
    /// What is wrong, in words.
    pub problems: Vec<String>,
}

/// `ropeway ipam release`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Released {
    /// [`SCHEMA`].
    pub version: u32,
    /// All addresses of the attachment.
    pub addresses: Vec<IpAddr>,
    /// The container's id.
    pub container: String,
}

/// Store and devices at one moment.
struct Facts {
    attachments: Vec<AttachmentView>,
    held: HashSet<IpAddr>,
    findings: Vec<String>,
}

impl Facts {
    fn gather(state_dir: &Path) -> Result<Self, IpamError> {
        let store = open(state_dir)?;
        let mut locked = store.lock(LOCK)?;
        let records = locked.attachments()?;
        let devices: BTreeSet<String> = Socket::open()?.links()?.into_iter().map(|link| link.name).collect();
        let mut attachments = Vec::with_capacity(records.len());
        for record in records {
            let state = match locked.claim(&record.id)? {
                Claim::Mine(attachment) if attachment.releasing => AttachmentState::Releasing,
                Claim::Busy { releasing: true } => AttachmentState::Releasing,
                Claim::Busy { .. } => AttachmentState::Busy,
                _ if devices.contains(&record.host_ifname) => AttachmentState::Attached,
                _ => AttachmentState::NoDevice,
            };
            attachments.push(view(record, state));
        }
        attachments.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let (held, findings) = (locked.held_addresses()?, locked.findings().to_vec());
        Ok(Self { attachments, held, findings })
    }
}

fn open(state_dir: &Path) -> Result<Store, IpamError> {
    if !state_dir.join("addresses").is_dir() {
        return Err(IpamError::NoStore { dir: state_dir.display().to_string() });
    }
    Ok(Store::open(state_dir)?)
}

fn view(record: Record, state: AttachmentState) -> AttachmentView {
    let Record { id, pod, addresses, host_ifname: device, .. } = record;
    AttachmentView { addresses, pod, container: id.container, ifname: id.ifname, device, state }
}

/// Lists ranges and attachments.
///
/// # Errors
/// Store, devices or the agent's files can't be read.
pub fn show(state_dir: &Path) -> Result<Ipam, IpamError> {
    let facts = Facts::gather(state_dir)?;
    let count = |(range, pool, reserved): Source| {
        let held = facts.held.iter().filter(|a| range.slot(**a).is_some()).count();
        let usable = |slot: &u32| {
            let address = range.address(*slot);
            !range.is_reserved(*slot)
                && !facts.held.contains(&address)
                && !reserved.iter().any(|part| part.contains(address))
        };
        RangeView { range: range.network(), pool, held, free: (0..range.slots()).filter(usable).count() }
    };
    let ranges = ranges(state_dir)?.into_iter().map(count).collect();
    Ok(Ipam { version: SCHEMA, ranges, attachments: facts.attachments })
}

/// A range, its pool, and what is reserved in it.
type Source = (Range, Option<String>, Vec<IpNetwork>);

/// The ranges of this node as the agent has written them down.
fn ranges(state_dir: &Path) -> Result<Vec<Source>, IpamError> {
    #[derive(Default, Deserialize)]
    struct NodeFile {
        #[serde(rename = "podCIDRs", default)]
        pod_cidrs: Vec<IpNetwork>,
        #[serde(default)]
        pools: bool,
    }
    let failed = |name: &str| {
        let path = state_dir.join(name).display().to_string();
        move |source| IpamError::File { path, source }
    };
    let node: NodeFile = pools::read(state_dir, file::NAME).map_err(failed(file::NAME))?.unwrap_or_default();
    let mut all = Vec::new();
    if node.pools {
        let file: PoolsFile = pools::read(state_dir, POOLS_FILE).map_err(failed(POOLS_FILE))?.unwrap_or_default();
        for pool in file.pools {
            for block in pool.blocks {
                all.push((Range::block(block)?, Some(pool.name.clone()), pool.reserved.clone()));
            }
        }
    }
    for range in node.pod_cidrs {
        all.push((Range::new(range)?, None, Vec::new()));
    }
    Ok(all)
}

/// Compares store, devices and tables.
///
/// # Errors
/// Something can't be read. Missing pins are a problem that is told, not an error.
pub fn check(pins: &Pins, state_dir: &Path) -> Result<Check, IpamError> {
    let facts = Facts::gather(state_dir)?;
    let mut problems = facts.findings.clone();
    for attachment in facts.attachments.iter().filter(|a| a.state == AttachmentState::NoDevice) {
        let AttachmentView { container, device, .. } = attachment;
        let addresses = list(&attachment.addresses);
        problems.push(format!("{addresses}: device {device} of container {container} is not there"));
    }
    let known: HashSet<IpAddr> = facts.attachments.iter().flat_map(|a| a.addresses.iter().copied()).collect();
    let mut alone: Vec<_> = facts.held.difference(&known).collect();
    alone.sort();
    problems.extend(alone.into_iter().map(|a| format!("{a}: blocked: its record was damaged or is being written")));
    problems.extend(damaged(state_dir));
    match pod_addresses(pins) {
        Ok(entries) => problems.extend(compare(&facts.attachments, &known, &entries)),
        Err(e) => problems.push(format!("tables: {e}")),
    }
    Ok(Check { version: SCHEMA, attachments: facts.attachments.len(), problems })
}

/// What was set aside, and still lies there.
fn damaged(state_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(state_dir.join("addresses/damaged")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.into_iter().map(|name| format!("damaged/{name}: was set aside; look at it and remove it")).collect()
}

/// The addresses that the programs take for pods', with their devices' indexes.
fn pod_addresses(pins: &Pins) -> Result<BTreeMap<IpAddr, u32>, MapError> {
    let four = Table::<V4, Addr>::open(pins, "addrs4")?.entries()?.into_iter().map(|(a, v)| (IpAddr::from(a), v));
    let six = Table::<V6, Addr>::open(pins, "addrs6")?.entries()?.into_iter().map(|(a, v)| (IpAddr::from(a), v));
    Ok(four.chain(six).filter(|(_, v)| v.kind == addr_kind::POD).map(|(a, v)| (a, v.ifindex)).collect())
}

fn compare(attachments: &[AttachmentView], known: &HashSet<IpAddr>, entries: &BTreeMap<IpAddr, u32>) -> Vec<String> {
    let strays = entries.iter().filter(|(address, _)| !known.contains(address));
    let strays =
        strays.map(|(a, index)| format!("{a}: in the tables as a pod's (device {index}), but no record has it"));
    let attached = attachments.iter().filter(|a| a.state == AttachmentState::Attached);
    let missing = attached.flat_map(|a| &a.addresses).filter(|a| !entries.contains_key(a));
    strays.chain(missing.map(|a| format!("{a}: held by a pod, but not in the tables"))).collect()
}

/// Marks the attachment that holds an address as going away, if its device is gone.
///
/// # Errors
/// Nobody holds it; its pod lives; the store can't be written.
pub fn release(state_dir: &Path, address: IpAddr) -> Result<Released, IpamError> {
    let store = open(state_dir)?;
    let records = store.lock(LOCK)?.attachments()?;
    let record = records.into_iter().find(|r| r.addresses.contains(&address));
    let record = record.ok_or(IpamError::NotHeld { address })?;
    let mut socket = Socket::open()?;
    if socket.link_by_name(&record.host_ifname)?.is_some() {
        let pod = record.pod.clone().unwrap_or_else(|| format!("container {}", record.id.container));
        return Err(IpamError::Alive { address, pod, device: record.host_ifname });
    }
    if !leaks::mark(&store, &mut socket, &record)? {
        return Err(IpamError::Busy { address });
    }
    store.sync_marks()?;
    Ok(Released { version: SCHEMA, addresses: record.addresses, container: record.id.container })
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl View for Ipam {
    fn text(&self) -> String {
        let mut rows = vec![row!["RANGE", "POOL", "HELD", "FREE"]];
        rows.extend(self.ranges.iter().map(|r| row![r.range, r.pool.as_deref().unwrap_or("-"), r.held, r.free]));
        let ranges = table::render(&rows);
        let mut rows = vec![row!["ADDRESSES", "POD", "CONTAINER", "DEVICE", "STATE"]];
        for a in &self.attachments {
            let state = match a.state {
                AttachmentState::Attached => "attached",
                AttachmentState::NoDevice => "no device",
                AttachmentState::Busy => "busy",
                AttachmentState::Releasing => "releasing",
            };
            let short = a.container.get(..13).unwrap_or(&a.container);
            rows.push(row![list(&a.addresses), a.pod.as_deref().unwrap_or("-"), short, a.device, state]);
        }
        format!("{ranges}\n{}", table::render(&rows))
    }
}

impl View for Check {
    fn text(&self) -> String {
        let summary = format!("{} attachments, {} problems\n", self.attachments, self.problems.len());
        self.problems.iter().cloned().chain([summary]).collect::<Vec<_>>().join("\n")
    }
}

impl View for Released {
    fn text(&self) -> String {
        let addresses = list(&self.addresses);
        format!("{addresses}: going away; the plugin frees them at its next DEL or GC, or when an ADD needs them\n")
    }
}

#[cfg(test)]
mod tests;
