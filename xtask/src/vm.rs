//! `cargo xtask vm`: tests the kernel programs, the agent and the plugin on the oldest supported
//! kernel.
//!
//! Debian's kernel boots in an emulated machine (without hardware support) from an initial file
//! system: a shell, the binaries of this checkout, and its packet and namespace tests. The machine
//! prints their output and one closing line.

mod archive;
mod kernel;
mod libraries;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::paths::Paths;
use crate::setup::{self, Need};
use crate::{build, shell};
use archive::Archive;

/// Options of `cargo xtask vm`.
#[derive(Args)]
pub(crate) struct Options {
    /// Namespace tests to run there, by a part of their names
    #[arg(long, default_value = "small")]
    namespace: String,
    /// Minutes after which the machine is stopped
    #[arg(long, default_value_t = 15)]
    minutes: u64,
}

/// The closing line of a successful run.
const CLOSING: &str = "vm: 0 failed";

/// Builds the tests, packs the file system and boots the machine.
pub(crate) fn run(paths: &Paths, options: &Options) -> Result<()> {
    setup::packages(&[Need::Machine, Need::Network])?;
    let binaries = build::all(paths)?;
    let tests = [build::test(paths, "packet-tests", "packet")?, build::test(paths, "ropeway-tests", "namespace")?];
    let directory = paths.target.join("vm");
    let kernel = kernel::ensure(&directory)?;
    shell::step(&format!("packing the initial file system for {}", kernel.release));
    let image = directory.join("initial.cpio");
    let archive = pack(paths, options, &binaries, &tests, &kernel)?;
    println!("  {} KiB", archive.len() / 1024);
    std::fs::write(&image, archive).with_context(|| format!("cannot write {}", image.display()))?;
    boot(&kernel.image, &image, Duration::from_secs(options.minutes * 60))
}

fn pack(
    paths: &Paths,
    options: &Options,
    binaries: &Path,
    tests: &[PathBuf; 2],
    kernel: &kernel::Kernel,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let mut modules = Vec::new();
    for module in kernel.modules(&["veth", "bridge", "cls_bpf", "sch_ingress"])? {
        let place = format!(
            "modules/{}",
            module.file_name().context("the path of a kernel module has no file name")?.to_string_lossy()
        );
        modules.push(format!("insmod /{place} || fail"));
        archive.file(&place, &std::fs::read(&module)?, true);
    }
    let busybox = shell::which("busybox").context("busybox is not in PATH")?;
    archive.file("bin/busybox", &std::fs::read(busybox)?, true);
    for tool in ["ip", "tc"] {
        let tool = shell::which(tool).with_context(|| format!("{tool} is not in PATH"))?;
        for file in libraries::with_needed(&tool)? {
            archive.copy(&file, &file)?;
        }
    }
    for name in ["ropeway-agent", "ropeway", "ropeway-cni", "ropeway-peer"] {
        archive.stripped(&binaries.join(name), &Path::new("/opt/ropeway").join(name), &paths.target)?;
    }
    for (test, name) in tests.iter().zip(["packet", "namespace"]) {
        archive.stripped(test, &Path::new("/opt/tests").join(name), &paths.target)?;
    }
    // The packet tests look for the objects where they were built, relative to their folder.
    for object in [paths.ebpf_object(), paths.ebpf_object().with_file_name("bench")] {
        archive.copy(&object, &object)?;
    }
    archive.file(&paths.root.join("tests/packet/.folder").to_string_lossy(), &[], false);
    archive.file("init", script(&modules.join("\n"), &options.namespace).as_bytes(), true);
    Ok(archive.finish())
}

/// Returns the script that the machine runs.
fn script(modules: &str, namespace: &str) -> String {
    format!(
        r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /var/lib /usr/bin /usr/sbin /sbin /etc
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
failed=0
fail() {{ failed=$((failed + 1)); echo "vm: FAILED"; }}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
{modules}
ip link set lo up
export ROPEWAY_BIN_DIR=/opt/ropeway ROPEWAY_SLOW_MACHINE=1 RUST_BACKTRACE=0
echo "vm: Linux $(uname -r)"
/opt/tests/packet --include-ignored --test-threads=1 --nocapture || fail
/opt/tests/namespace --ignored --list {namespace} | grep -q ': test$' || {{ echo "vm: no namespace test has '{namespace}' in its name"; fail; }}
/opt/tests/namespace --ignored --test-threads=1 --nocapture {namespace} || fail
echo "vm: $failed failed"
reboot -f
"#
    )
}

/// Boots the machine, shows its output, and checks its closing line.
fn boot(kernel: &Path, image: &Path, limit: Duration) -> Result<()> {
    shell::step("booting an emulated machine");
    let start = Instant::now();
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G", "-nographic", "-no-reboot"]);
    command
        .args(["-nic", "none", "-append", "console=ttyS0 quiet panic=-1", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(image);
    let mut machine =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the machine")?;
    let stdout = machine.stdout.take().context("standard output of the machine is not a pipe")?;
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let id = machine.id().to_string();
    let guard = std::thread::spawn(move || {
        // Reading fails when the machine has ended.
        if wait.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("vm: stopping the machine, which has not ended within {limit:?}");
            Command::new("kill").args(["-KILL", &id]).status().ok();
        }
    });
    let mut passed = false;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        println!("  {line}");
        passed |= line == CLOSING;
    }
    machine.wait()?;
    drop(done);
    guard.join().ok();
    println!("vm: {:.0} s", start.elapsed().as_secs_f64());
    if passed { Ok(()) } else { bail!("tests failed in the machine, or it ended early: see its output above") }
}
