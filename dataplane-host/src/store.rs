//! The durable address store: records which attachment holds which addresses.
//!
//! The plugin reserves and releases addresses in it, the agent reads it (leaked addresses, blocks
//! in use), `ropeway ipam` shows it. It is written by hand because pods depend on exactly these
//! guarantees: no address is held twice, not after a kill at any system call nor after a power cut,
//! and no daemon or database has to run for an ADD.
//!
//! ```text
//! <state dir>/addresses/        0700, files 0600
//!   lock                        flock for every change; content: boot id of the last full check
//!   records/<address>           one name per address, and
//!   records/attachment-<hash>   one per attachment: hard links to one record, never changed
//!   temporary/<hash>            a record that is being written; unlocked files are abandoned
//!   releasing/<hash>            one more link to the record of an attachment being released
//!   damaged/<boot>-<name>       damaged files, never deleted (`before-`: from before this boot)
//!   index-<range>               cache: bitmap, cursor, release times; rebuilt when in doubt
//! ```
//!
//! Reserve: under the lock, write the record to a temporary file that the writer has locked. Then,
//! without the lock, link it to each final name (which fails if the name is taken), fsync the file,
//! fsync the directory, and only then answer. An address is held as long as its name exists,
//! whatever the cache says.
//!
//! Release: link to `releasing/`, fsync; the caller removes the kernel objects; then remove the
//! names, fsync, and at last the mark. The next process that holds the lock repeats or undoes each
//! step: after a kill in the same boot by means of `temporary/` and `releasing/` alone, after a
//! reboot by a check of every record.
//!
//! Two locks, both flocks, which the kernel drops with their process: `lock` for a moment, and the
//! record's own file as long as a process works on its attachment.
//!
//! This module never touches the kernel's network, and never deletes a file that it does not
//! understand.

mod choice;
mod directory;
mod hash;
mod index;
mod locked;
mod port;
mod range;
mod record;
mod release;
mod repair;
mod reserve;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

pub use choice::Choice;
pub use locked::{Attachment, AttachmentClaim, LockedStore};
pub use port::{PortMapping, Transport};
pub use range::Range;
pub use record::{AttachmentId, AttachmentRecord};
pub use reserve::{Reservation, Written};

use crate::contract;
use directory::Directory;

/// The time for which a released address is not reused while its range has others, and not given to
/// another pod that asks for it.
pub const COOL_DOWN: Duration = Duration::from_secs(30);

/// The deadline with which agent, plugin and command line wait for the store's lock. Holders need
/// milliseconds; a runtime gives a plugin call minutes.
pub const LOCK_DEADLINE: Duration = Duration::from_secs(10);
const DIRECTORY: &str = contract::ADDRESS_STORE;

/// The reason why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are named in the messages")]
pub enum StoreError {
    /// The lock was not free within the deadline.
    #[error("cannot lock {}: not free within {} s", path.display(), deadline.as_secs())]
    Busy {
        path: PathBuf,
        /// The time that was waited.
        deadline: Duration,
    },
    /// Another attachment holds the requested address.
    #[error("address {address} is held by another attachment")]
    InUse { address: IpAddr },
    /// The requested address was another pod's until a moment ago.
    #[error("address {address} was another pod's: it can be given out in {seconds} s")]
    CoolingDown { address: IpAddr, seconds: u32 },
    /// All addresses of the ranges are held.
    #[error("no free address in range {range}: all {held} are held")]
    Exhausted {
        /// The range, or several.
        range: String,
        /// The number of usable addresses.
        held: u32,
    },
    /// A file could not be read or written.
    #[error("{}: {attempt}: {source}", path.display())]
    Io { attempt: &'static str, path: PathBuf, source: io::Error },
    /// The directory is not safe to use.
    #[error("{}: {reason}", path.display())]
    Unsafe { path: PathBuf, reason: String },
    /// The range is not valid.
    #[error("range {range}: {reason}")]
    Range { range: String, reason: &'static str },
}

/// Returns the id that the kernel has chosen when the machine started.
///
/// # Errors
/// It can't be read.
pub fn boot_id() -> Result<String, StoreError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let boot = std::fs::read_to_string(path).map_err(|e| StoreError::io("read", path, e))?;
    Ok(boot.trim().to_owned())
}

/// The store of one node, not locked.
#[derive(Debug)]
pub struct AddressStore {
    base: Directory,
    records: Directory,
    temporary: Directory,
    releasing: Directory,
    damaged: Directory,
    lock: File,
    boot: String,
    cool_down: Duration,
}

impl AddressStore {
    /// Opens the store below `state_dir`; creates it if there is none.
    ///
    /// # Errors
    /// A directory cannot be created, belongs to another user, or is not a state directory.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::open_in_boot(state_dir, &boot_id()?)
    }

