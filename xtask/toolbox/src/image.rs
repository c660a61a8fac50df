//! OCI images of the built binaries, written without a builder or a registry.
//!
//! An image holds static binaries at its root and nothing else. `cargo xtask image` writes the
//! product's; the test cluster also writes those of upstream's programs. Builds nothing itself.
//!
//! Written by hand: the layout is three small JSON documents and a tar file, and its bytes have to
//! be the same in every build of the same sources.

pub mod archive;
pub mod layer;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::shell;
use archive::Image;
use layer::Layer;

/// The binaries of Ropeway's image, all of them at its root.
pub const BINARIES: [&str; 3] = ["ropeway-agent", "ropeway", "ropeway-cni"];

/// Writes Ropeway's image of the last built binaries to an archive, under a name.
pub fn make(paths: &Paths, name: &str, output: &Path) -> Result<()> {
    of(paths, name, &BINARIES, output)
}

/// Describes an image of some of the last built binaries; it starts the first.
pub fn of(paths: &Paths, name: &str, names: &[&str], output: &Path) -> Result<()> {
    let binaries = paths.binaries();
    shell::step(&format!("writing the image {name}"));
    let root = paths.target.join("image-root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    fs::create_dir_all(&root)?;
    for binary in names {
        // Strip debug information, which is most of the size; symbols for backtraces stay.
        let mut strip = Command::new("strip");
        strip.args(["--strip-debug", "-o"]).arg(root.join(binary));
        shell::output(strip.arg(binaries.join(binary)))?;
    }
    let layer = Layer::of_directory(&root, &paths.target.join("image-layer.tar"))?;
    let program = format!("/{}", names.first().context("the image has no program")?);
    let image = Image::new([name], [&layer]).entrypoint([&program]);
    archive::write(output, &[image])?;
    layer.remove()?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))
}
