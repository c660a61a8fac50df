//! `ropeway ipam`: shows the address store, compares it with devices and maps, and releases leaks.
//!
//! Takes the store's lock, as the plugin does, and therefore works beside a running agent and
//! plugin. `show` and `check` change nothing. `release` marks the attachment of a missing device;
//! the plugin frees the addresses. No subcommand removes the address of a running pod.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use dataplane_common::types::address::{V4, V6};
use dataplane_common::types::pod::{AddressInfo, address_kind};
use dataplane_host::contract::pools::PoolsFile;
use dataplane_host::contract::{self, FileError, NodeFile};
use dataplane_host::map::{MapError, PinnedMap};
use dataplane_host::netlink::{NetlinkError, Socket};
use dataplane_host::pins::Pins;
use dataplane_host::store::{AddressStore, AttachmentClaim, AttachmentRecord, LOCK_DEADLINE, Range, StoreError};
use ipnetwork::IpNetwork;
use serde::Serialize;

use super::{SCHEMA, View, table};
use crate::network::node::address_gc;
use crate::row;

/// Error of a subcommand of `ropeway ipam`.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// The address store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Devices could not be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The attachment could not be marked for release.
    #[error(transparent)]
    Leak(#[from] address_gc::AddressGcError),
    /// A map could not be read.
    #[error(transparent)]
    Map(#[from] MapError),
    /// There is no address store.
    #[error("no address store at {dir}/addresses: no pod was ever attached to this node, or --state-dir is wrong")]
    NoStore {
        /// State directory that was searched.
        dir: String,
    },
    /// node.json or pools.json could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// No attachment of this node has the address.
    #[error("address {address} is not allocated on this node: `ropeway ipam show` lists allocated addresses")]
    NotAllocated {
        /// Address that was to be released.
        address: IpAddr,
    },
    /// The attachment's device exists.
    #[error("address {address} is in use by {pod} (device {device} exists): delete the pod to free its address")]
    Alive {
        /// Address that was to be released.
        address: IpAddr,
        /// `namespace/name` of the pod, or its container id.
        pod: String,
        /// Host-side device.
        device: String,
    },
    /// A plugin process holds the attachment, or it is marked already.
    #[error("address {address} is locked by a plugin process or already being released: see `ropeway ipam show`")]
    Busy {
        /// Address that was to be released.
        address: IpAddr,
    },
}

/// The view of `ropeway ipam show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ipam {
    /// Version of the view, [`SCHEMA`].
    pub version: u32,
    /// Address ranges or blocks of this node.
    pub ranges: Vec<RangeView>,
    /// Attachments in the order of their addresses.
    pub attachments: Vec<AttachmentView>,
}

/// An address range, or a block of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RangeView {
    /// Network of the range.
    pub range: IpNetwork,
    /// Name of the block's `IPPool`.
    pub pool: Option<String>,
    /// Number of allocated addresses.
    pub allocated: usize,
    /// Number of addresses that can be allocated.
    pub free: usize,
}

/// An attachment: one interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachmentView {
    /// Addresses of the interface.
    pub addresses: Vec<IpAddr>,
    /// `namespace/name`, if the runtime passed it.
    pub pod: Option<String>,
    /// Id of the container.
    pub container: String,
    /// Name of the interface in the pod.
    pub ifname: String,
    /// Name of the host-side device.
    pub device: String,
    /// State of the attachment.
    pub state: AttachmentState,
}

/// State of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    /// The host-side device exists.
    Attached,
    /// The host-side device is missing: the pod ended without a DEL, or the node was rebooted.
    NoDevice,
    /// A plugin process is working on it.
    Busy,
    /// Marked for release; the plugin frees the addresses.
    Releasing,
}

/// The view of `ropeway ipam check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Version of the view, [`SCHEMA`].
    pub version: u32,
    /// Number of checked attachments.
    pub attachments: usize,
    /// One sentence per difference.
    pub problems: Vec<String>,
}

