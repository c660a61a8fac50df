//! Chooses the compiler for the kernel programs.
//!
//! The compiler needs the source of `core`, which is built for the kernel's target, and an LLVM no
//! newer than the linker's. A rustup nightly with `rust-src` is used if there is one; otherwise
//! Debian's compiler, called by its path and told to accept unstable options.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::packages::{self, Need};
use crate::shell;

/// The LLVM that the linker of the kernel programs is built with.
pub(super) const LINKER_LLVM: u32 = 22;

/// A compiler for the kernel programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The nightly tool chain of rustup.
    Nightly,
    /// The compiler of Debian's packages, in `/usr/bin`.
    Debian,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "rustup nightly with rust-src",
            Self::Debian => "Debian's rustc-web with rust-web-src",
        })
    }
}

impl Toolchain {
    /// Returns this tool chain's cargo, run in the crate of the kernel programs.
    pub(crate) fn cargo(&self, directory: &Path, tools: &Path) -> Result<Command> {
        let mut command = match self {
            Self::Nightly => Command::new("cargo"),
            Self::Debian => Command::new("/usr/bin/cargo"),
        };
        shell::clean(&mut command);
        // The crate has a separate target directory, and rustup's choice for the host crates does
        // not apply.
        for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUSTC", "CARGO"] {
            command.env_remove(name);
        }
        let linker = tools.join("bin");
        match self {
            Self::Nightly => {
                command.env("RUSTUP_TOOLCHAIN", "nightly").env("PATH", shell::path_first(&[&linker])?);
            }
            Self::Debian => {
                let path = shell::path_first(&[&linker, Path::new("/usr/bin")])?;
                command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc").env("PATH", path);
            }
        }
        command.current_dir(directory);
        Ok(command)
    }
}

/// Returns the best tool chain of this machine; installs Debian's if there is none.
pub(super) fn find() -> Result<Toolchain> {
    if nightly().is_some_and(|(llvm, sources)| suits(llvm, sources)) {
        return Ok(Toolchain::Nightly);
    }
    packages::ensure(&[Need::DebianRust])?;
    Ok(Toolchain::Debian)
}

/// Returns whether a compiler with this LLVM, with or without the source of `core`, can build the
/// kernel programs.
fn suits(llvm: u32, sources: bool) -> bool {
    sources && llvm <= LINKER_LLVM
}

/// Returns the LLVM of rustup's nightly, and whether it has the source of `core`.
fn nightly() -> Option<(u32, bool)> {
    let output = |arguments: &[&str]| {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "rustc"]).args(arguments).env_remove("RUSTUP_TOOLCHAIN");
        shell::output(&mut command).ok()
    };
    let llvm = llvm_version(&output(&["-vV"])?)?;
    let sysroot = PathBuf::from(output(&["--print", "sysroot"])?.trim());
    Some((llvm, sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()))
}

/// Parses the major version of LLVM in the output of `rustc -vV`.
fn llvm_version(text: &str) -> Option<u32> {
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_llvm_version() {
        assert_eq!(llvm_version("rustc 1.97.0-nightly\nhost: x\nLLVM version: 22.1.4\n"), Some(22));
        assert_eq!(llvm_version("rustc 1.97.0-nightly\n"), None);
    }

    #[test]
    fn nightly_needs_sources_and_a_matching_llvm() {
        assert!(suits(22, true));
        assert!(suits(21, true));
        assert!(!suits(22, false));
        assert!(!suits(23, true));
    }
}
