//! GC: removes attachments that the runtime no longer knows, and map entries without a record.
//!
//! Continues after an error and reports all errors at the end.

use std::collections::HashSet;
use std::net::IpAddr;

use dataplane_host::netlink::{IfIndex, Socket};
use dataplane_host::store::{AddressStore, Attachment, AttachmentClaim, AttachmentId, LOCK_DEADLINE, Range};

use crate::config::NetworkConfig;
use crate::dataplane::PodMaps;
use crate::error::CniError;
use crate::log::log;
use crate::ranges::{self, PodRequest};
use crate::rollback;

pub(crate) fn run(config: &NetworkConfig) -> Result<(), CniError> {
    config.require("GC", "1.1.0")?;
    let valid = config.valid.as_ref().map(|list| list.iter().collect());
    let maps = PodMaps::open_existing(&config.pin_root)?;
    let mut socket = Socket::open()?;
    let mut errors = Vec::new();
    let mut all = 0;
    if let Some(store) = AddressStore::open_existing(&config.state_dir)? {
        let garbage = mark(&store, config, valid.as_ref())?;
        all = garbage.len();
        for attachment in &garbage {
            if let Err(error) = rollback::release(&mut socket, &store, attachment, maps.as_ref()) {
                errors.push(format!("container {}: {error}", attachment.record.id.container));
            }
        }
    }
    if let Some(maps) = &maps {
        let strays = strays(config, maps).unwrap_or_else(|error| {
            all += 1;
            errors.push(format!("map entries without a record: {error}"));
            Vec::new()
        });
        all += strays.len();
        for (address, index) in strays {
            log(&format!("stale map entry removed: no attachment holds {address}"));
            let removed = maps.remove_unrecorded(&[address], None);
            if let Err(error) = removed.and_then(|()| rollback::remove_device(&mut socket, index)) {
                errors.push(format!("address {address}: {error}"));
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(CniError::Incomplete { all, errors }) }
}

/// Returns the ranges of the node; none if the agent has not written them yet.
fn all_ranges(config: &NetworkConfig) -> Result<Vec<Range>, CniError> {
    match ranges::resolve(config, config.node_defaults()?.as_ref(), PodRequest::default()) {
        Err(CniError::NoNodeData { .. } | CniError::PoolsNotReady { .. }) => Ok(Vec::new()),
        resolved => resolved?.all(),
    }
}

/// Returns addresses of our ranges that are in the maps but not in the store (as after a loss of
/// the store), and the devices of these pods. The maps are read first: every pod that is in them by
/// then has its record by the time the store is read.
fn strays(config: &NetworkConfig, maps: &PodMaps) -> Result<Vec<(IpAddr, Option<IfIndex>)>, CniError> {
    let ranges = all_ranges(config)?;
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let ours = |a: &IpAddr| ranges.iter().any(|range| range.slot(*a).is_some());
    let known: Vec<IpAddr> = maps.pod_addresses()?.into_iter().filter(ours).collect();
    let ports = maps.ports.entries()?;
    if known.is_empty() && ports.is_empty() {
        return Ok(Vec::new());
    }
    let records = AddressStore::open(&config.state_dir)?.lock(LOCK_DEADLINE)?.attachments()?;
    for port in maps.ports.remove_stale(ports, &records, ours)? {
        log(&format!("stale host port removed: {port} led to a pod that does not have it"));
    }
    let held: HashSet<IpAddr> = records.into_iter().flat_map(|record| record.addresses).collect();
    let strays = known.into_iter().filter(|address| !held.contains(address));
    strays.map(|address| Ok((address, maps.device_of(address)?))).collect()
}

/// Marks attachments that are not in the list, of this network only, and adds those that killed
/// processes left half removed. Attachments that another process works on are skipped.
///
/// Without a list (libcni passes none when its caller passed none) no attachment is known to be
/// dead.
fn mark(
    store: &AddressStore,
    config: &NetworkConfig,
    valid: Option<&HashSet<&AttachmentId>>,
) -> Result<Vec<Attachment>, CniError> {
    let mut locked = store.lock(LOCK_DEADLINE)?;
    let mut garbage = Vec::new();
    for record in locked.attachments()? {
        if record.network != config.name || valid.is_none_or(|list| list.contains(&record.id)) {
            continue;
        }
        if let AttachmentClaim::Owned(mut attachment) = locked.claim(&record.id)? {
            locked.mark(&mut attachment)?;
            garbage.push(attachment);
        }
    }
    garbage.extend(locked.abandoned_releases()?);
    locked.findings().iter().for_each(|finding| log(finding));
    drop(locked);
    store.sync_marks()?;
    Ok(garbage)
}
