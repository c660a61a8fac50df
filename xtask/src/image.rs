//! `cargo xtask image`: Ropeway's image as an OCI archive, without a builder or a registry.
//!
//! The image holds three static binaries and nothing else: no shell, no libraries, no package manager. The archive can
//! be pushed by any tool that reads the OCI layout, and `ctr images import` takes it as it is.

pub(crate) mod archive;
pub(crate) mod layer;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::paths::Paths;
use crate::{build, shell};
use archive::Image;
use layer::Layer;

/// What is in the image, all of it at the root.
const BINARIES: [&str; 3] = ["ropeway-agent", "ropeway", "ropeway-cni"];

/// Options of `cargo xtask image`.
#[derive(Args)]
pub(crate) struct Options {
    /// Name and tag that the archive gives the image
    #[arg(long, default_value = "ropeway:dev", value_name = "NAME:TAG")]
    name: String,
    /// Where to write the archive [default: target/ropeway.oci.tar]
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

/// Ropeway's image of the binaries that were built last, under a name, in an archive.
pub(crate) fn make(paths: &Paths, name: &str, output: &Path) -> Result<()> {
    of(paths, name, &BINARIES, output)
}

/// An image of some of the binaries that were built last; it starts the first.
pub(crate) fn of(paths: &Paths, name: &str, names: &[&str], output: &Path) -> Result<()> {
    let binaries = paths.binaries();
    shell::step(&format!("writing the image {name}"));
    let root = paths.target.join("image-root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("{}", root.display()))?;
    }
    fs::create_dir_all(&root)?;
    for binary in names {
        // Without debug information, which is most of the size; names for backtraces stay.
        let mut strip = Command::new("strip");
        strip.args(["--strip-debug", "-o"]).arg(root.join(binary));
        shell::output(strip.arg(binaries.join(binary)))?;
    }
    let layer = Layer::of_directory(&root, &paths.target.join("image-layer.tar"))?;
    let program = format!("/{}", names.first().context("an image without a program")?);
    let image = Image::new([name], [&layer]).entrypoint([&program]);
    archive::write(output, &[image])?;
    layer.remove()?;
    fs::remove_dir_all(&root).with_context(|| format!("{}", root.display()))
}
