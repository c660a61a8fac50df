//! Network namespaces: open, enter for a moment, make.
//!
//! A thread enters a namespace to open a socket or to write to `/proc/sys/net` there, and leaves at once.

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
    /// The namespace at a path such as `/run/netns/x` or `/proc/1/ns/net`. What the path leads to is only checked when it is entered.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: File::open(path)?.into() })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new namespace without a name; it ends with the last descriptor, process or mount of it.
    ///
    /// # Errors
    /// Not privileged, or no memory.
    pub fn new() -> io::Result<Self> {
        let make = || {
            #[expect(deprecated, reason = "the flag that makes it unsafe, FILES, is not used")]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            Self::current()
        };
        std::thread::spawn(make).join().map_err(|_| io::Error::other("the thread that makes a namespace has died"))?
    }

    /// Moves the calling thread here, for good.
    ///
    /// # Errors
    /// `EINVAL`: not a network namespace; `EPERM`: not privileged.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Runs `f` with the calling thread here and moves the thread back to `home`.
    ///
    /// # Errors
    /// As [`Self::enter`]. When the way back fails, the thread is in the wrong namespace and must end.
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
