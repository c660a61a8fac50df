//! ADD: reserve addresses, wire the pod, print the result; or leave nothing behind.

use std::time::Instant;

use dataplane_host::netlink::Socket;
use dataplane_host::store::{AttachmentId, Locked, Range, Record, Store, StoreError};

use super::LOCK_DEADLINE;
use crate::attach::Ends;
use crate::config::{Config, Settings};
use crate::dataplane::{Maps, Programs};
use crate::env::Invocation;
use crate::error::CniError;
use crate::{log, result, undo};

pub(crate) fn run(invocation: &Invocation, config: &Config) -> Result<String, CniError> {
    let settings = config.settings()?;
    let maps = Maps::open(&config.pin_root)?;
    let programs = Programs::open(&config.pin_root)?;
    let netns = invocation.netns.as_ref().ok_or_else(|| CniError::environment("CNI_NETNS", "is missing"))?;
    let mut ends = Ends::open(netns)?;
    let store = Store::open(&config.state_dir)?;
    let wanted = Wanted { facts: facts(invocation, config), settings: &settings, maps: &maps };
    let record = wanted.addresses(&store, &mut ends)?;
    match ends.wire(&record, settings.mtu, &maps, &programs) {
        Ok(()) => Ok(result::of_add(config, &record, settings.mtu, &ends.netns)),
        Err(error) => {
            wanted.give_back(&store, &mut ends.host_socket);
            Err(error)
        }
    }
}

fn facts(invocation: &Invocation, config: &Config) -> Record {
    Record {
        version: 1,
        id: invocation.id.clone(),
        network: config.name.clone(),
        pod: invocation.pod.clone(),
        addresses: Vec::new(),
        host_ifname: invocation.id.host_ifname(),
        boot: String::new(),
        generation: 0,
    }
}

/// What is wanted from the store.
struct Wanted<'a> {
    facts: Record,
    settings: &'a Settings,
    maps: &'a Maps,
}

impl Wanted<'_> {
    fn id(&self) -> &AttachmentId {
        &self.facts.id
    }

    /// Addresses for the attachment: those that it has from an ADD that was interrupted, or new ones.
    fn addresses(&self, store: &Store, ends: &mut Ends) -> Result<Record, CniError> {
        let free = ends.check_free(&self.id().ifname);
        let deadline = Instant::now() + LOCK_DEADLINE;
        loop {
            let mut locked = store.lock(LOCK_DEADLINE)?;
            let found = locked.find(self.id())?;
            locked.findings().iter().for_each(|finding| log(finding));
            let Some(record) = found else {
                free?;
                return self.reserve(store, locked, &mut ends.host_socket);
            };
            if !locked.is_releasing(self.id())? && self.fits(&record) {
                drop(locked);
                return self.take_over(store, ends, record);
            }
            let releasing = locked.begin_release(self.id())?;
            drop(locked);
            match releasing {
                Some(releasing) => {
                    undo::release(&mut ends.host_socket, store, &releasing, Some(self.maps))?;
                    ends.check_free(&self.id().ifname)?;
                }
                None if Instant::now() > deadline => {
                    let id = format!("{} of container {}", self.id().ifname, self.id().container);
                    return Err(CniError::StillRemoving { id, seconds: LOCK_DEADLINE.as_secs() });
                }
                None => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
    }

    /// An earlier ADD was interrupted: what it has done to the kernel goes, its addresses stay.
    fn take_over(&self, store: &Store, ends: &mut Ends, record: Record) -> Result<Record, CniError> {
        let taken = undo::detach(&mut ends.host_socket, &record, Some(self.maps));
        match taken.and_then(|()| ends.check_free(&self.id().ifname)) {
            Ok(()) => Ok(record),
            Err(error) => {
                self.give_back(store, &mut ends.host_socket);
                Err(error)
            }
        }
    }

    /// Whether a record has one address of each family, from the ranges of now.
    fn fits(&self, record: &Record) -> bool {
        let families = &self.settings.families;
        record.addresses.len() == families.len()
            && families.iter().zip(&record.addresses).all(|(f, a)| f.iter().any(|r| r.slot(*a).is_some()))
    }

    fn reserve<'s>(&self, store: &'s Store, mut locked: Locked<'s>, socket: &mut Socket) -> Result<Record, CniError> {
        match self.reserve_anywhere(&mut locked) {
            Err(StoreError::Exhausted { range, held }) => {
                // Perhaps somebody died while releasing.
                let orphans = locked.orphans()?;
                drop(locked);
                if orphans.is_empty() {
                    return Err(StoreError::Exhausted { range, held }.into());
                }
                for orphan in &orphans {
                    undo::release(socket, store, orphan, Some(self.maps))?;
                }
                Ok(self.reserve_anywhere(&mut store.lock(LOCK_DEADLINE)?)?)
            }
            other => Ok(other?),
        }
    }

    /// One address of each family, from the first of its ranges that has one.
    fn reserve_anywhere(&self, locked: &mut Locked<'_>) -> Result<Record, StoreError> {
        let families = &self.settings.families;
        let mut choice = vec![0; families.len()];
        loop {
            let ranges: Vec<Range> = families.iter().zip(&choice).map(|(f, c)| f[*c]).collect();
            let error = match locked.reserve(&self.facts, &ranges) {
                Err(StoreError::Exhausted { range, held }) => StoreError::Exhausted { range, held },
                other => return other,
            };
            let StoreError::Exhausted { range, .. } = &error else { return Err(error) };
            let family = ranges.iter().position(|r| r.to_string() == *range);
            match family {
                Some(i) if choice[i] + 1 < families[i].len() => choice[i] += 1,
                _ => return Err(error),
            }
        }
    }

    /// Undoes everything after a failure. What can't be undone is left to DEL, and said.
    fn give_back(&self, store: &Store, socket: &mut Socket) {
        let mut undo = || {
            let Some(releasing) = store.lock(LOCK_DEADLINE)?.begin_release(self.id())? else { return Ok(()) };
            undo::release(socket, store, &releasing, Some(self.maps))
        };
        let undone: Result<(), CniError> = undo();
        if let Err(error) = undone {
            log(&format!("undo: {error}; DEL will do it"));
        }
    }
}
