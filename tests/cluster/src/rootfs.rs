//! The user space of the test images: Debian packages, unpacked but not configured, and the links
//! that configuring them would have made.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::layout::Layout;
use toolbox::shell;

const PACKAGES: &[&str] = &[
    "base-files",
    "bash",
    "bind9-dnsutils",
    "bind9-host",
    "busybox",
    "coreutils",
    "curl",
    "dash",
    "debianutils",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "iperf",
    "iproute2",
    "iputils-ping",
    "libc-bin",
    "mawk",
    "netcat-openbsd",
    "procps",
    "sed",
    "socat",
    "tar",
    "util-linux",
    "wget",
];
/// Directories that no test needs.
const NEEDLESS: &[&str] = &[
    "etc/apt",
    "etc/resolv.conf",
    "etc/hostname",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/cache",
    "dev",
];
/// Links to programs under the names that scripts use.
const LINKS: &[(&str, &str)] =
    &[("bin/sh", "dash"), ("usr/bin/awk", "mawk"), ("bin/nc", "nc.openbsd"), ("usr/bin/nc", "../../bin/nc.openbsd")];
/// Commands that only busybox has.
const BUSYBOX: &[&str] =
    &["nslookup", "vi", "ifconfig", "route", "netstat", "traceroute", "which", "httpd", "telnet", "unzip"];
const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n\
                      user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\nuser-defined-in-image:x:1000:\n\
                     group-defined-in-image:x:50000:user-defined-in-image\n";

/// Returns the directory of the unpacked root file system.
pub(super) fn path(layout: &Layout) -> PathBuf {
    layout.cache().join("rootfs")
}

/// Unpacks the packages unless that was done before.
pub(super) fn make(layout: &Layout) -> Result<()> {
    let (root, fresh) = (path(layout), layout.cache().join("rootfs.new"));
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    let mut unpack = Command::new("mmdebstrap");
    unpack.args(["--quiet", "--variant=extract", &format!("--include={}", PACKAGES.join(","))]);
    shell::output(unpack.arg(release()?).arg(&fresh))?;
    arrange(&fresh)?;
    fs::rename(&fresh, &root).with_context(|| format!("cannot move a file to {}", root.display()))
}

/// Returns the Debian release of this machine, whose packages its package sources are sure to have.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no Debian release")?.trim_matches('"').to_owned())
}

fn arrange(root: &Path) -> Result<()> {
    for name in NEEDLESS {
        let path = root.join(name);
        match fs::symlink_metadata(&path) {
            Ok(m) if m.is_dir() => fs::remove_dir_all(&path)?,
            Ok(_) => fs::remove_file(&path)?,
            Err(_) => {}
        }
    }
    for (name, target) in LINKS {
        link(&root.join(name), target)?;
    }
    for name in BUSYBOX {
        let present =
            ["bin", "usr/bin", "sbin", "usr/sbin"].iter().any(|d| root.join(d).join(name).symlink_metadata().is_ok());
        if !present {
            symlink("busybox", root.join("bin").join(name))?;
        }
    }
    let etc = |file: &str, text: &str| fs::write(root.join("etc").join(file), text);
    etc("passwd", PASSWD)?;
    etc("group", GROUP)?;
    etc("nsswitch.conf", "hosts: files dns\n")?;
    etc("shells", "")?;
    // Number of attempts of busybox's wget, which this script replaces.
    etc("wgetrc", "tries = 1\n")?;
    Ok(())
}

fn link(path: &Path, target: &str) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path)?;
    }
    symlink(target, path).with_context(|| format!("cannot create the link {}", path.display()))
}
