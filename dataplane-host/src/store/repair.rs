//! Repairs the store: after a kill by means of `temporary/`, after a reboot by a check of every
//! record.
//!
//! Runs each time the lock is taken. A record that cannot be understood is moved to `damaged/`,
//! never deleted.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::directory::{FileNumber, number};
use super::index::Index;
use super::locked::{ATTACHMENT, LockedStore, names};
use super::record::MOST_BYTES;
use super::{AttachmentRecord, StoreError};

impl LockedStore<'_> {
    /// Undoes reservations that were not completed. After a reboot, checks every record.
    pub(super) fn repair(&mut self, same_boot: bool) -> Result<(), StoreError> {
        for name in self.store.temporary.names()? {
            self.undo_reservation(&name)?;
        }
        if !same_boot {
            self.first_of_boot = true;
            self.check_all(false)?;
            self.first_of_boot = false;
        }
        Ok(())
    }

    /// Undoes the reservation of a temporary file whose writer has died, unless all its names
    /// exist: then it is complete.
    fn undo_reservation(&mut self, temporary: &str) -> Result<(), StoreError> {
        let store = self.store;
        let Some((content, file)) = store.temporary.read(temporary, MOST_BYTES)? else { return Ok(()) };
        let mine = number(&file).map_err(|e| store.temporary.io("stat", temporary, e))?;
        let record = AttachmentRecord::from_bytes(&content);
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                self.reserving.extend(record.ok().map(|r| (r, mine)));
                return Ok(());
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(store.temporary.io("lock", temporary, e)),
        }
        if let Ok(record) = record {
            let mut present = Vec::new();
            for name in names(&record) {
                if store.records.number(&name)? == Some(mine) {
                    present.push(name);
                }
            }
            if present.len() == record.addresses.len() + 1 {
                file.sync_all().map_err(|e| store.temporary.io("write", temporary, e))?;
            } else {
                for name in &present {
                    store.records.remove(name)?;
                }
                self.note_free(&record)?;
                self.report(format!("undid the unfinished reservation of container {}", record.id.container));
            }
            store.records.sync()?;
        }
        // A file without a valid record has no names, or, after a power cut, names without content:
        // see `check_all`.
        store.temporary.remove(temporary)
    }

    /// Checks every record. A record with missing names is completed if it was written in this boot
    /// (a person removed a name of a living pod), and removed otherwise (the power was cut in the
    /// middle, the pod is gone). Damaged files are set aside.
    fn check_all(&mut self, same_boot: bool) -> Result<HashSet<IpAddr>, StoreError> {
        let store = self.store;
        let mut addresses: HashMap<IpAddr, FileNumber> = HashMap::new();
        let mut attachments = Vec::new();
        for name in store.records.names()? {
            if name.starts_with(ATTACHMENT) {
                attachments.push(name);
            } else if let Some(address) = name.parse().ok().filter(|a: &IpAddr| a.to_string() == name) {
                if let Some(number) = store.records.number(&name)? {
                    addresses.insert(address, number);
                }
            } else {
                self.quarantine(&name, "not a file of this store")?;
            }
        }
        // Reservations that are being completed have only some of their names.
        let mut held: HashSet<IpAddr> =
            self.reserving.iter().flat_map(|(record, _)| record.addresses.clone()).collect();
        let reserving: HashSet<FileNumber> = self.reserving.iter().map(|(_, number)| *number).collect();
        addresses.retain(|_, number| !reserving.contains(number));
        for name in attachments {
            let Some((record, file)) = self.read_record(&name)? else { continue };
            let number = number(&file).map_err(|e| store.records.io("stat", &name, e))?;
            if reserving.contains(&number) {
                continue;
            }
            let complete = record.addresses.iter().all(|a| addresses.get(a) == Some(&number));
            let whole = complete || same_boot && self.complete(&name, &record)?;
            if whole {
                for address in &record.addresses {
                    addresses.remove(address);
                    held.insert(*address);
                }
            } else {
                store.records.remove(&name)?;
                self.report(format!("removed the incomplete record of container {}", record.id.container));
            }
        }
        for address in addresses.into_keys() {
            let name = address.to_string();
            if self.read_record(&name)?.is_some() {
                store.records.remove(&name)?;
                self.report(format!("freed {name}, which no attachment holds"));
            }
        }
        store.records.sync()?;
        Ok(held)
    }

    /// Restores a record's missing names; `false`: one of them leads to another file.
    fn complete(&mut self, name: &str, record: &AttachmentRecord) -> Result<bool, StoreError> {
        let store = self.store;
        let mine = store.records.number(name)?;
        for address in &record.addresses {
            let address = address.to_string();
            if store.records.link(name, &store.records, &address)? {
                self.report(format!("restored {address} of container {}", record.id.container));
            } else if store.records.number(&address)? != mine {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fills a cache from the records.
    pub(super) fn rebuild(&mut self, index: &mut Index) -> Result<(), StoreError> {
        let held = self.check_all(true)?;
        index.clear(&self.store.base)?;
        for slot in held.into_iter().chain(self.blocked()?).filter_map(|a| index.range().slot(a)) {
            index.hold(&self.store.base, slot)?;
        }
        Ok(())
    }

    /// Returns addresses of damaged records of this boot. Their pods may still run and use them.
    fn blocked(&self) -> Result<Vec<IpAddr>, StoreError> {
        let tag = format!("{}-", self.boot_tag());
        let aside = self.store.damaged.names()?;
        Ok(aside.iter().filter_map(|n| n.strip_prefix(&tag)?.parse().ok()).collect())
    }

    /// Returns the addresses that must not be given out now: held, about to be held, or of damaged
    /// records.
    ///
    /// # Errors
    /// A directory can't be read.
    pub fn held_addresses(&self) -> Result<HashSet<IpAddr>, StoreError> {
        let names = self.store.records.names()?;
        let held = names.iter().filter_map(|name| name.parse().ok());
        let reserving = self.reserving.iter().flat_map(|(record, _)| record.addresses.iter().copied());
        Ok(held.chain(reserving).chain(self.blocked()?).collect())
    }
}
