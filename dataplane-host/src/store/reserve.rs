//! Reserving: addresses are chosen under the lock and made durable after it, so that many wait for the disk
//! together, and each beside its other work.

use std::fs::File;
use std::time::{SystemTime, UNIX_EPOCH};

use super::index::{Found, Index};
use super::locked::{Attachment, Locked, names, seconds};
use super::record::MOST_BYTES;
use super::{LOCK_AGAIN, Range, Record, Store, StoreError};

/// Addresses that nobody else gets any more, but that are not yet held: [`Reservation::write`] does that. Dropped, or
/// its process killed, it is undone by the next one who takes the lock.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    record: Record,
    file: File,
}

impl Locked<'_> {
    /// Chooses one address of each range for an attachment that has no record. `facts` is its record but for addresses,
    /// boot and generation.
    ///
    /// # Errors
    /// A range has no free address, or a file can't be written; then nothing is reserved.
    pub fn reserve(&mut self, facts: &Record, ranges: &[Range]) -> Result<Reservation, StoreError> {
        let store = self.store;
        // There is no record, so a mark is what a power cut has left of an earlier one.
        store.releasing.remove(&facts.id.file_name())?;
        let mut indexes = self.indexes(ranges)?;
        if indexes.iter().any(|i| i.fresh) {
            self.rebuild(&mut indexes)?;
        }
        let slots = match self.choose(&indexes) {
            Err(StoreError::Exhausted { .. }) => {
                self.rebuild(&mut indexes)?;
                self.choose(&indexes)?
            }
            other => other?,
        };
        let record = Record {
            addresses: indexes.iter().zip(&slots).map(|(i, s)| i.range().address(*s)).collect(),
            boot: store.boot.clone(),
            generation: generation(),
            ..facts.clone()
        };
        let name = record.id.file_name();
        let bytes = record.to_bytes().map_err(|e| store.temporary.io("encode", &name, e))?;
        if bytes.len() > MOST_BYTES {
            let reason = format!("record of {} bytes, {MOST_BYTES} are allowed", bytes.len());
            return Err(store.temporary.io("write", &name, std::io::Error::other(reason)));
        }
        let file = store.temporary.create(&name, &bytes)?;
        for (index, slot) in indexes.iter_mut().zip(&slots) {
            index.take(&store.base, *slot)?;
        }
        Ok(Reservation { record, file })
    }

    /// Whether a range has a free address.
    ///
    /// # Errors
    /// A file can't be read or written.
    pub fn has_free(&mut self, range: Range) -> Result<bool, StoreError> {
        let mut indexes = self.indexes(&[range])?;
        if indexes.iter().any(|i| i.fresh) || matches!(self.choose(&indexes), Err(StoreError::Exhausted { .. })) {
            self.rebuild(&mut indexes)?;
        }
        match self.choose(&indexes) {
            Ok(_) => Ok(true),
            Err(StoreError::Exhausted { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// A free slot of each range.
    fn choose(&self, indexes: &[Index]) -> Result<Vec<u32>, StoreError> {
        indexes.iter().map(|index| self.choose_one(index)).collect()
    }

    fn choose_one(&self, index: &Index) -> Result<u32, StoreError> {
        let (store, range) = (self.store, index.range());
        let cool_down = store.cool_down.as_secs() as u32;
        loop {
            match index.find(&store.base, seconds(), cool_down)? {
                Found::Free(slot) | Found::Warm(slot) => {
                    if store.records.number(&range.address(slot).to_string())?.is_none() {
                        return Ok(slot);
                    }
                    index.hold(&store.base, slot)?; // The cache didn't know.
                }
                Found::None => {
                    let held = (0..range.slots()).filter(|s| !range.is_reserved(*s)).count() as u32;
                    return Err(StoreError::Exhausted { range: range.to_string(), held });
                }
            }
        }
    }
}

impl Reservation {
    /// Gives the record its names: from here on the addresses are the attachment's for whoever looks, and whoever is
    /// killed leaves what it needs to be undone. After a power cut they may be gone, or empty, until [`Written::sync`].
    /// The store must not be locked by the caller.
    ///
    /// # Errors
    /// A file can't be written, or somebody has made a file by the name of an address; then nothing is reserved.
    pub fn write(self, store: &Store) -> Result<Written, StoreError> {
        let temporary = self.record.id.file_name();
        let mut linked = Vec::new();
        let mut link = || {
            for name in names(&self.record) {
                if !store.temporary.link(&temporary, &store.records, &name)? {
                    return Err(store.records.io("link", &name, std::io::ErrorKind::AlreadyExists));
                }
                linked.push(name);
            }
            Ok(())
        };
        if let Err(error) = link() {
            for name in linked.iter().rev() {
                store.records.remove(name)?;
            }
            store.temporary.remove(&temporary)?;
            store.lock(LOCK_AGAIN)?.note_free(&self.record.addresses)?;
            return Err(error);
        }
        Ok(Written { attachment: Attachment::new(self.record, false, self.file) })
    }

    /// [`Self::write`] and [`Written::sync`] at once.
    ///
    /// # Errors
    /// As these.
    pub fn commit(self, store: &Store) -> Result<Attachment, StoreError> {
        let written = self.write(store)?;
        written.sync(store)?;
        Ok(written.attachment)
    }
}

/// An attachment that has its addresses, but not yet for certain after a power cut. Nobody must be told before
/// [`Written::sync`]; the kernel may be touched, because a power cut takes its objects away too.
#[derive(Debug)]
#[must_use]
pub struct Written {
    /// The attachment.
    pub attachment: Attachment,
}

impl Written {
    /// Waits until content and names are on the disk. Can run beside other work.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync(&self, store: &Store) -> Result<(), StoreError> {
        let temporary = self.attachment.record.id.file_name();
        self.attachment.file.sync_all().map_err(|e| store.temporary.io("write", &temporary, e))?;
        store.records.sync()?;
        store.temporary.remove(&temporary)
    }
}

fn generation() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
