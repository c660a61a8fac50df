//! Finds the tools that a command needs, and installs them where that is possible.
//!
//! Every command calls this first, so it must be quick when all is there and say nothing then. On Debian, as root,
//! packages come from apt; tools written in Rust are built from their registry into `target/tools`, so that nothing
//! of the user's own is replaced. Anywhere else one line says what is missing.

mod packages;
mod toolchain;
mod tools;

use anyhow::Result;

use crate::paths::Paths;

pub(crate) use packages::Need;
pub(crate) use toolchain::Toolchain;
pub(crate) use tools::Tool;

/// Everything that any command needs.
pub(crate) fn everything(paths: &Paths) -> Result<()> {
    let toolchain = ebpf(paths)?;
    println!("eBPF tool chain: {toolchain}");
    packages::ensure(Need::ALL)?;
    for tool in [Tool::CargoDeny, Tool::Typos] {
        println!("{}: {}", tool.name(), paths.short(&tool.ensure(paths)?));
    }
    println!("everything is there");
    Ok(())
}

/// What building the kernel programs needs.
pub(crate) fn ebpf(paths: &Paths) -> Result<Toolchain> {
    let toolchain = toolchain::find()?;
    packages::ensure(&[Need::Linker])?;
    Tool::BpfLinker.ensure(paths)?;
    Ok(toolchain)
}

/// What a command needs besides.
pub(crate) fn packages(needs: &[Need]) -> Result<()> {
    packages::ensure(needs)
}
