//! The agent's lock: at most one agent runs on a node.
//!
//! An advisory lock (flock(2)) on `agent.lock` in the state directory. The kernel releases it when
//! the process ends, so a crash leaves no stale lock. The agent takes it before it touches the
//! kernel; `ropeway` only tests it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use dataplane_host::contract;

use super::LoadError;

const NAME: &str = contract::AGENT_LOCK;

/// The agent lock, held until this value is dropped.
#[derive(Debug)]
pub struct AgentLock {
    _file: File,
}

impl AgentLock {
    /// Takes the lock. Creates the state directory with mode 0700 if it is missing.
    ///
    /// # Errors
    /// Another agent holds the lock, or the directory can't be used or is not a state directory.
    pub fn take(state_dir: &Path) -> Result<Self, LoadError> {
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source| LoadError::File { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(file_error(state_dir))?;
        // Before the first file is created, which would make the directory look like Ropeway's.
        if !is_state_dir(state_dir).map_err(file_error(state_dir))? {
            return Err(LoadError::NotStateDir { path: state_dir.into() });
        }
        let path = state_dir.join(NAME);
        let mut options = OpenOptions::new();
        let file =
            options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(file_error(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LoadError::SecondAgent { path }),
            Err(TryLockError::Error(source)) => Err(LoadError::File { path, source }),
        }
    }

    /// Returns true if an agent holds the lock, and `None` if the file can't be opened or locked.
    #[must_use]
    pub fn is_held(state_dir: &Path) -> Option<bool> {
        let file = match File::open(state_dir.join(NAME)) {
            Ok(file) => file,
            Err(e) => return (e.kind() == std::io::ErrorKind::NotFound).then_some(false),
        };
        // A shared lock, released when `file` is dropped: two callers do not disturb each other.
        match file.try_lock_shared() {
            Ok(()) => Some(false),
            Err(TryLockError::WouldBlock) => Some(true),
            Err(TryLockError::Error(_)) => None,
        }
    }
}

fn is_state_dir(path: &Path) -> std::io::Result<bool> {
    let entries = std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let entries: Vec<_> = entries.collect::<std::io::Result<_>>()?;
    Ok(contract::is_state_dir(entries.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_the_system_is_not_taken_for_the_state() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("passwd"), "").unwrap();
        let message = AgentLock::take(dir.path()).unwrap_err().to_string();
        assert!(message.starts_with(&format!("--state-dir {}: has files, ", dir.path().display())), "{message}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was written");
    }

    #[test]
    fn second_agent_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert_eq!(AgentLock::is_held(&state), Some(false));
        let first = AgentLock::take(&state).unwrap();
        assert_eq!(AgentLock::is_held(&state), Some(true));
        let message = AgentLock::take(&state).unwrap_err().to_string();
        assert!(message.contains("agent.lock: another agent runs on this node"), "{message}");
        drop(first);
        assert_eq!(AgentLock::is_held(&state), Some(false));
        AgentLock::take(&state).unwrap();
    }
}
