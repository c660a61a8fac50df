//! Operations that need the store's lock: claim an attachment, list attachments, set damaged files
//! aside.
//!
//! Agent, plugin and command line get a [`LockedStore`] from [`AddressStore::lock`]. Reserving,
//! releasing and repairing are in modules of their own.

use std::fs::File;
use std::net::IpAddr;

use rustix::time::{ClockId, clock_gettime};

use super::directory::{FileNumber, number};
use super::index::Index;
use super::record::MOST_BYTES;
use super::{AddressStore, AttachmentId, AttachmentRecord, Range, StoreError, hash};

/// The store with its lock held; dropping it releases the lock.
#[derive(Debug)]
pub struct LockedStore<'a> {
    pub(super) store: &'a AddressStore,
    /// Reservations that other processes are about to complete.
    pub(super) reserving: Vec<(AttachmentRecord, FileNumber)>,
    /// This is the first check since the machine booted.
    pub(super) first_of_boot: bool,
    findings: Vec<String>,
}

/// An attachment that this process works on exclusively, together with the children that it forks.
#[derive(Debug)]
pub struct Attachment {
    /// The record of the attachment.
    pub record: AttachmentRecord,
    /// Its release has begun.
    pub releasing: bool,
    /// The record's file, locked.
    pub(super) file: File,
}

/// The result of claiming an attachment.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum AttachmentClaim {
    /// There is no such attachment.
    Absent,
    /// Another process works on it.
    Busy {
        /// The other process is releasing it.
        releasing: bool,
    },
    /// The caller has the attachment.
    Owned(Attachment),
}

impl Attachment {
    pub(super) const fn new(record: AttachmentRecord, releasing: bool, file: File) -> Self {
        Self { record, releasing, file }
    }
}

impl<'a> LockedStore<'a> {
    pub(super) fn new(store: &'a AddressStore) -> Self {
        Self { store, reserving: Vec::new(), first_of_boot: false, findings: Vec::new() }
    }

    /// Returns messages for the log about repairs since the lock was taken.
    #[must_use]
    pub fn findings(&self) -> &[String] {
        &self.findings
    }

    /// Returns whether another process is reserving addresses that [`Self::attachments`] does not
    /// show yet.
    #[must_use]
    pub fn is_reserving(&self) -> bool {
        !self.reserving.is_empty()
    }

    pub(super) fn report(&mut self, finding: String) {
        self.findings.push(finding);
    }

    /// Claims the exclusive right to work on an attachment.
    ///
    /// # Errors
    /// A file can't be read. A damaged record is set aside and counts as none.
    pub fn claim(&mut self, id: &AttachmentId) -> Result<AttachmentClaim, StoreError> {
        if self.reserving.iter().any(|(record, _)| record.id == *id) {
            return Ok(AttachmentClaim::Busy { releasing: false });
        }
        let name = attachment(id);
        let Some((record, file)) = self.read_record(&name)? else { return Ok(AttachmentClaim::Absent) };
        if record.id != *id {
            self.quarantine(&name, "record of another attachment")?;
            return Ok(AttachmentClaim::Absent);
        }
        let records = &self.store.records;
        let number = number(&file).map_err(|e| records.io("stat", &name, e))?;
        let releasing = self.store.releasing.number(&id.file_name())? == Some(number);
        match file.try_lock() {
            Ok(()) => Ok(AttachmentClaim::Owned(Attachment::new(record, releasing, file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(AttachmentClaim::Busy { releasing }),
            Err(std::fs::TryLockError::Error(e)) => Err(records.io("lock", &name, e)),
        }
    }

    /// Lists all attachments. Reads every record.
    ///
    /// # Errors
    /// A file can't be read. Damaged records are set aside and left out.
    pub fn attachments(&mut self) -> Result<Vec<AttachmentRecord>, StoreError> {
        let mut all = Vec::new();
        for name in self.store.records.names()?.iter().filter(|n| n.starts_with(ATTACHMENT)) {
            all.extend(self.read_record(name)?.map(|(record, _)| record));
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    pub(super) fn index(&self, range: Range) -> Result<Index, StoreError> {
        Index::open(&self.store.base, range, &self.store.boot)
    }

    /// Marks the addresses of a record as free since now in the caches of all ranges that were ever
    /// used.
    pub(super) fn note_free(&self, record: &AttachmentRecord) -> Result<(), StoreError> {
        let (base, pod) = (&self.store.base, hash::pod(record.pod.as_deref()));
        for range in base.names()?.iter().filter_map(|n| Index::range_of(n)) {
            let slots: Vec<_> = record.addresses.iter().filter_map(|a| range.slot(*a)).collect();
            if slots.is_empty() {
                continue;
            }
            let index = self.index(range)?;
            for slot in slots.into_iter().filter(|_| !index.fresh) {
                index.release(base, slot, seconds(), pod)?;
            }
        }
        Ok(())
    }

    /// Reads a record by a name in `records/`. Returns it with its file; a damaged one is set
    /// aside.
    pub(super) fn read_record(&mut self, name: &str) -> Result<Option<(AttachmentRecord, File)>, StoreError> {
        let Some((content, file)) = self.store.records.read(name, MOST_BYTES)? else { return Ok(None) };
        match AttachmentRecord::from_bytes(&content) {
            Ok(record) => Ok(Some((record, file))),
            // A power cut came after the names reached the disk and before the content. No runtime
            // got an answer for them.
            Err(_) if self.first_of_boot && content.iter().all(|byte| *byte == 0) => {
                self.store.records.remove(name)?;
                self.report(format!("removed {name}, which a power cut has left without content"));
                Ok(None)
            }
            Err(reason) => {
                self.quarantine(name, &reason)?;
                Ok(None)
            }
        }
    }

    /// Moves a file of `records/` to `damaged/`.
    pub(super) fn quarantine(&mut self, name: &str, reason: &str) -> Result<(), StoreError> {
        let aside = self.aside_name(name);
        self.store.records.rename(name, &self.store.damaged, &aside)?;
        self.report(format!("records/{name}: {reason}: set aside as damaged/{aside}"));
        Ok(())
    }

    pub(super) fn aside_name(&self, name: &str) -> String {
        format!("{}-{name}", if self.first_of_boot { "before" } else { self.boot_tag() })
    }

    /// Returns a short name of this boot, for file names.
    pub(super) fn boot_tag(&self) -> &str {
        let boot = &self.store.boot;
        boot.get(..8).unwrap_or(boot)
    }
}

impl Drop for LockedStore<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.store.lock.unlock() {
            // Closing the file unlocks it too, so this can't last.
            debug_assert!(false, "unlock: {e}");
        }
    }
}

pub(super) const ATTACHMENT: &str = "attachment-";

pub(super) fn attachment(id: &AttachmentId) -> String {
    format!("{ATTACHMENT}{}", id.file_name())
}

/// Returns the names of a record: its addresses and, last, its attachment.
pub(super) fn names(record: &AttachmentRecord) -> impl Iterator<Item = String> + '_ {
    record.addresses.iter().map(IpAddr::to_string).chain([attachment(&record.id)])
}

/// Returns the seconds since the machine booted, suspended time included (`CLOCK_BOOTTIME`).
pub(super) fn seconds() -> u32 {
    u32::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(u32::MAX)
}
