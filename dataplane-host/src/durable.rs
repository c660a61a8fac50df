//! Files that are replaced as a whole.
//!
//! A reader sees the old content or the new one, never a part, also after a power cut: the new
//! content goes to a second file in the same directory, reaches the disk, and is renamed over the
//! old one. Agent and command line write with it; the address store does not, because its files are
//! created once and never replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::Serialize;

/// Permissions of a file that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The bits without those of the process's umask, as open(2) applies it.
    Masked(u32),
    /// The bits as given, whatever the umask is.
    Exact(u32),
}

/// Replaces `path` unless it has this content, and with [`Mode::Exact`] these permissions, already.
/// Returns whether it was written. The new content goes through `next`, a name in the same
/// directory.
///
/// # Errors
/// The directory cannot be written.
pub fn replace(path: &Path, next: &Path, mode: Mode, content: &[u8]) -> io::Result<bool> {
    if fs::read(path).is_ok_and(|present| present == content) && has_mode(path, mode) {
        return Ok(false);
    }
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let (Mode::Masked(bits) | Mode::Exact(bits)) = mode;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(bits).open(next)?;
    if let Mode::Exact(bits) = mode {
        file.set_permissions(fs::Permissions::from_mode(bits))?;
    }
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(next, path)?;
    File::open(directory)?.sync_all()?;
    Ok(true)
}

/// Returns false if the permissions of a file are not exactly those that it must have.
fn has_mode(path: &Path, mode: Mode) -> bool {
    let Mode::Exact(bits) = mode else { return true };
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o7777 == bits)
}

/// Replaces the file `name` of a directory by one line of JSON that only its owner may read.
/// Returns whether it was written.
///
/// # Errors
/// As [`replace`].
pub fn write_json<T: Serialize>(directory: &Path, name: &str, content: &T) -> io::Result<bool> {
    let mut text = serde_json::to_vec(content)?;
    text.push(b'\n');
    replace(&directory.join(name), &directory.join(format!(".{name}.next")), Mode::Masked(0o600), &text)
}
