//! A page of the documentation that is written from the outcome of tests.
//!
//! The matrix of the service contract and the hostile matrix are such pages. A run writes its page
//! on request; every other run fails if the committed page differs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::paths::Paths;

/// The committed page, and what to do with another text.
pub(super) struct Page {
    /// Path below the repository.
    pub(super) name: &'static str,
    /// The call of `cargo xtask` that writes it.
    pub(super) command: &'static str,
    pub(super) file: PathBuf,
    pub(super) write: bool,
}

impl Page {
    pub(super) fn new(paths: &Paths, name: &'static str, command: &'static str, write: bool) -> Self {
        Self { name, command, file: paths.root.join(name), write }
    }

    /// Writes the page, or fails if the committed one differs.
    pub(super) fn settle(&self, text: &str) -> Result<()> {
        if self.write {
            return fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.name));
        }
        if fs::read_to_string(&self.file).unwrap_or_default() != text {
            bail!("{} is stale: rewrite it with `{}`", self.name, self.command);
        }
        Ok(())
    }
}
