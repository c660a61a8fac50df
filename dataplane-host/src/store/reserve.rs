//! Reserves addresses for an attachment.
//!
//! Addresses are chosen under the store's lock and made durable after it, so that many ADDs wait
//! for the disk together, each while it sets up its pod. Callers: ADD, and the tests. Releasing is
//! in `release.rs`.

use std::fs::File;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::index::{Index, SlotSearch};
use super::locked::{Attachment, LockedStore, names, seconds};
use super::record::MOST_BYTES;
use super::{AddressStore, AttachmentRecord, Choice, LOCK_DEADLINE, StoreError, hash};

/// Addresses that are chosen and no longer available to others, but not yet held: see
/// [`Reservation::write`]. If it is dropped or its process is killed, the next process that takes
/// the lock undoes it.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    record: AttachmentRecord,
    file: File,
}

impl LockedStore<'_> {
    /// Chooses one address for each choice, for an attachment that has no record. `facts` is its
    /// record but for addresses, boot and generation.
    ///
    /// # Errors
    /// A choice has no free address, or a file can't be written; then nothing is reserved.
    pub fn reserve(&mut self, facts: &AttachmentRecord, choices: &[Choice]) -> Result<Reservation, StoreError> {
        let store = self.store;
        // There is no record, so a mark is left over from an earlier attachment by a power cut.
        store.releasing.remove(&facts.id.file_name())?;
        let mut drawn = Vec::with_capacity(choices.len());
        for choice in choices {
            drawn.push(self.draw(choice, facts.pod.as_deref())?);
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

    /// Returns whether a choice has a free address for a pod that had none of them.
    ///
    /// # Errors
    /// A file can't be read or written.
    pub fn has_free(&mut self, choice: &Choice) -> Result<bool, StoreError> {
        match self.draw(choice, None) {
            Ok(_) => Ok(true),
            Err(StoreError::Exhausted { .. } | StoreError::InUse { .. } | StoreError::CoolingDown { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Returns a free slot: the first one that has cooled down, in the order of the ranges; else
    /// the one released first.
    fn draw(&mut self, choice: &Choice, pod: Option<&str>) -> Result<(Index, u32), StoreError> {
        if let Some(address) = choice.fixed {
            return self.draw_fixed(choice, address, pod);
        }
        // The caches first. If they show no free slot, rebuild them from the records: a cache may
        // be wrong.
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

    /// Searches the cache for a slot and checks it against the records.
    fn look(&self, index: &Index, choice: &Choice) -> Result<SlotSearch, StoreError> {
        let (store, range) = (self.store, index.range());
        let cool_down = store.cool_down.as_secs() as u32;
        loop {
            let found = index.find(&store.base, seconds(), cool_down, |slot| choice.excludes(range.address(slot)))?;
            let (SlotSearch::Free(slot) | SlotSearch::Warm(slot, _)) = found else { return Ok(SlotSearch::None) };
            if store.records.number(&range.address(slot).to_string())?.is_none() {
                return Ok(found);
            }
            index.hold(&store.base, slot)?; // The cache was wrong.
        }
    }

    /// Returns the slot of a requested address unless it is held or cools down. The pod of the same
    /// namespace and name gets it back at once: others know it as that pod's address.
    fn draw_fixed(&mut self, choice: &Choice, address: IpAddr, pod: Option<&str>) -> Result<(Index, u32), StoreError> {
        let place = choice.ranges.iter().find_map(|range| Some((*range, range.slot(address)?)));
        let Some((range, slot)) = place else { return Err(choice.exhausted()) };
        let mut index = self.index(range)?;
        if index.fresh {
            self.rebuild(&mut index)?;
        }
        if self.held_addresses()?.contains(&address) {
            return Err(StoreError::InUse { address });
        }
        let (age, last) = index.released(&self.store.base, slot, seconds())?;
        let rest = u32::try_from(self.store.cool_down.as_secs()).unwrap_or(u32::MAX).saturating_sub(age);
        let same = pod.is_some() && hash::pod(pod) == last;
        if rest == 0 || same { Ok((index, slot)) } else { Err(StoreError::CoolingDown { address, seconds: rest }) }
    }
}

impl Reservation {
    /// Links the record to its names. From then on the attachment holds the addresses, and a kill
    /// leaves enough to undo it. Until [`Written::sync`], a power cut may lose the names or leave
    /// them empty. The caller must not hold the lock.
    ///
    /// # Errors
    /// A file cannot be written, or a foreign file has the name of an address; then nothing is
    /// reserved.
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
            store.lock(LOCK_DEADLINE)?.note_free(&self.record)?;
            return Err(error);
        }
        Ok(Written { attachment: Attachment::new(self.record, false, self.file) })
    }

    /// Runs [`Self::write`] and [`Written::sync`].
    ///
    /// # Errors
    /// Those of both.
    pub fn commit(self, store: &AddressStore) -> Result<Attachment, StoreError> {
        let written = self.write(store)?;
        written.sync(store)?;
        Ok(written.attachment)
    }
}

/// An attachment that holds its addresses, but may lose them in a power cut. The runtime must get
/// no answer before [`Written::sync`]. Kernel objects may be created, because a power cut removes
/// them as well.
#[derive(Debug)]
#[must_use]
pub struct Written {
    /// The attachment with its addresses.
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
