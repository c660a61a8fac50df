//! A directory of the store: all access goes through its descriptor, symbolic links are never
//! followed, errors name the path.
//!
//! Used by the other modules of the store only. Keeps directories at mode 0700 and files at 0600.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::StoreError;
use crate::contract;

const DIRECTORY_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// An open directory and its path for error messages.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// Identity of a file: device and inode number.
pub(super) type FileNumber = (u64, u64);

impl Directory {
    /// Opens the state directory, or creates it (its parent must exist).
    ///
    /// Other permissions than 0700 are changed only if the directory is Ropeway's: a wrong setting,
    /// such as `/etc`, must not close a directory of the system.
    pub(super) fn make(path: &Path) -> Result<Self, StoreError> {
        let open = || {
            let (directory, mode) = Self::open_as_is(CWD, path, path.into())?;
            if is_open(mode) && !contract::is_state_dir(directory.names()?.iter().map(String::as_str)) {
                let reason = contract::NOT_A_STATE_DIR.into();
                return Err(StoreError::Unsafe { path: path.into(), reason });
            }
            directory.close_to_others(mode)
        };
        match open() {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                make_directory(CWD, path, path)?;
                open()
            }
            other => other,
        }
    }

    /// Opens a subdirectory, or creates it.
    pub(super) fn subdirectory(&self, name: &str) -> Result<Self, StoreError> {
        let path = self.path.join(name);
        match Self::open_at(&self.fd, Path::new(name), path.clone()) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                make_directory(&self.fd, Path::new(name), &path)?;
                self.sync()?;
                Self::open_at(&self.fd, Path::new(name), path)
            }
            other => other,
        }
    }

    fn open_at(at: impl rustix::fd::AsFd, name: &Path, path: PathBuf) -> Result<Self, StoreError> {
        let (directory, mode) = Self::open_as_is(at, name, path)?;
        directory.close_to_others(mode)
    }

    /// Opens a directory of this user, and returns its mode.
    fn open_as_is(at: impl rustix::fd::AsFd, name: &Path, path: PathBuf) -> Result<(Self, u32), StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(at, name, flags, Mode::empty()).map_err(|e| fail("open", &path, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| fail("stat", &path, e))?;
        let own = rustix::process::geteuid().as_raw();
        if stat.st_uid != own {
            let reason = format!("belongs to user {}, not to {own}", stat.st_uid);
            return Err(StoreError::Unsafe { path, reason });
        }
        Ok((Self { fd, path }, stat.st_mode))
    }

    fn close_to_others(self, mode: u32) -> Result<Self, StoreError> {
        if is_open(mode) {
            rustix::fs::fchmod(&self.fd, DIRECTORY_MODE).map_err(|e| fail("set mode 0700", &self.path, e))?;
        }
        Ok(self)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn io(&self, attempt: &'static str, name: &str, source: impl Into<io::Error>) -> StoreError {
        StoreError::Io { attempt, path: self.path.join(name), source: source.into() }
    }

    /// Opens a file for reading and writing, or creates it.
    pub(super) fn open_or_create(&self, name: &str) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, FILE_MODE).map_err(|e| self.io("open", name, e))?;
        Ok(fd.into())
    }

    /// Creates a locked file that must not exist, with that content, which is not yet on the disk.
    pub(super) fn create(&self, name: &str, content: &[u8]) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, FILE_MODE).map_err(|e| self.io("make", name, e))?;
        let file = File::from(fd);
        let written = file.try_lock().map_err(io::Error::from).and_then(|()| file.write_all_at(content, 0));
        if let Err(e) = written {
            self.remove(name)?;
            return Err(self.io("write", name, e));
        }
        Ok(file)
    }

    /// Opens a regular file for reading; `None` if there is none.
    pub(super) fn open(&self, name: &str) -> Result<Option<File>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.io("open", name, e)),
        }
    }

    /// Reads a file; longer content is cut one byte after `most`. `None` if there is no such file.
    pub(super) fn read(&self, name: &str, most: usize) -> Result<Option<(Vec<u8>, File)>, StoreError> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        Ok(Some((self.content(name, &file, most)?, file)))
    }

    /// Reads an open file of that name; longer content is cut one byte after `most`.
    pub(super) fn content(&self, name: &str, mut file: &File, most: usize) -> Result<Vec<u8>, StoreError> {
        let mut content = Vec::with_capacity(512);
        file.by_ref().take(most as u64 + 1).read_to_end(&mut content).map_err(|e| self.io("read", name, e))?;
        Ok(content)
    }

    /// Returns the identity of the file with a name, without following symbolic links.
    pub(super) fn number(&self, name: &str) -> Result<Option<FileNumber>, StoreError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(Stat { st_dev, st_ino, .. }) => Ok(Some((st_dev, st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.io("stat", name, e)),
        }
    }

    /// Links a file of this directory to a name in another. Returns whether the name was free.
    pub(super) fn link(&self, name: &str, to: &Self, new_name: &str) -> Result<bool, StoreError> {
        match rustix::fs::linkat(&self.fd, name, &to.fd, new_name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(to.io("link", new_name, e)),
        }
    }

    /// Moves a file to another directory and replaces a file with the same name there.
    pub(super) fn rename(&self, name: &str, to: &Self, new_name: &str) -> Result<(), StoreError> {
        rustix::fs::renameat(&self.fd, name, &to.fd, new_name).map_err(|e| self.io("set aside", name, e))
    }

    /// Removes a name. A missing name is not an error.
    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.io("remove", name, e)),
        }
    }

    /// Waits until the names are on the disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.fd).map_err(|e| fail("sync", &self.path, e))
    }

    /// Lists the names in this directory.
    pub(super) fn names(&self) -> Result<Vec<String>, StoreError> {
        let entries = Dir::read_from(&self.fd).map_err(|e| fail("list", &self.path, e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| fail("list", &self.path, e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Returns true if other users may read, change or enter a directory of this mode.
const fn is_open(mode: u32) -> bool {
    mode & 0o077 != 0
}

/// Returns the identity of an open file.
pub(super) fn number(file: &File) -> io::Result<FileNumber> {
    file.metadata().map(|m| (m.dev(), m.ino()))
}

fn make_directory(at: impl rustix::fd::AsFd, name: &Path, path: &Path) -> Result<(), StoreError> {
    match rustix::fs::mkdirat(at, name, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(fail("make", path, e)),
    }
}

fn fail(attempt: &'static str, path: &Path, source: Errno) -> StoreError {
    StoreError::io(attempt, path, source.into())
}
