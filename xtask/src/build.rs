//! `cargo xtask build`: the kernel programs, then the binaries that carry them.
//!
//! All binaries are linked statically, so that the same files run on any node, in an image without a C library and in
//! a test machine with nothing but a kernel. They land in `target/release`.

mod object;

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Tells the harness in this process where the binaries are, unless the environment says so.
pub(crate) fn name_binaries(paths: &Paths) {
    ropeway_tests::binaries::look_in(paths.binaries());
}

/// The kernel programs: built, checked, measured.
pub(crate) fn ebpf(paths: &Paths, toolchain: &Toolchain) -> Result<()> {
    shell::step(&format!("building the kernel programs with {toolchain}"));
    let mut cargo = toolchain.cargo(&paths.ebpf_crate(), &paths.tools())?;
    shell::run_long(cargo.args(["build", "--release", "--locked", "--quiet"]))?;
    let path = paths.ebpf_object();
    let object = object::Object::read(&path).with_context(|| format!("{}", paths.short(&path)))?;
    println!("{}: {} KiB, license {}", paths.short(&path), object.bytes.div_ceil(1024), object.license);
    for program in &object.programs {
        println!("  {:<22} {:>6} instructions  ({})", program.name, program.instructions, program.section);
    }
    println!(
        "  {:<22} {:>6} instructions  (called by several of them)",
        "shared functions", object.shared_instructions
    );
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
    shell::run_long(linked_statically(&mut cargo, paths))?;
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

/// A test program, linked like the binaries, so that it runs anywhere; returns its path.
pub(crate) fn test(paths: &Paths, package: &str, test: &str) -> Result<PathBuf> {
    shell::step(&format!("building the tests {package}/{test} (release, static)"));
    let mut cargo = shell::cargo(&paths.root);
    cargo.args(["test", "--no-run", "--release", "--locked", "--quiet", "--target", HOST, "--all-features"]);
    cargo.args(["--package", package, "--test", test, "--message-format", "json"]);
    let messages = shell::with_signs_of_life(|| shell::output(linked_statically(&mut cargo, paths)))?;
    let path =
        messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find_map(|message| {
            let wanted = message["reason"] == "compiler-artifact" && message["target"]["name"] == test;
            message["executable"].as_str().filter(|_| wanted).map(PathBuf::from)
        });
    path.with_context(|| format!("cargo built no test {test}"))
}

fn linked_statically<'a>(cargo: &'a mut Command, paths: &Paths) -> &'a mut Command {
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env("ROPEWAY_EBPF_OBJECT", paths.ebpf_object())
}

/// Puts a binary in place without writing into the file that was there, which may be running. Another build may do the same.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension(format!("new{}", std::process::id()));
    std::fs::copy(from, &fresh).with_context(|| format!("{} to {}", from.display(), fresh.display()))?;
    std::fs::rename(&fresh, to).with_context(|| format!("{}", to.display()))
}
