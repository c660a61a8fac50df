//! Finds the tools that a command needs, and installs them where that is possible.
//!
//! Every command calls this first, so it is quick and prints nothing if all tools are present. On
//! Debian, as root, it installs packages with apt. Tools written in Rust are built from their
//! registry into `target/tools`, so that the user's tools are not replaced. On other systems one
//! line names the missing tools.

mod packages;
mod toolchain;
mod tools;

use anyhow::Result;

use crate::paths::Paths;

pub(crate) use packages::Need;
pub(crate) use toolchain::Toolchain;
pub(crate) use tools::Tool;

/// Installs the tools of all commands.
pub(crate) fn everything(paths: &Paths) -> Result<()> {
    let toolchain = ebpf(paths)?;
    println!("eBPF tool chain: {toolchain}");
    packages::ensure(Need::ALL)?;
    for tool in [Tool::CargoDeny, Tool::CargoMutants, Tool::Typos] {
        println!("{}: {}", tool.name(), paths.short(&tool.ensure(paths)?));
    }
    println!("all tools are present");
    Ok(())
}

/// Returns the compiler for the kernel programs, with its linker installed.
pub(crate) fn ebpf(paths: &Paths) -> Result<Toolchain> {
    let toolchain = toolchain::find()?;
    packages::ensure(&[Need::Linker])?;
    Tool::BpfLinker.ensure(paths)?;
    Ok(toolchain)
}

/// Installs the packages that a command needs.
pub(crate) fn packages(needs: &[Need]) -> Result<()> {
    packages::ensure(needs)
}
