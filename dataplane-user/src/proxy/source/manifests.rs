//! A directory of ordinary manifests, for load balancing without a cluster.
//!
//! Files whose names end in `.yaml`, `.yml` or `.json` count, those that start with a dot and subdirectories do not. A file is read when its writer
//! has closed it or it was moved here; a broken one is reported and its last good state stays. Nothing is ever written here.

mod files;
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

/// Why the source could not start.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// The directory can't be read or watched.
    #[error("manifest directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// How often a directory that has vanished is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// Reads and watches until the receiver is gone.
///
/// # Errors
/// The directory can't be read or watched at the start; if it vanishes later, its last state stays until it is back.
pub async fn run(directory: PathBuf, node_name: &str, tx: EventSender) -> Result<(), ManifestsError> {
    let failed = |source| ManifestsError::Directory { path: directory.clone(), source };
    let mut files = Files::new(&directory, node_name);
    let mut stream = watch(&directory).map_err(failed)?;
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
            FileChange::NewEntry(name) if files.is_link(&name) => files.read(&name),
            FileChange::NewEntry(_) => Vec::new(),
            FileChange::Any => scan(&mut files, &directory),
            FileChange::DirectoryGone => {
                warn!(directory = %directory.display(), "the manifest directory is gone; its last state stays");
                let Some(new) = wait_for(&directory, &tx).await else { return Ok(()) };
                stream = new;
                info!(directory = %directory.display(), "the manifest directory is back");
                scan(&mut files, &directory)
            }
        };
    }
    Ok(())
}

fn scan(files: &mut Files, directory: &Path) -> Vec<SourceEvent> {
    files.scan().unwrap_or_else(|error| {
        warn!(directory = %directory.display(), %error, "the manifest directory can't be read; its last state stays");
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
    /// Something new, which may not have been written yet.
    NewEntry(OsString),
    /// Nobody knows what.
    Any,
    DirectoryGone,
}

async fn next_change(stream: &mut Stream) -> FileChange {
    loop {
        let event = match stream.next().await {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                warn!(%error, "inotify");
                return FileChange::Any;
            }
            None => return FileChange::DirectoryGone,
        };
        let gone = EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::MOVE_SELF;
        match event.name {
            _ if event.mask.intersects(EventMask::Q_OVERFLOW) => return FileChange::Any,
            _ if event.mask.intersects(gone) => return FileChange::DirectoryGone,
            // A mounted ConfigMap switches all its files at once by renaming a link of such a name.
            Some(name) if name.as_encoded_bytes().starts_with(b"..") => return FileChange::Any,
            Some(name) if event.mask.intersects(EventMask::CREATE) => return FileChange::NewEntry(name),
            Some(name) => return FileChange::File(name),
            None => {}
        }
    }
}
