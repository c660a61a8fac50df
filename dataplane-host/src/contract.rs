//! The contract between the agent and the CNI plugin: paths, file formats and addresses that both
//! must know.
//!
//! The two programs never talk to each other. The agent writes files to the state directory and the
//! plugin reads them at each call, so that pods get their network while the agent is down. `ropeway
//! ipam` reads the same files. Each file has one type here ([`NodeFile`], [`pools::PoolsFile`],
//! [`pools::NamespacesFile`]), carries a version and is replaced as a whole ([`crate::durable`]): a
//! reader sees the old content or the new one.
//!
//! This module decides nothing. Where a pod's addresses come from is the plugin's business, which
//! blocks a node has is the agent's.

mod gateway;
mod node_file;
pub mod pools;

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use gateway::{GATEWAY4, GATEWAY6, gateway};
pub use node_file::{NodeFile, ReservedPort};

use crate::durable;

/// The state directory of agent, plugin and command line unless an option says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/ropeway";

/// Name of the agent's lock file in the state directory.
pub const AGENT_LOCK: &str = "agent.lock";

/// Name of the address store's directory in the state directory.
pub const ADDRESS_STORE: &str = "addresses";

/// Why a directory is refused for which [`is_state_dir`] returns false.
pub const NOT_A_STATE_DIR: &str =
    "has files, and none of them is Ropeway's: name an empty directory, or one that does not exist";

/// Returns true if a directory with these entries is Ropeway's state directory, or empty.
///
/// Agent and plugin take the rights of other users from their state directory, which must not
/// happen to `/etc` by a wrong setting.
#[must_use]
pub fn is_state_dir<'a>(entries: impl Iterator<Item = &'a str>) -> bool {
    let own = [AGENT_LOCK, ADDRESS_STORE, NodeFile::NAME, pools::PoolsFile::NAME, pools::NamespacesFile::NAME];
    let mut foreign = false;
    for entry in entries {
        if own.contains(&entry) {
            return true;
        }
        // The root of an ext4 file system has this directory.
        foreign |= entry != "lost+found";
    }
    !foreign
}

/// A file in the state directory that the agent writes.
///
/// A newer agent may add fields without a new version: readers ignore fields that they do not know.
/// A new version is for changes that an old plugin would misread. The previous version then stays
/// in `VERSIONS`, because the new plugin is installed before the new agent rewrites the file.
pub trait AgentFile: DeserializeOwned + Serialize {
    /// File name below the state directory.
    const NAME: &str;
    /// Versions that this program reads; the last one is the one it writes.
    const VERSIONS: RangeInclusive<u32>;
}

/// The reason why a file of the contract could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are named in the messages")]
pub enum FileError {
    /// The file exists, but reading it failed.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file could not be replaced.
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// The file is not JSON.
    #[error("{}: is not valid JSON: {source}: restart ropeway-agent, which rewrites the file", path.display())]
    Syntax {
        path: PathBuf,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// A field is missing or has a value that cannot be used.
    #[error("{}: field {field}: {reason}: restart ropeway-agent, which rewrites the file", path.display())]
    Field {
        path: PathBuf,
        /// The field's path, as in `podCIDRs[0]`.
        field: String,
        /// The reason why the value cannot be used.
        reason: String,
    },
    /// A newer agent wrote the file, or an agent so old that its format is no longer read.
    #[error(
        "{}: field version: {found}, but this program reads {} to {}: install agent and plugin of the same version",
        path.display(), versions.start(), versions.end()
    )]
    Version {
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The versions that this program reads.
        versions: RangeInclusive<u32>,
    },
}

/// Reads the file of a state directory; `None`: there is no such file.
///
/// # Errors
/// The file cannot be read, is not JSON, has another version, or lacks a field.
pub fn read<T: AgentFile>(state_dir: &Path) -> Result<Option<T>, FileError> {
    let path = state_dir.join(T::NAME);
    match fs::read(&path) {
        Ok(text) => parse(&path, &text, &T::VERSIONS).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::Read { path, source }),
    }
}

/// Replaces the file of a state directory. Returns whether the content was new.
///
/// # Errors
/// The directory cannot be written.
pub fn write<T: AgentFile>(state_dir: &Path, content: &T) -> Result<bool, FileError> {
    durable::write_json(state_dir, T::NAME, content)
        .map_err(|source| FileError::Write { path: state_dir.join(T::NAME), source })
}

fn parse<T: DeserializeOwned>(path: &Path, text: &[u8], versions: &RangeInclusive<u32>) -> Result<T, FileError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: Option<u32>,
    }
    // The version first: what a newer agent wrote may lack fields that this program requires.
    match decode::<Versioned>(path, text)?.version {
        Some(found) if versions.contains(&found) => decode(path, text),
        Some(found) => Err(FileError::Version { path: path.into(), found, versions: versions.clone() }),
        None => Err(FileError::field(path, "version", "is missing")),
    }
}

fn decode<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, FileError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        // serde_path_to_error calls the document itself ".".
        let field = Some(e.path().to_string()).filter(|path| path != ".").unwrap_or_else(|| "(top level)".into());
        let source = e.into_inner();
        if source.is_data() {
            FileError::field(path, &field, source.to_string())
        } else {
            FileError::syntax(path, source)
        }
    })?;
    json.end().map_err(|e| FileError::syntax(path, e))?;
    Ok(value)
}

impl FileError {
    /// Creates the error for an unusable value of a field, for checks that a reader makes after
    /// [`read`].
    pub fn field(path: &Path, field: &str, reason: impl Into<String>) -> Self {
        Self::Field { path: path.into(), field: field.into(), reason: reason.into() }
    }

    fn syntax(path: &Path, source: serde_json::Error) -> Self {
        Self::Syntax { path: path.into(), source }
    }
}

#[cfg(test)]
mod tests;
