//! `cargo xtask image`: Ropeway's image as an OCI archive, without a builder or a registry.
//!
//! The image holds three static binaries: no shell, no libraries, no package manager. Every tool
//! that reads the OCI layout can push the archive, and `ctr images import` can load it.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use toolbox::image::{BINARIES, make};

use crate::build;
use crate::paths::Paths;

/// Options of `cargo xtask image`.
#[derive(Args)]
pub(crate) struct Options {
    /// Name and tag that the archive gives the image
    #[arg(long, default_value = "ropeway:dev", value_name = "NAME:TAG")]
    name: String,
    /// Path of the archive [default: target/ropeway.oci.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Builds the binaries and writes the archive.
pub(crate) fn run(paths: &Paths, options: &Options) -> Result<()> {
    let output = options.output.clone().unwrap_or_else(|| paths.target.join("ropeway.oci.tar"));
    build::all(paths)?;
    make(paths, &options.name, &output)?;
    let size = fs::metadata(&output)?.len();
    println!("{}: {} as {}, {} KiB", paths.short(&output), BINARIES.join(", "), options.name, size.div_ceil(1024));
    Ok(())
}
