//! Releases an attachment: a durable mark, then the removal of kernel objects by the caller, then
//! the names, then the mark.
//!
//! DEL, GC and the agent's address garbage collection mark; the plugin finishes. Each step can be
//! repeated, so the next process takes over after a kill ([`LockedStore::abandoned_releases`]).

use super::directory::number;
use super::locked::{ATTACHMENT, Attachment, LockedStore, names};
use super::record::MOST_BYTES;
use super::{AddressStore, AttachmentRecord, LOCK_DEADLINE, StoreError};

impl LockedStore<'_> {
    /// Marks an attachment as being released; durable only after [`AddressStore::sync_marks`].
    ///
    /// # Errors
    /// A file can't be written.
    pub fn mark(&mut self, attachment: &mut Attachment) -> Result<(), StoreError> {
        let store = self.store;
        if !attachment.releasing {
            let name = attachment.record.id.file_name();
            // An existing mark is left over from an earlier attachment by a power cut.
            store.releasing.remove(&name)?;
            store.records.link(&format!("{ATTACHMENT}{name}"), &store.releasing, &name)?;
            attachment.releasing = true;
        }
        Ok(())
    }

    /// Returns marked attachments that no process works on: their processes have died.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn abandoned_releases(&mut self) -> Result<Vec<Attachment>, StoreError> {
        let names = self.store.releasing.names()?;
        let mut abandoned = Vec::new();
        for name in names {
            abandoned.extend(self.claim_mark(&name)?);
        }
        Ok(abandoned)
    }

    /// Claims a marked attachment. When many pods are deleted at once, each DEL sees the marks of
    /// most others while it holds the lock: for those this costs one attempt to lock the file.
    fn claim_mark(&mut self, name: &str) -> Result<Option<Attachment>, StoreError> {
        let store = self.store;
        let Some(file) = store.releasing.open(name)? else { return Ok(None) };
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(e)) => return Err(store.releasing.io("lock", name, e)),
        }
        let mine = number(&file).map_err(|e| store.releasing.io("stat", name, e))?;
        if store.records.number(&format!("{ATTACHMENT}{name}"))?.is_some_and(|record| record != mine) {
            // A mark that a power cut left of an earlier attachment of the same name, which exists
            // again now.
            store.releasing.remove(name)?;
            return Ok(None);
        }
        let content = store.releasing.content(name, &file, MOST_BYTES)?;
        match AttachmentRecord::from_bytes(&content) {
            Ok(record) => Ok(Some(Attachment::new(record, true, file))),
            Err(reason) => {
                let aside = self.aside_name(name);
                store.releasing.rename(name, &store.damaged, &aside)?;
                self.report(format!("releasing/{name}: {reason}: set aside as damaged/{aside}"));
                Ok(None)
            }
        }
    }
}

impl AddressStore {
    /// Waits until marks are on the disk. Needs no lock.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync_marks(&self) -> Result<(), StoreError> {
        self.releasing.sync()
    }

    /// Frees the addresses of a marked attachment whose kernel objects are gone. Can be repeated.
    /// Takes the lock, but not while it waits for the disk.
    ///
    /// # Errors
    /// A file can't be written; then the mark is still there and the next one repeats it.
    pub fn finish_release(&self, attachment: &Attachment) -> Result<(), StoreError> {
        let record = &attachment.record;
        let mark = record.id.file_name();
        let locked = self.lock(LOCK_DEADLINE)?;
        let mine = self.releasing.number(&mark)?;
        if mine.is_none() {
            return Ok(()); // It was finished before.
        }
        locked.note_free(record)?;
        for name in names(record) {
            // A name of another file belongs to another attachment, which got the address after an
            // earlier, interrupted attempt.
            if self.records.number(&name)? == mine {
                self.records.remove(&name)?;
            }
        }
        drop(locked);
        self.records.sync()?;
        let _locked = self.lock(LOCK_DEADLINE)?;
        if self.releasing.number(&mark)? == mine { self.releasing.remove(&mark) } else { Ok(()) }
    }
}