/// The view of `ropeway ipam release`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Released {
    /// Version of the view, [`SCHEMA`].
    pub version: u32,
    /// All addresses of the released attachment.
    pub addresses: Vec<IpAddr>,
    /// Id of the container.
    pub container: String,
}

/// Contents of the store, read under its lock, with the state of each device.
struct StoreContents {
    attachments: Vec<AttachmentView>,
    allocated: HashSet<IpAddr>,
    findings: Vec<String>,
}

impl StoreContents {
    fn gather(state_dir: &Path) -> Result<Self, IpamError> {
        let store = open(state_dir)?;
        let mut locked = store.lock(LOCK_DEADLINE)?;
        let records = locked.attachments()?;
        let devices: BTreeSet<String> = Socket::open()?.links()?.into_iter().map(|link| link.name).collect();
        let mut attachments = Vec::with_capacity(records.len());
        for record in records {
            let state = match locked.claim(&record.id)? {
                AttachmentClaim::Owned(attachment) if attachment.releasing => AttachmentState::Releasing,
                AttachmentClaim::Busy { releasing: true } => AttachmentState::Releasing,
                AttachmentClaim::Busy { .. } => AttachmentState::Busy,
                _ if devices.contains(&record.host_ifname) => AttachmentState::Attached,
                _ => AttachmentState::NoDevice,
            };
            attachments.push(view(record, state));
        }
        attachments.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let (allocated, findings) = (locked.held_addresses()?, locked.findings().to_vec());
        Ok(Self { attachments, allocated, findings })
    }
}

fn open(state_dir: &Path) -> Result<AddressStore, IpamError> {
    AddressStore::open_existing(state_dir)?.ok_or_else(|| IpamError::NoStore { dir: state_dir.display().to_string() })
}

fn view(record: AttachmentRecord, state: AttachmentState) -> AttachmentView {
    let AttachmentRecord { id, pod, addresses, host_ifname: device, .. } = record;
    AttachmentView { addresses, pod, container: id.container, ifname: id.ifname, device, state }
}

/// Lists ranges and attachments.
///
/// # Errors
/// The store, the devices or the agent's files could not be read.
pub fn show(state_dir: &Path) -> Result<Ipam, IpamError> {
    let facts = StoreContents::gather(state_dir)?;
    let count = |(range, pool, reserved): PoolRange| {
        let allocated = facts.allocated.iter().filter(|a| range.slot(**a).is_some()).count();
        let usable = |slot: &u32| {
            let address = range.address(*slot);
            !range.is_reserved(*slot)
                && !facts.allocated.contains(&address)
                && !reserved.iter().any(|part| part.contains(address))
        };
        RangeView { range: range.network(), pool, allocated, free: (0..range.slots()).filter(usable).count() }
    };
    let ranges = ranges(state_dir)?.into_iter().map(count).collect();
    Ok(Ipam { version: SCHEMA, ranges, attachments: facts.attachments })
}

/// A range, the name of its pool, and the reserved networks of the pool.
type PoolRange = (Range, Option<String>, Vec<IpNetwork>);

