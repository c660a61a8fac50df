//! Debian's kernel: downloaded and unpacked, never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use crate::shell;

/// The package that always depends on the current kernel of this Debian.
const META: &str = "linux-image-cloud-amd64";

/// A kernel package, unpacked in the target directory.
pub(crate) struct Kernel {
    /// Release, as `uname -r` prints it.
    pub(crate) release: String,
    /// Path of the bootable image.
    pub(crate) image: PathBuf,
    modules: PathBuf,
}

/// Returns the kernel; downloads it unless that was done before.
pub(crate) fn ensure(directory: &Path) -> Result<Kernel> {
    if let Some(kernel) = unpacked(directory)? {
        return Ok(kernel);
    }
    let package = package()?;
    shell::step(&format!("downloading {package}"));
    let downloads = directory.join("download");
    std::fs::create_dir_all(&downloads).with_context(|| format!("cannot create {}", downloads.display()))?;
    shell::output(Command::new("apt-get").args(["download", "-qq", &package]).current_dir(&downloads))?;
    let file = std::fs::read_dir(&downloads)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_"))));
    let file = file.with_context(|| format!("apt-get has downloaded no file of package {package}"))?;
    shell::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(directory))?;
    std::fs::remove_dir_all(&downloads)?;
    unpacked(directory)?.with_context(|| format!("{package} has no kernel"))
}

/// Returns the name of the package with the kernel itself.
fn package() -> Result<String> {
    let query = || shell::output(Command::new("apt-cache").args(["depends", META]));
    let text = match query() {
        Ok(text) if text.contains("Depends:") => text,
        _ => {
            shell::output(Command::new("apt-get").args(["update", "-qq"]))?;
            query()?
        }
    };
    let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    name.map(str::to_owned).with_context(|| format!("package {META} has no dependency on a kernel package: this system is not Debian, or its package lists are missing"))
}

fn unpacked(directory: &Path) -> Result<Option<Kernel>> {
    let boot = directory.join("boot");
    let Ok(entries) = std::fs::read_dir(&boot) else { return Ok(None) };
    for entry in entries {
        let image = entry?.path();
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            let modules = ["lib/modules", "usr/lib/modules"].map(|place| directory.join(place).join(release));
            let modules = modules.into_iter().find(|place| place.is_dir()).context("the kernel has no modules")?;
            return Ok(Some(Kernel { release: release.to_owned(), image, modules }));
        }
    }
    Ok(None)
}

impl Kernel {
    /// Returns the files of these modules and their dependencies, in loading order.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        collect(&self.modules.join("kernel"), &mut all)?;
        let mut ordered = Vec::new();
        for name in names {
            self.add(name, &all, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add(&self, name: &str, all: &[PathBuf], ordered: &mut Vec<PathBuf>) -> Result<()> {
        // Underscore and hyphen are equivalent in module names.
        let is =
            |path: &&PathBuf| path.file_stem().is_some_and(|stem| stem.to_string_lossy().replace('-', "_") == name);
        let Some(file) = all.iter().find(is) else { bail!("the kernel {} has no module {name}", self.release) };
        if ordered.contains(file) {
            return Ok(());
        }
        let data = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        for needed in needs(&data).with_context(|| format!("cannot parse module {}", file.display()))? {
            self.add(&needed, all, ordered)?;
        }
        ordered.push(file.clone());
        Ok(())
    }
}

/// Returns the modules that a module depends on, from its section `.modinfo`.
fn needs(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("the module has no section .modinfo")?;
    let text = String::from_utf8_lossy(section.data()?).into_owned();
    let depends = text.split('\0').find_map(|entry| entry.strip_prefix("depends=")).unwrap_or_default();
    Ok(depends.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            files.push(path);
        }
    }
    Ok(())
}
