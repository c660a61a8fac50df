//! `cargo xtask build`: the kernel programs, then the binaries that carry them.
//!
//! All binaries are linked statically, so that the same files run on any node, in an image without
//! a C library and in a test machine with nothing but a kernel. Images and benchmarks use the
//! binaries in `target/release`. The demo and the tests use those in `target/demo`, which take less
//! time to build. The kernel programs always have the release profile: the verifier checks what is
//! shipped.

mod object;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::setup::{self, Toolchain};
use crate::shell;

/// The target of the host binaries.
pub(crate) const HOST: &str = "x86_64-unknown-linux-gnu";

/// Cargo packages, each with the binaries that it builds.
const BINARIES: &[(&str, &[&str])] = &[
    ("dataplane-user", &["ropeway-agent", "ropeway"]),
    ("cni-plugin", &["ropeway-cni"]),
    ("ropeway-tests", &["ropeway-peer"]),
];

/// CPU time of a first build: linker, kernel programs, binaries.
const FIRST_BUILD_CPU_SECONDS: u64 = 360;

/// Time of a first build in which only one CPU is busy.
const FIRST_BUILD_ALONE_SECONDS: u64 = 30;

/// A cargo profile of the host binaries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    /// For images and benchmarks.
    Release,
    /// For the demo and the tests: a first build is much shorter, the binaries are slower.
    Demo,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Demo => "demo",
        }
    }

    /// Returns the folder that [`publish`] puts the binaries into.
    fn binaries(self, paths: &Paths) -> PathBuf {
        match self {
            Self::Release => paths.binaries(),
            Self::Demo => paths.demo_binaries(),
        }
    }
}

/// Builds everything with the release profile; returns the folder of the binaries.
pub(crate) fn all(paths: &Paths) -> Result<PathBuf> {
    let toolchain = setup::ebpf(paths)?;
    ebpf(paths, &toolchain)?;
    host(paths, Profile::Release)
}

/// Builds everything for the demo and the tests; returns the folder of the binaries.
///
/// The first time, the dependencies of the binaries are built beside the linker and the kernel
/// programs, which use one CPU for most of their time.
pub(crate) fn for_tests(paths: &Paths) -> Result<PathBuf> {
    let kernel = || ebpf(paths, &setup::ebpf(paths)?);
    if paths.demo_binaries().join("ropeway-agent").exists() {
        kernel()?;
        return host(paths, Profile::Demo);
    }
    let expected = first_build_time();
    shell::step(&format!("first build: about {} s on this machine; later builds take seconds", expected.as_secs()));
    shell::with_estimate(expected, || {
        std::thread::scope(|scope| {
            scope.spawn(|| build_dependencies(paths));
            kernel()
        })?;
        host(paths, Profile::Demo)
    })
}

/// Returns the expected time of a first build on this machine.
fn first_build_time() -> Duration {
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
    Duration::from_secs(FIRST_BUILD_CPU_SECONDS / cpus + FIRST_BUILD_ALONE_SECONDS)
}

/// Builds the dependencies of the host binaries, and the binaries that embed no kernel programs.
///
/// The build script of dataplane-user embeds the object, which does not exist yet. It fails, and
/// `--keep-going` has cargo build everything else. [`host`] builds the rest and reports errors.
fn build_dependencies(paths: &Paths) {
    let mut cargo = cargo_for_binaries(paths, Profile::Demo);
    cargo.arg("--keep-going").env("ROPEWAY_EBPF_OBJECT", paths.target.join("not-built-yet"));
    shell::output(&mut cargo).ok();
}

/// Tells the harness in this process where the binaries are, unless the environment names a folder.
pub(crate) fn name_binaries(paths: &Paths) {
    ropeway_tests::binaries::look_in(paths.demo_binaries());
}

/// Builds the kernel programs, checks the object and prints its sizes.
pub(crate) fn ebpf(paths: &Paths, toolchain: &Toolchain) -> Result<()> {
    shell::step(&format!("building the kernel programs with {toolchain}"));
    let mut cargo = toolchain.cargo(&paths.ebpf_crate(), &paths.tools())?;
    shell::run_long(cargo.args(["build", "--release", "--locked", "--quiet"]))?;
    let path = paths.ebpf_object();
    let object = object::Object::read(&path).with_context(|| format!("cannot read {}", paths.short(&path)))?;
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

/// Builds the binaries of host and tests.
fn host(paths: &Paths, profile: Profile) -> Result<PathBuf> {
    shell::step(&format!("building the binaries ({}, static)", profile.name()));
    shell::run_long(&mut cargo_for_binaries(paths, profile))?;
    let built = paths.target.join(HOST).join(profile.name());
    let place = profile.binaries(paths);
    std::fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
    for binary in BINARIES.iter().flat_map(|(_, binaries)| *binaries) {
        publish(&built.join(binary), &place.join(binary))?;
        let size = std::fs::metadata(place.join(binary))?.len();
        println!("  {:<22} {:>6} KiB", binary, size.div_ceil(1024));
    }
    Ok(place)
}

/// Returns the cargo call that builds all binaries at once, and so each dependency once.
fn cargo_for_binaries(paths: &Paths, profile: Profile) -> Command {
    let mut cargo = shell::cargo(&paths.root);
    cargo.args(["build", "--locked", "--quiet", "--target", HOST, "--profile", profile.name()]);
    for (package, binaries) in BINARIES {
        cargo.args(["--package", package]);
        for binary in *binaries {
            cargo.args(["--bin", binary]);
        }
    }
    linked_statically(&mut cargo, paths);
    cargo
}

/// Builds a test program, linked like the binaries so that it runs on any machine. Returns its
/// path.
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

/// Sets what all programs that run on a node are built with: static linking, and the kernel
/// programs that the agent embeds.
pub(crate) fn linked_statically<'a>(cargo: &'a mut Command, paths: &Paths) -> &'a mut Command {
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env("ROPEWAY_EBPF_OBJECT", paths.ebpf_object())
}

/// Replaces a binary by a rename: the old file may be running, and another build may replace it as
/// well.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension(format!("new{}", std::process::id()));
    std::fs::copy(from, &fresh).with_context(|| format!("cannot copy {} to {}", from.display(), fresh.display()))?;
    std::fs::rename(&fresh, to).with_context(|| format!("cannot move a file to {}", to.display()))
}
