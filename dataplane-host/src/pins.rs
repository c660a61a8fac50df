//! Where the kernel objects are pinned.
//!
//! `<root>/<ABI hash>/{maps,programs,links}/<name>`, with `/sys/fs/bpf/ropeway` as the default root. An object is ours
//! because it lies there; another ABI's objects lie beside, in another directory.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use dataplane_common::types::abi;

use crate::sys;

/// The root of all pins unless a flag says otherwise.
pub const DEFAULT_ROOT: &str = "/sys/fs/bpf/ropeway";

/// Why a pin could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// No agent has ever made pins there.
    #[error("{}: no pins: the agent has not run on this node", root.display())]
    NeverRan {
        /// The root of the pins.
        root: PathBuf,
    },
    /// Pins of another version of Ropeway, and none of ours.
    #[error("{}: pins of ABI {}, but this program has ABI {:016x}: agent and plugin are of different versions", root.display(), found.join(", "), abi::HASH)]
    OtherAbi {
        /// The root of the pins.
        root: PathBuf,
        /// The ABI hashes that are there.
        found: Vec<String>,
    },
    /// The kernel refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The pin.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// The pins of one ABI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
    directory: PathBuf,
}

impl Pins {
    /// The pins of this program's ABI below `root`; nothing is opened or made.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.into(), directory: root.join(format!("{:016x}", abi::HASH)) }
    }

    /// The directory of this ABI.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The root, which can hold several ABIs.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join("maps").join(name)
    }

    /// The pin of a program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join("programs").join(name)
    }

    /// The pin of a link.
    #[must_use]
    pub fn link(&self, name: &str) -> PathBuf {
        self.directory.join("links").join(name)
    }

    /// Opens a pin.
    ///
    /// # Errors
    /// Tells a node where the agent never ran from one with another version, and from a kernel that refuses.
    pub fn open(&self, path: &Path) -> Result<OwnedFd, PinError> {
        sys::obj_get(path).map_err(|source| match self.missing() {
            Some(missing) if source.kind() == io::ErrorKind::NotFound => missing,
            _ => PinError::Io { path: path.into(), source },
        })
    }

    /// Why there is nothing of this ABI, if so.
    #[must_use]
    pub fn missing(&self) -> Option<PinError> {
        if self.directory.is_dir() {
            return None;
        }
        let found = self.abis();
        let root = self.root.clone();
        Some(if found.is_empty() { PinError::NeverRan { root } } else { PinError::OtherAbi { root, found } })
    }

    /// The ABI hashes below the root, sorted.
    #[must_use]
    pub fn abis(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.root) else { return Vec::new() };
        let is_hash = |n: &String| n.len() == 16 && n.bytes().all(|b| b.is_ascii_hexdigit());
        let mut abis: Vec<_> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(is_hash).collect();
        abis.sort();
        abis
    }
}
