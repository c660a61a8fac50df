//! Packs a directory as a reproducible layer: a tar file that depends on content only.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A packed layer in a temporary file.
#[derive(Clone, Debug)]
pub struct Layer {
    pub(super) path: PathBuf,
    pub(super) digest: String,
    pub(super) size: u64,
}

impl Layer {
    /// Packs the files of a directory: owned by root, dated 1970, ordered by name.
    pub fn of_directory(directory: &Path, file: &Path) -> Result<Self> {
        let out = File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
        let mut tar = Builder::new(Hashing { inner: BufWriter::new(out), hash: Sha256::new(), size: 0 });
        append(&mut tar, directory, Path::new("")).with_context(|| format!("cannot pack {}", directory.display()))?;
        let mut written = tar.into_inner()?;
        written.flush()?;
        Ok(Self { path: file.into(), digest: hex(&written.hash.finalize()), size: written.size })
    }

    /// Deletes the layer's file.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

/// Returns the SHA-256 digest of bytes in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

fn append<W: Write>(tar: &mut Builder<W>, directory: &Path, name: &Path) -> Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        let metadata = fs::symlink_metadata(&path)?;
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, name.join(""), io::empty())?;
            append(tar, &path, &name)?;
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, &name, fs::read_link(&path)?)?;
        } else if kind.is_file() {
            header.set_size(metadata.len());
            tar.append_data(&mut header, &name, File::open(&path)?)?;
        } else {
            bail!("{}: neither file nor directory nor symbolic link", path.display());
        }
    }
    Ok(())
}

/// A writer that forwards bytes and computes their digest.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_depends_on_content_only() {
        let dir = std::env::temp_dir().join(format!("rw-layer-{}", std::process::id()));
        let (one, two) = (dir.join("1"), dir.join("2"));
        for root in [&one, &two] {
            fs::create_dir_all(root.join("etc")).unwrap();
            fs::write(root.join("etc/file"), "text").unwrap();
            std::os::unix::fs::symlink("file", root.join("etc/link")).unwrap();
        }
        let layers = [(&one, "a"), (&two, "b")].map(|(d, f)| Layer::of_directory(d, &dir.join(f)).unwrap());
        assert_eq!(layers[0].digest, layers[1].digest);
        assert_eq!(layers[0].size, fs::metadata(&layers[0].path).unwrap().len());
        fs::write(two.join("etc/file"), "other").unwrap();
        assert_ne!(Layer::of_directory(&two, &dir.join("b")).unwrap().digest, layers[0].digest);
        fs::remove_dir_all(dir).unwrap();
    }
}
