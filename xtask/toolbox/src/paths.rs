//! The paths of the checkout. Computes them only; never touches the file system.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout and its build directory.
pub struct Paths {
    /// The root of the workspace.
    pub root: PathBuf,
    /// Cargo's target directory of the workspace.
    pub target: PathBuf,
}

impl Paths {
    /// Finds the checkout by the folder of xtask: the one that cargo names, or else `built_in`, the
    /// one in which xtask was compiled.
    pub fn find(built_in: &str) -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| built_in.into());
        let manifest = PathBuf::from(manifest);
        let root = manifest.parent().context("xtask's folder has no parent")?.to_path_buf();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target })
    }

    /// Returns the folder of the release binaries.
    #[must_use]
    pub fn binaries(&self) -> PathBuf {
        self.target.join("release")
    }

    /// Returns the folder of the binaries that the demo and the tests use.
    #[must_use]
    pub fn demo_binaries(&self) -> PathBuf {
        self.target.join("demo")
    }

    /// Returns the folder of the tools that xtask installed (in its `bin`).
    #[must_use]
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Returns the folder of the kernel programs' crate.
    #[must_use]
    pub fn ebpf_crate(&self) -> PathBuf {
        self.root.join("dataplane-ebpf")
    }

    /// Returns the path of the built object with the kernel programs.
    #[must_use]
    pub fn ebpf_object(&self) -> PathBuf {
        self.ebpf_crate().join("target/bpfel-unknown-none/release/ropeway")
    }

    /// Formats a path for messages: relative to the root if possible.
    #[must_use]
    pub fn short<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}
