//! Where the product's binaries are: in the folder that `cargo xtask` names, never in PATH.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// The environment variable that names the folder.
pub const VARIABLE: &str = "ROPEWAY_BIN_DIR";

/// The path of a binary of this project.
///
/// # Errors
/// When the folder is not named or the binary is not in it.
pub fn find(name: &str) -> Result<PathBuf> {
    let Some(directory) = std::env::var_os(VARIABLE) else {
        bail!("{VARIABLE} is not set: run this by `cargo xtask`, which builds the binaries");
    };
    let path = PathBuf::from(directory).join(name);
    if !path.is_file() {
        bail!("{}: not there: `cargo xtask build` makes it", path.display());
    }
    Ok(path)
}
