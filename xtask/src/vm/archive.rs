//! Writes the machine's initial file system in the format that the kernel unpacks (cpio, "newc").

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// File types of a directory and a regular file in `st_mode`.
const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

/// An archive under construction.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a file and its parent folders.
    pub(crate) fn file(&mut self, place: &str, data: &[u8], program: bool) {
        let place = place.trim_start_matches('/');
        let mut parent = Path::new(place).parent();
        let mut missing = Vec::new();
        while let Some(directory) = parent.filter(|directory| *directory != Path::new("")) {
            missing.push(directory.to_string_lossy().into_owned());
            parent = directory.parent();
        }
        for directory in missing.into_iter().rev() {
            if self.directories.insert(directory.clone()) {
                self.entry(&directory, DIRECTORY, &[]);
            }
        }
        self.entry(place, if program { PROGRAM } else { FILE }, data);
    }

    /// Adds a file of this system; symbolic links are followed.
    pub(crate) fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let data = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(&to.to_string_lossy(), &data, true);
        Ok(())
    }

    /// Adds a program without debug information.
    pub(crate) fn stripped(&mut self, from: &Path, to: &Path, scratch: &Path) -> Result<()> {
        let small = scratch.join("stripped");
        shell::run(Command::new("strip").arg("-o").arg(&small).arg(from))?;
        self.copy(&small, to)?;
        std::fs::remove_file(&small).with_context(|| format!("cannot remove {}", small.display()))
    }

    /// Returns the finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = u32::MAX; // the kernel wants 0 in the trailer
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.inode = self.inode.wrapping_add(1);
        let fields = [self.inode, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_files_and_only_once() {
        let mut archive = Archive::default();
        archive.file("/a/b/one", b"1", true);
        archive.file("a/b/two", b"22", false);
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5, "a, a/b, two files, trailer");
        assert!(text.find("a/b\0").unwrap() < text.find("a/b/one").unwrap());
        assert_eq!(bytes.len() % 4, 0);
        assert!(text.contains("TRAILER!!!"));
    }
}
