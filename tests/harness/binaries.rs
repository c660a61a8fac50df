//! Finds the product's binaries in the folder that `cargo xtask` names, never in PATH.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Result, bail};

/// The folder, once [`set`] was called in this process.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// The environment variable that names the folder.
pub const VARIABLE: &str = "ROPEWAY_BIN_DIR";

/// Names the folder for this process, unless [`VARIABLE`] does; only the first call counts.
pub fn look_in(folder: PathBuf) {
    if std::env::var_os(VARIABLE).is_none() {
        FOLDER.get_or_init(|| folder);
    }
}

/// Returns the path of a binary of this project.
///
/// # Errors
/// When the folder is not named or the binary is not in it.
pub fn find(name: &str) -> Result<PathBuf> {
    let named = FOLDER.get().cloned().or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let Some(directory) = named else {
        bail!("{VARIABLE} is not set: run this with `cargo xtask`, which builds the binaries and sets it");
    };
    let path = directory.join(name);
    if !path.is_file() {
        bail!("{} does not exist: build it with `cargo xtask build`", path.display());
    }
    Ok(path)
}
