//! The manifest source: a directory of ordinary manifests, for load balancing without a cluster.
//!
//! Reads files whose names end in `.yaml`, `.yml` or `.json`; hidden files and subdirectories are
//! ignored. A file is read when its writer has closed it or when it was moved into the directory.
//! An invalid file is reported, and the objects of its last valid version stay. Nothing is ever
//! written to the directory.

mod files;
#[cfg(test)]
mod fuzz;
mod parse;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tracing::{info, warn};

use super::{EventSender, ObjectKind, SourceEvent};
use files::Files;

/// The reason why the source could not start.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// The directory can't be read or watched.
    #[error("manifest directory {}: {source}", path.display())]
    Directory {
        /// Path of the directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Interval at which a missing directory is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// Reads and watches the directory until the receiver is dropped.
///
/// # Errors
/// The directory can't be read or watched at the start. If it is removed later, its last state
/// stays until it is back.
pub async fn run(directory: PathBuf, node_name: &str, tx: EventSender) -> Result<(), ManifestsError> {
    let failed = |source| ManifestsError::Directory { path: directory.clone(), source };
    let mut files = Files::new(&directory, node_name);
    let mut stream = watch(&directory).map_err(failed)?;
    // The watch starts before the first scan, so that no change in between is missed.
    let mut events: Vec<SourceEvent> = ObjectKind::ALL.map(SourceEvent::Relist).into();
    events.extend(files.scan().map_err(failed)?);
    events.extend(ObjectKind::ALL.map(SourceEvent::InSync));
    while send(&tx, events).await {
        let change = tokio::select! {
            () = tx.closed() => return Ok(()),
            change = next_change(&mut stream) => change,
        };
        events = match change {
            FileChange::File(name) => files.read(&name),
            // A link is never closed by a writer. A plain new file is: its close event follows.
            FileChange::NewEntry(name) if files.is_link(&name) => files.read(&name),
            FileChange::NewEntry(_) => Vec::new(),
            FileChange::Any => scan(&mut files, &directory),
            FileChange::DirectoryGone => {
                warn!(directory = %directory.display(), "manifest directory was removed: its last state stays");
                let Some(new) = wait_for(&directory, &tx).await else { return Ok(()) };
                stream = new;
                info!(directory = %directory.display(), "manifest directory is back");
                scan(&mut files, &directory)
            }
        };
    }
    Ok(())
}

fn scan(files: &mut Files, directory: &Path) -> Vec<SourceEvent> {
    files.scan().unwrap_or_else(|error| {
        warn!(directory = %directory.display(), %error, "cannot read the manifest directory: its last state stays");
        Vec::new()
    })
}

async fn send(tx: &EventSender, events: Vec<SourceEvent>) -> bool {
    for event in events {
        if tx.send(event).await.is_err() {
            return false;
        }
    }
    true
}

type Stream = EventStream<Vec<u8>>;

fn watch(directory: &Path) -> io::Result<Stream> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::CREATE
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    inotify.watches().add(directory, mask)?;
    inotify.into_event_stream(vec![0; 4096])
}

async fn wait_for(directory: &Path, tx: &EventSender) -> Option<Stream> {
    loop {
        tokio::select! {
            () = tx.closed() => return None,
            () = tokio::time::sleep(RETRY) => {}
        }
        if let Ok(stream) = watch(directory) {
            return Some(stream);
        }
    }
}

enum FileChange {
    /// A file was written, moved or removed.
    File(OsString),
    /// A new entry, which its writer may not have closed yet.
    NewEntry(OsString),
    /// Unknown changes: the whole directory must be read.
    Any,
    DirectoryGone,
}

async fn next_change(stream: &mut Stream) -> FileChange {
    loop {
        let event = match stream.next().await {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                warn!(%error, "inotify failed: reading the whole manifest directory");
                return FileChange::Any;
            }
            None => return FileChange::DirectoryGone,
        };
        let gone = EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::MOVE_SELF;
        match event.name {
            _ if event.mask.intersects(EventMask::Q_OVERFLOW) => return FileChange::Any,
            _ if event.mask.intersects(gone) => return FileChange::DirectoryGone,
            // A mounted ConfigMap replaces all its files at once by renaming the link `..data`.
            Some(name) if name.as_encoded_bytes().starts_with(b"..") => return FileChange::Any,
            Some(name) if event.mask.intersects(EventMask::CREATE) => return FileChange::NewEntry(name),
            Some(name) => return FileChange::File(name),
            None => {}
        }
    }
}
