//! Tools that are built from their registry into `target/tools`, each in one version.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::packages::{self, Need};
use crate::paths::Paths;
use crate::shell;

/// A tool written in Rust.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tool {
    /// Links the kernel programs.
    BpfLinker,
    /// Checks licences and sources of dependencies.
    CargoDeny,
    /// Changes sources to find what no test notices.
    CargoMutants,
    /// Finds misspelt words.
    Typos,
}

impl Tool {
    /// Returns the name of the crate and its program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BpfLinker => "bpf-linker",
            Self::CargoDeny => "cargo-deny",
            Self::CargoMutants => "cargo-mutants",
            Self::Typos => "typos",
        }
    }

    fn package(self) -> &'static str {
        if self == Self::Typos { "typos-cli" } else { self.name() }
    }

    fn version(self) -> &'static str {
        match self {
            Self::BpfLinker => "0.13.0",
            Self::CargoDeny => "0.20.2",
            Self::CargoMutants => "27.1.0",
            Self::Typos => "1.42.3",
        }
    }

    /// Returns the program's path; builds it unless this version is present.
    pub(crate) fn ensure(self, paths: &Paths) -> Result<PathBuf> {
        let program = paths.tools().join("bin").join(self.name());
        if self.installed(&program) {
            return Ok(program);
        }
        shell::step(&format!(
            "building {} {} into {} (minutes, once)",
            self.package(),
            self.version(),
            paths.short(&paths.tools())
        ));
        let mut cargo = shell::cargo(&paths.root);
        cargo.args(["install", "--quiet", "--locked", "--force", "--version", self.version(), "--root"]);
        cargo.arg(paths.tools()).arg("--target-dir").arg(paths.tools().join("build"));
        match self {
            Self::BpfLinker => {
                packages::ensure(&[Need::Linker])?;
                cargo.args(["--no-default-features", "--features", "llvm-22"]);
                cargo.env("LLVM_PREFIX", "/usr/lib/llvm-22").env("RUSTFLAGS", "-L /usr/lib/llvm-22/lib");
                cargo.env("PATH", shell::path_first(&[std::path::Path::new("/usr/lib/llvm-22/bin")])?);
            }
            Self::CargoDeny | Self::CargoMutants | Self::Typos => {}
        }
        // Unoptimized they are built in half the time. The linker's work is done by LLVM, which is
        // a shared library of the system; the others still take only seconds over this workspace.
        cargo.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "0");
        shell::run_long(cargo.arg(self.package())).with_context(|| format!("{} could not be built", self.package()))?;
        Ok(program)
    }

    fn version_arguments(self) -> &'static [&'static str] {
        // Its arguments are those that cargo would pass.
        if self == Self::CargoMutants { &["mutants", "--version"] } else { &["--version"] }
    }

    fn installed(self, program: &std::path::Path) -> bool {
        program.exists()
            && shell::output(Command::new(program).args(self.version_arguments()))
                .is_ok_and(|text| text.split_whitespace().any(|word| word == self.version()))
    }
}
