//! Paths of the pinned BPF objects.
//!
//! `<root>/<ABI hash>/{maps,programs,links}/<name>`, with `/sys/fs/bpf/ropeway` as the default
//! root. The agent pins its objects there and the plugin opens them. A directory per ABI lets two
//! versions exist side by side during an upgrade; an object belongs to Ropeway because it lies
//! below the root.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use dataplane_common::types::abi;

use crate::sys;

/// The default root of all pins.
pub const DEFAULT_ROOT: &str = "/sys/fs/bpf/ropeway";

/// The reason why a pin could not be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are named in the messages")]
pub enum PinError {
    /// No agent has pinned objects below the root.
    #[error("{}: no pins: the agent has not run on this node", root.display())]
    NeverRan {
        /// The root of the pins.
        root: PathBuf,
    },
    /// Only other versions of Ropeway have pinned objects below the root.
    #[error("{}: pins of ABI {}, but this program has ABI {:016x}: agent and plugin are of different versions", root.display(), found.join(", "), abi::HASH)]
    OtherAbi {
        /// The root of the pins.
        root: PathBuf,
        /// The ABI hashes that were found.
        found: Vec<String>,
    },
    /// `BPF_OBJ_GET` failed for another reason.
    #[error("cannot open pin {}: {source}", path.display())]
    Io {
        /// Path of the pin.
        path: PathBuf,
        source: io::Error,
    },
}

impl PinError {
    /// Returns true if there is nothing to open: no agent has pinned this object, of any version.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        match self {
            Self::NeverRan { .. } => true,
            Self::OtherAbi { .. } => false,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// The pins of one ABI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
    directory: PathBuf,
}

impl Pins {
    /// Returns the paths of this program's ABI below `root`. Opens and creates nothing.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.into(), directory: root.join(format!("{:016x}", abi::HASH)) }
    }

    /// Returns the directory of this ABI.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the root, which can hold several ABIs.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of a map's pin.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join("maps").join(name)
    }

    /// Returns the path of a program's pin.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join("programs").join(name)
    }

    /// Returns the path of a link's pin.
    #[must_use]
    pub fn link(&self, name: &str) -> PathBuf {
        self.directory.join("links").join(name)
    }

    /// Opens a pinned object.
    ///
    /// # Errors
    /// The agent never ran here, only another version did, or the kernel refused.
    pub fn open(&self, path: &Path) -> Result<OwnedFd, PinError> {
        sys::obj_get(path).map_err(|source| match self.missing() {
            Some(missing) if source.kind() == io::ErrorKind::NotFound => missing,
            _ => PinError::Io { path: path.into(), source },
        })
    }

    /// Returns the reason why this ABI has no pins; `None` if it has.
    #[must_use]
    pub fn missing(&self) -> Option<PinError> {
        if self.directory.is_dir() {
            return None;
        }
        let found = self.abis();
        let root = self.root.clone();
        Some(if found.is_empty() { PinError::NeverRan { root } } else { PinError::OtherAbi { root, found } })
    }

    /// Returns the ABI hashes below the root, sorted.
    #[must_use]
    pub fn abis(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.root) else { return Vec::new() };
        let is_hash = |n: &String| n.len() == 16 && n.bytes().all(|b| b.is_ascii_hexdigit());
        let mut abis: Vec<_> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(is_hash).collect();
        abis.sort();
        abis
    }
}
