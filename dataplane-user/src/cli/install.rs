//! `install-plugin`: puts the CNI plugin where container runtimes look for it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::View;

const PLUGIN: &str = "ropeway-cni";

/// Why the plugin is not there.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct InstallError {
    path: PathBuf,
    source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError { path, source }
}

/// What was done.
#[derive(Debug, Serialize)]
pub struct Installed {
    version: u32,
    path: PathBuf,
    changed: bool,
}

/// Copies the plugin that lies beside this program; a runtime that starts it meanwhile gets the old one or the new one.
///
/// # Errors
/// There is no plugin beside this program, or the directory can't be written.
pub fn plugin(directory: &Path) -> Result<Installed, InstallError> {
    let this = std::env::current_exe().map_err(at(Path::new("/proc/self/exe")))?;
    copy(&this.with_file_name(PLUGIN), directory)
}

fn copy(source: &Path, directory: &Path) -> Result<Installed, InstallError> {
    let path = directory.join(PLUGIN);
    let wanted = fs::read(source).map_err(at(source))?;
    if fs::read(&path).is_ok_and(|present| present == wanted) {
        return Ok(Installed { version: super::SCHEMA, path, changed: false });
    }
    replace(&wanted, &path, directory).map_err(at(&path))?;
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
        let what = if self.changed { "installed" } else { "is there already" };
        format!("{} {what}\n", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_replaced_only_by_another() {
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
        assert!(message.starts_with("/nonexistent/ropeway-cni: "), "{message}");
    }
}
