//! Files that are replaced as a whole: a reader sees the old content or the new one, also after a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

/// Replaces `path` unless it says just that; says whether it was written. The new content is written to `next`, in the same directory, which
/// is made with the permissions `mode`, less the process's umask.
///
/// # Errors
/// The directory can't be written.
pub fn replace(path: &Path, next: &Path, mode: u32, content: &[u8]) -> io::Result<bool> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(next)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(next, path)?;
    File::open(directory)?.sync_all()?;
    Ok(true)
}

/// As [`replace`]: the file `name` of a directory, as one line of JSON that only its owner may read.
///
/// # Errors
/// The directory can't be written.
pub fn write_json<T: Serialize>(directory: &Path, name: &str, content: &T) -> io::Result<bool> {
    let mut text = serde_json::to_vec(content)?;
    text.push(b'\n');
    replace(&directory.join(name), &directory.join(format!(".{name}.next")), 0o600, &text)
}