/// Returns the node's ranges from node.json and pools.json, which the agent writes.
fn ranges(state_dir: &Path) -> Result<Vec<PoolRange>, IpamError> {
    let node: NodeFile = contract::read(state_dir)?.unwrap_or_default();
    let mut all = Vec::new();
    if node.pools {
        let file: PoolsFile = contract::read(state_dir)?.unwrap_or_default();
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

/// Compares the address store with devices and maps.
///
/// # Errors
/// The store or the devices could not be read. Missing pins are reported as a problem instead.
pub fn check(pins: &Pins, state_dir: &Path) -> Result<Check, IpamError> {
    let facts = StoreContents::gather(state_dir)?;
    let mut problems = facts.findings.clone();
    for attachment in facts.attachments.iter().filter(|a| a.state == AttachmentState::NoDevice) {
        let AttachmentView { container, device, .. } = attachment;
        let addresses = list(&attachment.addresses);
        problems.push(format!("{addresses}: device {device} is missing: container {container} ended without a DEL"));
    }
    let known: HashSet<IpAddr> = facts.attachments.iter().flat_map(|a| a.addresses.iter().copied()).collect();
    let mut alone: Vec<_> = facts.allocated.difference(&known).collect();
    alone.sort();
    problems.extend(alone.into_iter().map(|a| format!("{a}: allocated, but its record is damaged or being written")));
    problems.extend(damaged(state_dir));
    match pod_addresses(pins) {
        Ok(entries) => problems.extend(compare(&facts.attachments, &known, &entries)),
        Err(e) => problems.push(format!("maps: {e}")),
    }
    Ok(Check { version: SCHEMA, attachments: facts.attachments.len(), problems })
}

/// Returns a problem for each file in the store's directory of damaged files.
fn damaged(state_dir: &Path) -> Vec<String> {
    let list = || -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(state_dir.join("addresses/damaged"))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = match list() {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return vec![format!("damaged: cannot be listed: {e}")],
    };
    names.sort();
    names.into_iter().map(|name| format!("damaged/{name}: damaged file, set aside: inspect and remove it")).collect()
}

/// Returns the pod addresses in the maps with their interface indexes.
fn pod_addresses(pins: &Pins) -> Result<BTreeMap<IpAddr, u32>, MapError> {
    let four = PinnedMap::<V4, AddressInfo>::open(pins, "addresses4")?
        .entries()?
        .into_iter()
        .map(|(a, v)| (IpAddr::from(a), v));
    let six = PinnedMap::<V6, AddressInfo>::open(pins, "addresses6")?
        .entries()?
        .into_iter()
        .map(|(a, v)| (IpAddr::from(a), v));
    Ok(four.chain(six).filter(|(_, v)| v.kind == address_kind::POD).map(|(a, v)| (a, v.ifindex)).collect())
}

fn compare(attachments: &[AttachmentView], known: &HashSet<IpAddr>, entries: &BTreeMap<IpAddr, u32>) -> Vec<String> {
    let strays = entries.iter().filter(|(address, _)| !known.contains(address));
    let strays =
        strays.map(|(a, index)| format!("{a}: in the maps (device index {index}), but not in the address store"));
    let attached = attachments.iter().filter(|a| a.state == AttachmentState::Attached);
    let missing = attached.flat_map(|a| &a.addresses).filter(|a| !entries.contains_key(a));
    strays.chain(missing.map(|a| format!("{a}: in the address store, but not in the maps"))).collect()
}

/// Marks the attachment of an address for release if its device is missing.
///
/// # Errors
/// The address is not allocated, the device exists, or the store could not be written.
pub fn release(state_dir: &Path, address: IpAddr) -> Result<Released, IpamError> {
    let store = open(state_dir)?;
    let records = store.lock(LOCK_DEADLINE)?.attachments()?;
    let record = records.into_iter().find(|r| r.addresses.contains(&address));
    let record = record.ok_or(IpamError::NotAllocated { address })?;
    let mut socket = Socket::open()?;
    if socket.link_by_name(&record.host_ifname)?.is_some() {
        let pod = record.pod.clone().unwrap_or_else(|| format!("container {}", record.id.container));
        return Err(IpamError::Alive { address, pod, device: record.host_ifname });
    }
    if !address_gc::mark(&store, &mut socket, &record)? {
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
        let mut rows = vec![row!["RANGE", "POOL", "ALLOCATED", "FREE"]];
        rows.extend(self.ranges.iter().map(|r| row![r.range, r.pool.as_deref().unwrap_or("-"), r.allocated, r.free]));
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
        format!("{addresses}: marked for release; freed by the plugin's next DEL or GC, or when an ADD needs them\n")
    }
}

#[cfg(test)]
mod tests;
