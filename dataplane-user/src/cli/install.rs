//! `ropeway install-plugin`: copies the CNI plugin to the directory of the container runtime.
//!
//! An init container of the `DaemonSet` calls it. The new file is written beside the old one and
//! renamed over it, so a runtime that starts the plugin meanwhile runs the old or the new version.
//! A plugin with the same content is not written again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::View;

const PLUGIN: &str = "ropeway-cni";

/// Error of a file operation, with the attempt and the file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} {}: {source}", path.display())]
pub struct InstallError {
    attempt: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError { attempt, path, source }
}

/// The view of `ropeway install-plugin`.
#[derive(Debug, Serialize)]
pub struct Installed {
    version: u32,
    path: PathBuf,
    changed: bool,
}

/// Copies `ropeway-cni` from the directory of this program.
///
/// # Errors
/// There is no plugin beside this program, or `directory` is not writable.
pub fn plugin(directory: &Path) -> Result<Installed, InstallError> {
    let this = std::env::current_exe().map_err(failed("find", Path::new("/proc/self/exe")))?;
    copy(&this.with_file_name(PLUGIN), directory)
}

fn copy(source: &Path, directory: &Path) -> Result<Installed, InstallError> {
    let path = directory.join(PLUGIN);
    let wanted = fs::read(source).map_err(failed("read the plugin", source))?;
    if fs::read(&path).is_ok_and(|present| present == wanted) {
        return Ok(Installed { version: super::SCHEMA, path, changed: false });
    }
    replace(&wanted, &path, directory).map_err(failed("write the plugin", &path))?;
    Ok(Installed { version: super::SCHEMA, path, changed: true })
}

fn replace(bytes: &[u8], path: &Path, directory: &Path) -> io::Result<()> {
    let fresh = directory.join(format!(".{PLUGIN}.next"));
    fs::write(&fresh, bytes)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(directory)?.sync_all()
}

impl View for Installed {
    fn text(&self) -> String {
        let what = if self.changed { "installed" } else { "already up to date" };
        format!("{}: {what}\n", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_is_replaced_only_by_different_content() {
        let dir = tempfile::tempdir().unwrap();
        let (source, to) = (dir.path().join("plugin"), dir.path().join("bin"));
        fs::create_dir(&to).unwrap();
        fs::write(&source, "one").unwrap();
        assert!(copy(&source, &to).unwrap().changed);
        assert!(!copy(&source, &to).unwrap().changed);
        fs::write(&source, "two").unwrap();
        assert!(copy(&source, &to).unwrap().changed);
        assert_eq!(fs::read_to_string(to.join(PLUGIN)).unwrap(), "two");
        assert_eq!(fs::metadata(to.join(PLUGIN)).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
        let message = format!("{:#}", copy(&source, Path::new("/nonexistent")).unwrap_err());
        assert!(message.starts_with("cannot write the plugin /nonexistent/ropeway-cni: "), "{message}");
    }
}
