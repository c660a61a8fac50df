//! Marks the addresses of pods that have disappeared without a DEL.
//!
//! The evidence is the pod's link: the kernel removes both ends of a veth with the pod's network
//! namespace, and the agent sees the host's end without further privileges. The runtime's socket
//! would make the agent root on the node, and the runtime's files say what it intends, not what is.
//!
//! A record is marked as going away if its link is missing twice in the same generation and no
//! process works on it. The plugin does the rest, as after a DEL that was killed: its next DEL or
//! GC, or an ADD that finds no free address, removes what is left and frees the addresses. A pod
//! whose link exists is never touched, whatever the API server says.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dataplane_host::netlink::{NetlinkError, Socket};
use dataplane_host::store::{AddressStore, AttachmentClaim, AttachmentId, AttachmentRecord, LOCK_DEADLINE, StoreError};
use tokio::task::{JoinError, spawn_blocking};
use tracing::warn;

use super::status::{NodeStatus, PeriodicTask};

/// Interval between sweeps; longer than an ADD may take.
const PAUSE: Duration = Duration::from_secs(60);

/// Error of a sweep.
#[derive(Debug, thiserror::Error)]
pub enum AddressGcError {
    /// The address store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The links could not be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Finds records whose device is missing twice in a row.
#[derive(Debug, Default)]
pub struct AddressGc {
    /// Records without a device, and their generations.
    seen: BTreeMap<AttachmentId, u64>,
}

impl AddressGc {
    /// Returns the records that had no device at the last call either, in the same generation.
    pub fn find_leaked(&mut self, records: Vec<AttachmentRecord>, devices: &BTreeSet<String>) -> Vec<AttachmentRecord> {
        let without: Vec<_> = records.into_iter().filter(|r| !devices.contains(&r.host_ifname)).collect();
        let seen = without.iter().map(|r| (r.id.clone(), r.generation)).collect();
        let before = std::mem::replace(&mut self.seen, seen);
        without.into_iter().filter(|r| before.get(&r.id) == Some(&r.generation)).collect()
    }
}

/// Marks the records that have leaked, and returns them.
///
/// # Errors
/// The store or the links could not be read, or the store not be written.
pub fn sweep(gc: &mut AddressGc, state_dir: &Path) -> Result<Vec<AttachmentRecord>, AddressGcError> {
    let Some(store) = AddressStore::open_existing(state_dir)? else { return Ok(Vec::new()) };
    // Records before links: a record that exists by now has its link, unless its ADD still runs.
    let records = store.lock(LOCK_DEADLINE)?.attachments()?;
    let mut socket = Socket::open()?;
    let devices = socket.links()?.into_iter().map(|link| link.name).collect();
    let mut marked = Vec::new();
    for record in gc.find_leaked(records, &devices) {
        if mark(&store, &mut socket, &record)? {
            marked.push(record);
        }
    }
    store.sync_marks()?;
    Ok(marked)
}

/// Marks a record as going away, unless a process works on it, its generation has changed, or its
/// link exists. Returns true if it was marked.
///
/// # Errors
/// See [`sweep`].
pub fn mark(store: &AddressStore, socket: &mut Socket, record: &AttachmentRecord) -> Result<bool, AddressGcError> {
    let mut locked = store.lock(LOCK_DEADLINE)?;
    let AttachmentClaim::Owned(mut attachment) = locked.claim(&record.id)? else { return Ok(false) };
    let same = attachment.record.generation == record.generation && !attachment.releasing;
    if !same || socket.link_by_name(&record.host_ifname)?.is_some() {
        return Ok(false);
    }
    locked.mark(&mut attachment)?;
    Ok(true)
}

/// Runs [`sweep`] at intervals, for ever.
///
/// # Errors
/// A sweep has panicked.
pub async fn watch(state_dir: PathBuf, status: Arc<NodeStatus>) -> Result<Infallible, JoinError> {
    let mut gc = AddressGc::default();
    loop {
        tokio::time::sleep(PAUSE).await;
        let dir = state_dir.clone();
        let swept = spawn_blocking(move || {
            let result = sweep(&mut gc, &dir);
            (gc, result)
        });
        let (back, result) = swept.await?;
        gc = back;
        match result {
            Ok(marked) => {
                for record in &marked {
                    let (addresses, pod) = (&record.addresses, record.pod.as_deref().unwrap_or("-"));
                    warn!(
                        ?addresses,
                        pod,
                        container = record.id.container,
                        "address leak found: the pod ended without a DEL, and the plugin will free its addresses"
                    );
                }
                status.leaked(marked.iter().map(|r| r.addresses.len()).sum());
            }
            Err(e) => {
                status.round_failed(PeriodicTask::AddressGc);
                warn!(error = %e, "address garbage collection failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(container: &str, generation: u64) -> AttachmentRecord {
        let id = AttachmentId { container: container.into(), ifname: "eth0".into() };
        let host_ifname = id.host_ifname();
        let json = serde_json::json!({"version": 1, "container": container, "ifname": "eth0", "network": "pods",
            "addresses": ["10.1.0.5"], "host_ifname": host_ifname, "boot": "b", "generation": generation});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn record_leaks_after_two_sweeps_in_the_same_generation() {
        let (mut gc, one) = (AddressGc::default(), || vec![record("c1", 1), record("c2", 1)]);
        let devices: BTreeSet<String> = [record("c2", 1).host_ifname].into();
        assert!(gc.find_leaked(one(), &devices).is_empty());
        assert_eq!(gc.find_leaked(one(), &devices), [record("c1", 1)]);
        assert!(gc.find_leaked(vec![record("c1", 2)], &devices).is_empty(), "another generation");
        let all: BTreeSet<String> = ["c1", "c2"].map(|c| record(c, 1).host_ifname).into();
        assert!(gc.find_leaked(one(), &all).is_empty());
        assert!(gc.find_leaked(one(), &devices).is_empty(), "the device existed meanwhile");
    }

    /// The test machine has none of the records' host devices, so every record counts as leaked.
    #[test]
    fn leaked_record_is_marked_once_and_locked_record_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut gc, store) = (AddressGc::default(), AddressStore::open(dir.path()).unwrap());
        let range = dataplane_host::store::Range::new("10.1.0.0/24".parse().unwrap()).unwrap();
        let reserve = |name: &str| {
            let reservation = store.lock(LOCK_DEADLINE).unwrap().reserve(&record(name, 0), &[range.into()]).unwrap();
            reservation.commit(&store).unwrap()
        };
        drop(reserve("c1"));
        let at_work = reserve("c2");
        assert!(sweep(&mut gc, dir.path()).unwrap().is_empty());
        let marked = sweep(&mut gc, dir.path()).unwrap();
        assert_eq!(marked.iter().map(|r| r.id.container.as_str()).collect::<Vec<_>>(), ["c1"]);
        let abandoned = store.lock(LOCK_DEADLINE).unwrap().abandoned_releases().unwrap();
        assert_eq!(abandoned.len(), 1, "the plugin finds it");
        drop(abandoned);
        assert!(sweep(&mut gc, dir.path()).unwrap().is_empty(), "the record is marked already");
        drop(at_work);
        assert_eq!(sweep(&mut gc, dir.path()).unwrap().len(), 1);
    }
}
