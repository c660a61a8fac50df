//! `pod-mtu.json` in the state directory: the MTU to which the node's pods have been or are being
//! changed.
//!
//! The process that changes them holds the file's lock. The file is written in place by one call,
//! so that the lock stays with it. A power cut may damage it; damaged content counts as none, since
//! no pod survives a power cut.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::CniError;

const NAME: &str = "pod-mtu.json";

/// The content of `pod-mtu.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) mtu: u32,
    /// The target MTU, which all pods have except those that do not follow the node's.
    pub(super) done: bool,
    /// Sizes that one or the other end of a pod's veth may still have from before.
    #[serde(default)]
    pub(super) left: Vec<u32>,
    /// Errors of the last run.
    #[serde(default)]
    pub(super) failed: Vec<String>,
}

impl Journal {
    /// Reads the file; `None` if it is missing or damaged.
    pub(super) fn read(state_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(state_dir.join(NAME)).ok()?).ok()
    }

    /// Returns the journal with a new target MTU.
    pub(super) fn towards(mut self, wanted: u32) -> Self {
        let before = std::mem::replace(&mut self.mtu, wanted);
        if before != 0 {
            self.add_sizes([before]);
        }
        Self { done: false, failed: Vec::new(), ..self }
    }

    /// Adds sizes from which pods are about to be changed. Returns whether there are new ones.
    pub(super) fn add_sizes(&mut self, sizes: impl IntoIterator<Item = u32>) -> bool {
        let before = self.left.len();
        for size in sizes {
            if size != self.mtu && !self.left.contains(&size) {
                self.left.push(size);
            }
        }
        self.left.len() > before
    }

    /// Returns the journal after all pods were tried.
    pub(super) fn end(self, failed: Vec<String>) -> Self {
        let done = failed.is_empty();
        Self { done, left: if done { Vec::new() } else { self.left }, failed, ..self }
    }

    pub(super) fn write(&self, file: &File) -> Result<(), CniError> {
        let io = |e| CniError::io(format!("write {NAME}"), e);
        let text = serde_json::to_string(self).map_err(|e| io(e.into()))?;
        // Overwrites the rest of the old content with blanks.
        let width = file.metadata().map_err(io)?.len() as usize;
        file.write_all_at(format!("{text:<width$}").as_bytes(), 0).map_err(io)
    }
}

/// Opens and locks the file; `None`: another process has the lock.
pub(super) fn lock(state_dir: &Path) -> Result<Option<File>, CniError> {
    let path: PathBuf = state_dir.join(NAME);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(&path).map_err(|e| CniError::io(format!("open {}", path.display()), e))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(CniError::io(format!("lock {}", path.display()), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previous_sizes_are_kept_until_all_pods_are_done() {
        let mut journal = Journal::default().towards(1400);
        assert_eq!(journal, Journal { mtu: 1400, ..Journal::default() });
        assert!(journal.add_sizes([1500, 1400, 1500]) && !journal.add_sizes([1500]));
        let failed = journal.end(vec!["c1".into()]);
        assert!(!failed.done);
        let back = failed.towards(1450);
        assert_eq!((back.mtu, &back.left[..]), (1450, &[1500, 1400][..]));
        let done = back.end(Vec::new());
        assert_eq!(done, Journal { mtu: 1450, done: true, ..Journal::default() });
    }

    #[test]
    fn journal_round_trips_and_has_one_lock_holder() {
        let dir = std::env::temp_dir().join(format!("rw-journal-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(Journal::read(&dir), None);
        let file = lock(&dir).unwrap().unwrap();
        assert!(lock(&dir).unwrap().is_none());
        let long = Journal { mtu: 9000, failed: vec!["x".repeat(300)], ..Journal::default() };
        let short = Journal { mtu: 1500, done: true, ..Journal::default() };
        for journal in [&short, &long, &short] {
            journal.write(&file).unwrap();
            assert_eq!(Journal::read(&dir).as_ref(), Some(journal));
        }
        file.set_len(20).unwrap();
        assert_eq!(Journal::read(&dir), None);
        drop(file);
        assert!(lock(&dir).unwrap().is_some());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
