//! Where things lie in the checkout. Knows paths, touches nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout and where it is built.
pub(crate) struct Paths {
    /// The root of the workspace.
    pub(crate) root: PathBuf,
    /// Cargo's target directory of the workspace.
    pub(crate) target: PathBuf,
}

impl Paths {
    /// From the place of this crate in the checkout and cargo's environment.
    pub(crate) fn find() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = manifest.parent().context("xtask's folder has no parent")?.to_path_buf();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target })
    }

    /// Where release binaries are.
    pub(crate) fn binaries(&self) -> PathBuf {
        self.target.join("release")
    }

    /// Tools that xtask installed for itself (`bin` below it).
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The crate of the kernel programs.
    pub(crate) fn ebpf_crate(&self) -> PathBuf {
        self.root.join("dataplane-ebpf")
    }

    /// The built object with the kernel programs.
    pub(crate) fn ebpf_object(&self) -> PathBuf {
        self.ebpf_crate().join("target/bpfel-unknown-none/release/ropeway")
    }

    /// A path as people want to read it: relative to the root where it can be.
    pub(crate) fn short<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}
