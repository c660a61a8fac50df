//! Reserving: addresses are chosen under the lock and made durable after it, so that many wait for the disk
//! together, and each beside its other work.

use std::fs::File;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::index::{Index, SlotSearch};
use super::locked::{Attachment, LockedStore, names, seconds};
use super::record::MOST_BYTES;
use super::{AddressStore, AttachmentRecord, Choice, LOCK_DEADLINE, StoreError};

/// Addresses that nobody else gets any more, but that are not yet held: [`Reservation::write`] does that. Dropped, or
/// its process killed, it is undone by the next one who takes the lock.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    record: AttachmentRecord,
    file: File,
}

impl LockedStore<'_> {
    /// Chooses one address for each choice, for an attachment that has no record. `facts` is its record but for addresses,
    /// boot and generation.
    ///
    /// # Errors
    /// A choice has no free address, or a file can't be written; then nothing is reserved.
    pub fn reserve(&mut self, facts: &AttachmentRecord, choices: &[Choice]) -> Result<Reservation, StoreError> {
        let store = self.store;
        // There is no record, so a mark is what a power cut has left of an earlier one.
        store.releasing.remove(&facts.id.file_name())?;
        let mut drawn = Vec::with_capacity(choices.len());
        for choice in choices {
            drawn.push(self.draw(choice)?);
        }
        let record = AttachmentRecord {
            addresses: drawn.iter().map(|(index, slot)| index.range().address(*slot)).collect(),
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
        for (index, slot) in &mut drawn {
            index.take(&store.base, *slot)?;
        }
        Ok(Reservation { record, file })
    }

    /// Whether a choice has a free address.
    ///
    /// # Errors
    /// A file can't be read or written.
    pub fn has_free(&mut self, choice: &Choice) -> Result<bool, StoreError> {
        match self.draw(choice) {
            Ok(_) => Ok(true),
            Err(StoreError::Exhausted { .. } | StoreError::Held { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// A free slot: the first one that has cooled down, of the first range that has one; else the coolest of all.
    fn draw(&mut self, choice: &Choice) -> Result<(Index, u32), StoreError> {
        if let Some(address) = choice.fixed {
            return self.draw_fixed(choice, address);
        }
        // What the caches say first; if they know of nothing, what the names say.
        for rebuild in [false, true] {
            let mut coolest: Option<(u32, Index, u32)> = None;
            for range in &choice.ranges {
                let mut index = self.index(*range)?;
                if index.fresh || rebuild {
                    self.rebuild(&mut index)?;
                }
                match self.look(&index, choice)? {
                    SlotSearch::Free(slot) => return Ok((index, slot)),
                    SlotSearch::Warm(slot, age) if coolest.as_ref().is_none_or(|(a, ..)| age > *a) => {
                        coolest = Some((age, index, slot));
                    }
                    SlotSearch::Warm(..) | SlotSearch::None => {}
                }
            }
            if let Some((_, index, slot)) = coolest {
                return Ok((index, slot));
            }
        }
        Err(choice.exhausted())
    }

    /// Looks for a slot whose address nobody holds.
    fn look(&self, index: &Index, choice: &Choice) -> Result<SlotSearch, StoreError> {
        let (store, range) = (self.store, index.range());
        let cool_down = store.cool_down.as_secs() as u32;
        loop {
            let found = index.find(&store.base, seconds(), cool_down, |slot| choice.excludes(range.address(slot)))?;
            let (SlotSearch::Free(slot) | SlotSearch::Warm(slot, _)) = found else { return Ok(SlotSearch::None) };
            if store.records.number(&range.address(slot).to_string())?.is_none() {
                return Ok(found);
            }
            index.hold(&store.base, slot)?; // The cache didn't know.
        }
    }

    /// The slot of one address, if nobody holds that.
    fn draw_fixed(&mut self, choice: &Choice, address: IpAddr) -> Result<(Index, u32), StoreError> {
        let place = choice.ranges.iter().find_map(|range| Some((*range, range.slot(address)?)));
        let Some((range, slot)) = place else { return Err(choice.exhausted()) };
        let mut index = self.index(range)?;
        if index.fresh {
            self.rebuild(&mut index)?;
        }
        if self.held_addresses()?.contains(&address) { Err(StoreError::Held { address }) } else { Ok((index, slot)) }
    }
}

impl Reservation {
    /// Gives the record its names: from here on the addresses are the attachment's for whoever looks, and whoever is
    /// killed leaves what it needs to be undone. After a power cut they may be gone, or empty, until [`Written::sync`].
    /// The store must not be locked by the caller.
    ///
    /// # Errors
    /// A file can't be written, or somebody has made a file by the name of an address; then nothing is reserved.
    pub fn write(self, store: &AddressStore) -> Result<Written, StoreError> {
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
            store.lock(LOCK_DEADLINE)?.note_free(&self.record.addresses)?;
            return Err(error);
        }
        Ok(Written { attachment: Attachment::new(self.record, false, self.file) })
    }

    /// [`Self::write`] and [`Written::sync`] at once.
    ///
    /// # Errors
    /// As these.
    pub fn commit(self, store: &AddressStore) -> Result<Attachment, StoreError> {
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
    pub fn sync(&self, store: &AddressStore) -> Result<(), StoreError> {
        let temporary = self.attachment.record.id.file_name();
        self.attachment.file.sync_all().map_err(|e| store.temporary.io("write", &temporary, e))?;
        store.records.sync()?;
        store.temporary.remove(&temporary)
    }
}

fn generation() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
