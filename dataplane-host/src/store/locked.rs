//! What can be done with the store while its lock is held: find, reserve, release, list.

use std::fs::File;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::directory::{FileNumber, number};
use super::index::{Found, Index};
use super::record::MOST_BYTES;
use super::{AttachmentId, Range, Record, Store, StoreError};

/// The store with its lock held; dropping it releases the lock.
#[derive(Debug)]
pub struct Locked<'a> {
    pub(super) store: &'a Store,
    findings: Vec<String>,
}

/// An attachment that is going away: whoever has this works on it alone.
#[derive(Debug)]
pub struct Releasing {
    /// What is known of it.
    pub record: Record,
    /// Locked as long as this value lives, in forked children too.
    _file: File,
}

impl<'a> Locked<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, findings: Vec::new() }
    }

    /// What was repaired or set aside since the lock was taken, in words, for the log.
    #[must_use]
    pub fn findings(&self) -> &[String] {
        &self.findings
    }

    pub(super) fn report(&mut self, finding: String) {
        self.findings.push(finding);
    }

    /// The record of an attachment, also of one that is going away.
    ///
    /// # Errors
    /// A file can't be read. A damaged record is set aside and counts as none.
    pub fn find(&mut self, id: &AttachmentId) -> Result<Option<Record>, StoreError> {
        let name = attachment(id);
        match self.read_record(&name)? {
            Some((record, _)) if record.id == *id => Ok(Some(record)),
            Some(_) => {
                self.set_aside(&name, "record of another attachment")?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Whether the attachment, which has a record, is going away.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn is_releasing(&self, id: &AttachmentId) -> Result<bool, StoreError> {
        let mark = self.store.releasing.number(&id.file_name())?;
        Ok(mark.is_some() && mark == self.store.records.number(&attachment(id))?)
    }

    /// Reserves one address of each range for an attachment that has no record, durably. `facts` is its record but for
    /// addresses, boot and generation.
    ///
    /// # Errors
    /// A range has no free address, or a file can't be written; then nothing is reserved.
    pub fn reserve(&mut self, facts: &Record, ranges: &[Range]) -> Result<Record, StoreError> {
        let store = self.store;
        // There is no record, so a mark is what a power cut has left of an earlier one.
        store.releasing.remove(&facts.id.file_name())?;
        let mut indexes = self.indexes(ranges)?;
        if indexes.iter().any(|i| i.fresh) {
            self.rebuild(&mut indexes)?;
        }
        let mut rebuilt = false;
        loop {
            match self.try_reserve(facts, &mut indexes) {
                Ok(Some(record)) => return Ok(record),
                Ok(None) => {} // Someone has a name that the cache didn't know of; now it does.
                Err(StoreError::Exhausted { .. }) if !rebuilt => {
                    rebuilt = true;
                    self.rebuild(&mut indexes)?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn indexes(&self, ranges: &[Range]) -> Result<Vec<Index>, StoreError> {
        ranges.iter().map(|r| Index::open(&self.store.base, *r, &self.store.boot)).collect()
    }

    /// The caches of all ranges that were ever used.
    fn known_indexes(&self) -> Result<Vec<Index>, StoreError> {
        let names = self.store.base.names()?;
        let ranges: Vec<_> = names.iter().filter_map(|n| Index::range_of(n)).collect();
        self.indexes(&ranges)
    }

    fn try_reserve(&mut self, facts: &Record, indexes: &mut [Index]) -> Result<Option<Record>, StoreError> {
        let store = self.store;
        let (now, cool_down) = (seconds(), store.cool_down.as_secs() as u32);
        let mut slots = Vec::with_capacity(indexes.len());
        for index in indexes.iter() {
            match index.find(&store.base, now, cool_down)? {
                Found::Free(slot) | Found::Warm(slot) => slots.push(slot),
                Found::None => {
                    let range = index.range();
                    let held = (0..range.slots()).filter(|s| !range.is_reserved(*s)).count() as u32;
                    return Err(StoreError::Exhausted { range: range.to_string(), held });
                }
            }
        }
        let record = Record {
            addresses: indexes.iter().zip(&slots).map(|(i, s)| i.range().address(*s)).collect(),
            boot: store.boot.clone(),
            generation: generation(),
            ..facts.clone()
        };
        if !self.write(&record)? {
            let mut learnt = false;
            for (index, slot) in indexes.iter().zip(&slots) {
                if store.records.number(&index.range().address(*slot).to_string())?.is_some() {
                    index.hold(&store.base, *slot)?;
                    learnt = true;
                }
            }
            let taken = || store.records.io("link", &attachment(&facts.id), std::io::ErrorKind::AlreadyExists);
            return if learnt { Ok(None) } else { Err(taken()) };
        }
        for (index, slot) in indexes.iter_mut().zip(&slots) {
            index.take(&store.base, *slot)?;
        }
        Ok(Some(record))
    }

    /// Writes a record under all its names, durably; `false`: a name is taken, and nothing is left.
    fn write(&mut self, record: &Record) -> Result<bool, StoreError> {
        let store = self.store;
        let temporary = record.id.file_name();
        let bytes = record.to_bytes().map_err(|e| store.temporary.io("encode", &temporary, e))?;
        if bytes.len() > MOST_BYTES {
            let reason = format!("record of {} bytes, {MOST_BYTES} are allowed", bytes.len());
            return Err(store.temporary.io("write", &temporary, std::io::Error::other(reason)));
        }
        let file = store.temporary.create(&temporary, &bytes)?;
        let mut linked = Vec::new();
        let mut link_all = || {
            for name in names(record) {
                if !store.temporary.link(&temporary, &store.records, &name)? {
                    return Ok(false);
                }
                linked.push(name);
            }
            store.records.sync()?;
            Ok(true)
        };
        let result = link_all();
        if !matches!(result, Ok(true)) {
            for name in &linked {
                store.records.remove(name)?;
            }
        }
        store.temporary.remove(&temporary)?;
        drop(file);
        result
    }

    /// Marks an attachment as going away, durably, and gives the right to work on it. `None`: there is no such
    /// attachment, or another process works on it already.
    ///
    /// # Errors
    /// A file can't be read or written.
    pub fn begin_release(&mut self, id: &AttachmentId) -> Result<Option<Releasing>, StoreError> {
        if self.find(id)?.is_none() {
            return Ok(None);
        }
        let store = self.store;
        let mark = id.file_name();
        if !self.is_releasing(id)? {
            store.releasing.remove(&mark)?;
            store.records.link(&attachment(id), &store.releasing, &mark)?;
            store.releasing.sync()?;
        }
        self.claim(&mark)
    }

    /// The attachments that are going away and on which nobody works: their processes have died.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn orphans(&mut self) -> Result<Vec<Releasing>, StoreError> {
        let mut orphans = Vec::new();
        let store = self.store;
        for name in store.releasing.names()? {
            let record = store.records.number(&format!("{ATTACHMENT}{name}"))?;
            if record.is_some() && record != store.releasing.number(&name)? {
                // What a power cut has left of an earlier attachment of the same name, which lives again.
                store.releasing.remove(&name)?;
            } else {
                orphans.extend(self.claim(&name)?);
            }
        }
        Ok(orphans)
    }

    /// The right to work on an attachment that is marked. `None`: somebody else has it.
    fn claim(&mut self, name: &str) -> Result<Option<Releasing>, StoreError> {
        let store = self.store;
        let Some((content, file)) = store.releasing.read(name, MOST_BYTES)? else { return Ok(None) };
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(e)) => return Err(store.releasing.io("lock", name, e)),
        }
        match Record::from_bytes(&content) {
            Ok(record) => Ok(Some(Releasing { record, _file: file })),
            Err(reason) => {
                let aside = self.aside_name(name);
                store.releasing.rename(name, &store.damaged, &aside)?;
                self.report(format!("releasing/{name}: {reason}: set aside as damaged/{aside}"));
                Ok(None)
            }
        }
    }

    /// Frees the addresses of an attachment whose kernel objects are gone. Repeating it is fine.
    ///
    /// # Errors
    /// A file can't be written; then the mark is still there and the next one repeats it.
    pub fn finish_release(&mut self, releasing: &Releasing) -> Result<(), StoreError> {
        let store = self.store;
        let record = &releasing.record;
        let mine = store.releasing.number(&record.id.file_name())?;
        if mine.is_none() {
            return Ok(()); // Somebody else has finished it.
        }
        let now = seconds();
        for index in self.known_indexes()? {
            let range = index.range();
            for slot in record.addresses.iter().filter_map(|a| range.slot(*a)).filter(|_| !index.fresh) {
                index.release(&store.base, slot, now)?;
            }
        }
        for name in names(record) {
            // A name that leads to another file was given to somebody else after an earlier, interrupted attempt.
            if store.records.number(&name)? == mine {
                store.records.remove(&name)?;
            }
        }
        store.records.sync()?;
        store.releasing.remove(&record.id.file_name())
    }

    /// All attachments. Reads every record.
    ///
    /// # Errors
    /// A file can't be read. Damaged records are set aside and left out.
    pub fn attachments(&mut self) -> Result<Vec<Record>, StoreError> {
        let mut all = Vec::new();
        for name in self.store.records.names()?.iter().filter(|n| n.starts_with(ATTACHMENT)) {
            all.extend(self.read_record(name)?.map(|(record, _)| record));
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// A record by a name in `records/`, and its file; a damaged one is set aside.
    pub(super) fn read_record(&mut self, name: &str) -> Result<Option<(Record, FileNumber)>, StoreError> {
        let records = &self.store.records;
        let Some((content, file)) = records.read(name, MOST_BYTES)? else { return Ok(None) };
        match Record::from_bytes(&content) {
            Ok(record) => Ok(Some((record, number(&file).map_err(|e| records.io("stat", name, e))?))),
            Err(reason) => {
                self.set_aside(name, &reason)?;
                Ok(None)
            }
        }
    }

    /// Moves a file of `records/` to where nobody looks for records.
    pub(super) fn set_aside(&mut self, name: &str, reason: &str) -> Result<(), StoreError> {
        let aside = self.aside_name(name);
        self.store.records.rename(name, &self.store.damaged, &aside)?;
        self.report(format!("records/{name}: {reason}: set aside as damaged/{aside}"));
        Ok(())
    }

    fn aside_name(&self, name: &str) -> String {
        format!("{}-{name}", self.boot_tag())
    }

    /// A short name of this boot.
    pub(super) fn boot_tag(&self) -> &str {
        let boot = &self.store.boot;
        boot.get(..8).unwrap_or(boot)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.store.lock.unlock() {
            // Closing the file unlocks it too, so this can't last.
            debug_assert!(false, "unlock: {e}");
        }
    }
}

pub(super) const ATTACHMENT: &str = "attachment-";

fn attachment(id: &AttachmentId) -> String {
    format!("{ATTACHMENT}{}", id.file_name())
}

/// The names of a record: its addresses and, last, its attachment.
pub(super) fn names(record: &Record) -> impl Iterator<Item = String> + '_ {
    record.addresses.iter().map(IpAddr::to_string).chain([attachment(&record.id)])
}

/// Seconds since the machine was started, suspended time included.
fn seconds() -> u32 {
    u32::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(u32::MAX)
}

fn generation() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
