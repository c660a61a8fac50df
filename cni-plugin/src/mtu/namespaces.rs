//! Finds a network namespace by its id: first among those that runtimes keep by name, then among
//! those of processes.
//!
//! Used when the MTU of running pods changes. Opens regular files of nsfs only.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dataplane_host::netlink::Socket;
use dataplane_host::netns::Netns;

use crate::error::CniError;

/// The directory in which runtimes, and `ip netns`, keep namespaces by name.
const KEPT: &str = "/run/netns";

/// Finds namespaces by id and remembers their paths.
#[derive(Debug, Default)]
pub(super) struct NamespaceFinder {
    paths: HashMap<i32, PathBuf>,
    /// Number of places already searched.
    searched: usize,
}

impl NamespaceFinder {
    /// Returns the namespace with that id, if a path leads to it.
    pub(super) fn find(&mut self, socket: &mut Socket, number: i32) -> Result<Option<Netns>, CniError> {
        const PLACES: [fn() -> Vec<PathBuf>; 2] = [kept, of_processes];
        loop {
            if let Some(path) = self.paths.get(&number)
                && let Some((found, netns)) = look(socket, path)?
                && found == number
            {
                return Ok(Some(netns));
            }
            let Some(place) = PLACES.get(self.searched) else { return Ok(None) };
            self.searched += 1;
            for path in place() {
                if let Some((found, _)) = look(socket, &path)? {
                    self.paths.entry(found).or_insert(path);
                }
            }
        }
    }
}

/// Opens a path; `None` if it is not a network namespace with an id.
fn look(socket: &mut Socket, path: &Path) -> Result<Option<(i32, Netns)>, CniError> {
    // Opening other kinds of files may have effects or block, as with a pipe.
    if !fs::metadata(path).is_ok_and(|found| found.is_file()) {
        return Ok(None);
    }
    let Ok(netns) = Netns::open(path) else { return Ok(None) };
    match socket.netns_number(netns.as_fd()) {
        Ok(number) => Ok(number.map(|number| (number, netns))),
        Err(e) if e.refusal().is_some() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn kept() -> Vec<PathBuf> {
    entries(Path::new(KEPT))
}

/// Returns one path for each namespace that a process is in.
fn of_processes() -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let paths = entries(Path::new("/proc")).into_iter().map(|process| process.join("ns/net"));
    paths.filter(|path| fs::metadata(path).is_ok_and(|found| seen.insert(found.ino()))).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
