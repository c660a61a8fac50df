//! Network namespaces: open, enter for a moment, create.
//!
//! The plugin enters a pod's namespace to open a netlink socket there or to write below
//! `/proc/sys/net`, and leaves it at once; tests create namespaces. A namespace belongs to a
//! thread, so callers must not await or return between entering and leaving.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A network namespace, kept alive by an open descriptor.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

impl Netns {
    /// Opens the namespace at a path such as `/run/netns/x` or `/proc/1/ns/net`. The kernel checks
    /// only in [`Self::enter`] that the file is a network namespace.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: File::open(path)?.into() })
    }

    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Creates a namespace without a name. It is removed with its last descriptor, process or
    /// mount.
    ///
    /// # Errors
    /// Not privileged, or no memory.
    pub fn new() -> io::Result<Self> {
        let make = || {
            #[expect(deprecated, reason = "the flag that makes it unsafe, FILES, is not used")]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            Self::current()
        };
        std::thread::spawn(make)
            .join()
            .map_err(|_| io::Error::other("the thread that creates a network namespace panicked"))?
    }

    /// Moves the calling thread into this namespace.
    ///
    /// # Errors
    /// `EINVAL`: not a network namespace; `EPERM`: not privileged.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Runs `f` with the calling thread here and moves the thread back to `home`.
    ///
    /// # Errors
    /// As [`Self::enter`]. If moving back to `home` fails, the thread stays in the wrong namespace
    /// and must end.
    pub fn within<R>(&self, home: &Self, f: impl FnOnce() -> R) -> io::Result<R> {
        self.enter()?;
        let result = f();
        home.enter()?;
        Ok(result)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