    /// Returns whether the state directory has a store. It has none until the first pod was
    /// attached.
    #[must_use]
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join(DIRECTORY).is_dir()
    }

    /// Opens the store below `state_dir`; `None`: there is none, so no pod was ever attached.
    /// Creates nothing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(state_dir: &Path) -> Result<Option<Self>, StoreError> {
        if Self::exists(state_dir) { Self::open(state_dir).map(Some) } else { Ok(None) }
    }

    /// Opens the store as if the machine's boot id were `boot`, for tests.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in_boot(state_dir: &Path, boot: &str) -> Result<Self, StoreError> {
        let base = Directory::make(state_dir)?.subdirectory(DIRECTORY)?;
        let lock = base.open_or_create("lock")?;
        Ok(Self {
            records: base.subdirectory("records")?,
            temporary: base.subdirectory("temporary")?,
            releasing: base.subdirectory("releasing")?,
            damaged: base.subdirectory("damaged")?,
            base,
            lock,
            boot: boot.into(),
            cool_down: COOL_DOWN,
        })
    }

    /// Replaces [`COOL_DOWN`].
    #[cfg(test)]
    fn with_cool_down(mut self, cool_down: Duration) -> Self {
        self.cool_down = cool_down;
        self
    }

    /// Takes the lock, waiting at most `deadline`. Then undoes or completes what killed processes
    /// left half done.
    ///
    /// # Errors
    /// The lock is not free in time; a file can't be read or written.
    pub fn lock(&self, deadline: Duration) -> Result<LockedStore<'_>, StoreError> {
        let path = || self.base.path().join("lock");
        match self.lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => self.wait(deadline)?,
            Err(std::fs::TryLockError::Error(e)) => return Err(StoreError::io("lock", &path(), e)),
        }
        let mut seen = [0; 64];
        let n = self.lock.read_at(&mut seen, 0).map_err(|e| StoreError::io("read", &path(), e))?;
        let mut locked = LockedStore::new(self);
        let same_boot = &seen[..n] == self.boot.as_bytes();
        locked.repair(same_boot)?;
        if !same_boot {
            self.lock.set_len(0).map_err(|e| StoreError::io("write", &path(), e))?;
            self.lock.write_all_at(self.boot.as_bytes(), 0).map_err(|e| StoreError::io("write", &path(), e))?;
        }
        Ok(locked)
    }

    /// Waits for the lock in a second thread, because flock(2) has no timeout. The kernel grants
    /// the lock in order of arrival.
    fn wait(&self, deadline: Duration) -> Result<(), StoreError> {
        let path = self.base.path().join("lock");
        let file = self.lock.try_clone().map_err(|e| StoreError::io("lock", &path, e))?;
        let (done, result) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let locked = file.lock();
            if let Err(mpsc::SendError(Ok(()))) = done.send(locked) {
                // The deadline has passed and the receiver is gone. If unlocking fails, closing the
                // file unlocks it.
                drop(file.unlock());
            }
        });
        let Ok(locked) = result.recv_timeout(deadline) else { return Err(StoreError::Busy { path, deadline }) };
        // The caller may want to fork, which is only safe with one thread.
        let ended = waiting.join();
        debug_assert!(ended.is_ok(), "the waiting thread has panicked");
        locked.map_err(|e| StoreError::io("lock", &path, e))
    }
}

impl StoreError {
    fn io(attempt: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { attempt, path: path.into(), source }
    }
}
