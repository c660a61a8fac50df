//! `cargo xtask build`: the kernel programs, then the binaries that carry them.
//!
//! All binaries are linked statically, so that the same files run on any node, in an image without a C library and in
//! a test machine with nothing but a kernel. They land in `target/release`.

mod object;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::setup::{self, Toolchain};
use crate::shell;

/// The target of the host binaries.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Packages with binaries, and the binaries.
const BINARIES: &[(&str, &[&str])] = &[
    ("dataplane-user", &["ropeway-agent", "ropeway"]),
    ("cni-plugin", &["ropeway-cni"]),
    ("ropeway-tests", &["ropeway-peer"]),
];

/// Builds everything; returns the folder of the binaries.
pub(crate) fn all(paths: &Paths) -> Result<PathBuf> {
    let toolchain = setup::ebpf(paths)?;
    ebpf(paths, &toolchain)?;
    host(paths)
}

/// The kernel programs: built, checked, measured.
pub(crate) fn ebpf(paths: &Paths, toolchain: &Toolchain) -> Result<()> {
    shell::step(&format!("building the kernel programs with {toolchain}"));
    let mut cargo = toolchain.cargo(&paths.ebpf_crate(), &paths.tools())?;
    shell::run(cargo.args(["build", "--release", "--locked", "--quiet"]))?;
    let path = paths.ebpf_object();
    let object = object::Object::read(&path).with_context(|| format!("{}", paths.short(&path)))?;
    println!("{}: {} KiB, license {}", paths.short(&path), object.bytes.div_ceil(1024), object.license);
    for program in &object.programs {
        println!("  {:<22} {:>6} instructions  ({})", program.name, program.instructions, program.section);
    }
    object.check()
}

/// The binaries of host and tests.
fn host(paths: &Paths) -> Result<PathBuf> {
    shell::step("building the binaries (release, static)");
    let mut cargo = shell::cargo(&paths.root);
    cargo.args(["build", "--release", "--locked", "--quiet", "--target", HOST]);
    for (package, binaries) in BINARIES {
        cargo.args(["--package", package]);
        for binary in *binaries {
            cargo.args(["--bin", binary]);
        }
    }
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env("ROPEWAY_EBPF_OBJECT", paths.ebpf_object());
    shell::run(&mut cargo)?;
    let built = paths.target.join(HOST).join("release");
    let place = paths.binaries();
    std::fs::create_dir_all(&place).with_context(|| format!("{}", place.display()))?;
    for binary in BINARIES.iter().flat_map(|(_, binaries)| *binaries) {
        publish(&built.join(binary), &place.join(binary))?;
        let size = std::fs::metadata(place.join(binary))?.len();
        println!("  {:<22} {:>6} KiB", binary, size.div_ceil(1024));
    }
    Ok(place)
}

/// Puts a binary in place without writing into the file that was there, which may be running.
fn publish(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let fresh = to.with_extension("new");
    std::fs::copy(from, &fresh).with_context(|| format!("{} to {}", from.display(), fresh.display()))?;
    std::fs::rename(&fresh, to).with_context(|| format!("{}", to.display()))
}
