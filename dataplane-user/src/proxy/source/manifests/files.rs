//! Tracks which file defines which objects, so that a changed or removed file withdraws exactly its
//! objects.
//!
//! An object that two files define belongs to the first one until that one withdraws it. Reads
//! files; the watch of the directory is in the parent module.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::parse::{ManifestId, ParseError, ParsedFile, parse};
use crate::proxy::source::decode::Decoder;
use crate::proxy::source::{Cause, ObjectKind, Rejection, RejectionOrigin, SourceEvent};

/// The manifest files of the directory.
pub(super) struct Files {
    directory: PathBuf,
    decoder: Decoder,
    /// Objects that each file defines, including those that belong to another file.
    objects: BTreeMap<PathBuf, Vec<ManifestId>>,
    /// The file to which an object belongs: the first that defined it.
    owner: HashMap<ManifestId, PathBuf>,
}

impl Files {
    pub(super) fn new(directory: &Path, node_name: &str) -> Self {
        let decoder = Decoder::new(node_name);
        Self { directory: directory.into(), decoder, objects: BTreeMap::new(), owner: HashMap::new() }
    }

    /// Reads all files, including those that were known and are gone.
    pub(super) fn scan(&mut self) -> io::Result<Vec<SourceEvent>> {
        let mut paths: Vec<PathBuf> = self.objects.keys().cloned().collect();
        for entry in fs::read_dir(&self.directory)? {
            paths.push(entry?.path());
        }
        paths.sort();
        paths.dedup();
        Ok(paths.iter().flat_map(|p| self.read_path(p)).collect())
    }

    /// Reads one file again, or withdraws its objects if it is gone.
    pub(super) fn read(&mut self, name: &OsStr) -> Vec<SourceEvent> {
        self.read_path(&self.directory.join(name))
    }

    /// Returns true for a symbolic or hard link: no writer will close it, so it must be read at
    /// once.
    pub(super) fn is_link(&self, name: &OsStr) -> bool {
        let meta = fs::symlink_metadata(self.directory.join(name));
        meta.is_ok_and(|m| m.file_type().is_symlink() || m.nlink() > 1)
    }

    fn read_path(&mut self, path: &Path) -> Vec<SourceEvent> {
        if !is_manifest(path) {
            return Vec::new();
        }
        let parsed = match fs::read(path) {
            Ok(bytes) => parse(path, &bytes, &mut self.decoder),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let known = self.objects.contains_key(path);
                let mut events = if known { self.replace(path, ParsedFile::default()) } else { Vec::new() };
                self.objects.remove(path);
                events.push(SourceEvent::Cleared(path.into()));
                return events;
            }
            Err(e) => Err(ParseError { document: None, field: String::new(), reason: e.to_string() }),
        };
        match parsed {
            Ok(parsed) => {
                let mut events = vec![SourceEvent::Cleared(path.into())];
                events.extend(self.replace(path, parsed));
                events
            }
            Err(ParseError { document, field, reason }) => {
                // Listed even if it never was valid, so that its removal is noticed.
                self.objects.entry(path.into()).or_default();
                let (origin, cause) = (RejectionOrigin::File { path: path.into() }, Cause::Invalid);
                vec![SourceEvent::Rejected(Rejection { origin, cause, document, field, reason })]
            }
        }
    }

    /// Replaces the objects of a file. Objects that it no longer defines go to another file that
    /// does.
    fn replace(&mut self, path: &Path, parsed: ParsedFile) -> Vec<SourceEvent> {
        let mut events = Vec::new();
        let mut ids = Vec::new();
        for (document, id, object) in parsed.objects {
            if ids.contains(&id) {
                events.push(twice(path, document, &id, path));
                continue;
            }
            ids.push(id.clone());
            match self.owner.get(&id) {
                Some(other) if other != path => events.push(twice(path, document, &id, other)),
                _ => {
                    self.owner.insert(id, path.into());
                    events.extend(object);
                }
            }
        }
        let before = self.objects.insert(path.into(), ids).unwrap_or_default();
        let now = &self.objects[path];
        let lost: Vec<ManifestId> = before.into_iter().filter(|id| !now.contains(id)).collect();
        let mut successors: Vec<PathBuf> = Vec::new();
        for id in lost {
            if self.owner.get(&id).is_some_and(|p| p == path) {
                self.owner.remove(&id);
                successors.extend(self.objects.iter().find(|(_, ids)| ids.contains(&id)).map(|(p, _)| p.clone()));
                events.push(gone(id));
            }
        }
        successors.dedup();
        // A file that also defines a withdrawn object becomes its owner by being read again.
        events.extend(successors.iter().flat_map(|p| self.read_path(p)).collect::<Vec<_>>());
        events
    }
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(OsStr::to_str);
    !hidden && matches!(extension, Some("yaml" | "yml" | "json")) && !path.is_dir()
}

fn twice(path: &Path, document: usize, (kind, key): &ManifestId, first: &Path) -> SourceEvent {
    let reason = format!("{kind} {key} is already defined in {}", first.display());
    let field = "metadata.name".to_owned();
    let (origin, cause) = (RejectionOrigin::File { path: path.into() }, Cause::Invalid);
    SourceEvent::Rejected(Rejection { origin, cause, document: Some(document), field, reason })
}

fn gone((kind, key): ManifestId) -> SourceEvent {
    match kind {
        ObjectKind::Service => SourceEvent::Service(key, None),
        ObjectKind::Slice => SourceEvent::Slice(key, None),
        ObjectKind::Node => SourceEvent::Node(key.name, None),
        ObjectKind::ServiceCidr => SourceEvent::ServiceCidr(key.name, None),
    }
}
