//! `ropeway install-plugin`: copies the CNI plugin to the directory of the container runtime.
//!
//! An init container of the `DaemonSet` calls it. The new file is written beside the old one and
//! renamed over it, so a runtime that starts the plugin meanwhile runs the old or the new version.
//! A plugin with the same content is not written again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dataplane_host::durable;
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
    let content = fs::read(source).map_err(failed("read the plugin", source))?;
    let next = directory.join(format!(".{PLUGIN}.next"));
    let changed = durable::replace(&path, &next, durable::Mode::Exact(0o755), &content)
        .map_err(failed("write the plugin", &path))?;
    Ok(Installed { version: super::SCHEMA, path, changed })
}

impl View for Installed {
    fn text(&self) -> String {
        let what = if self.changed { "installed" } else { "already up to date" };
        format!("{}: {what}\n", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
