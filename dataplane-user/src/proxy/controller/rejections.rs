//! The rejections at present, by the object, file or Service that they come from.
//!
//! Filled by `Core` and `Pipeline` from the sources' rejections and from each round; read by the
//! snapshot, which the log, the metrics and the Events show. It never changes what is served.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;
use tracing::warn;

use super::snapshot::MAX_REJECTIONS;
use crate::proxy::reconcile::ids::ServiceId;
use crate::proxy::source::{MAX_OF_OBJECT, ObjectKey, ObjectKind, Rejection, RejectionOrigin};

/// All present rejections. Empty in a healthy cluster, so that it costs nothing there.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    /// Found while reading.
    read: BTreeMap<RejectionOrigin, Vec<Rejection>>,
    /// Found while deriving, assigning or writing.
    service: HashMap<ServiceId, Vec<Rejection>>,
    shown: Option<Arc<[Rejection]>>,
}

impl Rejections {
    /// Adds a rejection. Of an object, only the first one is logged, and [`MAX_OF_OBJECT`] are
    /// kept.
    pub(super) fn add(&mut self, rejection: Rejection) {
        self.shown = None;
        let known = self.read.entry(rejection.origin.clone()).or_default();
        if known.is_empty() || matches!(rejection.origin, RejectionOrigin::File { .. }) {
            warn!(%rejection, "object rejected");
        }
        if known.len() < MAX_OF_OBJECT && !known.contains(&rejection) {
            known.push(rejection);
        }
    }

    /// Removes the rejections of an object that was replaced or deleted.
    pub(super) fn clear_object(&mut self, kind: ObjectKind, key: &ObjectKey) {
        if !self.read.is_empty() && self.read.remove(&RejectionOrigin::Object { kind, key: key.clone() }).is_some() {
            self.shown = None;
        }
    }

    /// Removes the rejections of all objects of a kind, which are about to be listed again.
    pub(super) fn clear_kind(&mut self, of: ObjectKind) {
        let before = self.read.len();
        self.read.retain(|origin, _| !matches!(origin, RejectionOrigin::Object { kind, .. } if *kind == of));
        if self.read.len() != before {
            self.shown = None;
        }
    }

    pub(super) fn clear_file(&mut self, path: &Path) {
        if !self.read.is_empty() && self.read.remove(&RejectionOrigin::File { path: path.into() }).is_some() {
            self.shown = None;
        }
    }

    /// Replaces the rejections of a Service. The log gets one line, with the first new one.
    pub(super) fn set_service(&mut self, id: ServiceId, mut found: Vec<Rejection>) {
        found.truncate(MAX_OF_OBJECT);
        if found.is_empty() {
            if !self.service.is_empty() && self.service.remove(&id).is_some() {
                self.shown = None;
            }
            return;
        }
        let known = self.service.get(&id);
        if known != Some(&found) {
            let mut new = found.iter().filter(|r| known.is_none_or(|k| !k.contains(r)));
            if let Some(rejection) = new.next() {
                warn!(%rejection, more = new.count(), "Service rejected");
            }
            self.service.insert(id, found);
            self.shown = None;
        }
    }

    /// Returns the Services with rejections.
    pub(super) fn services(&self) -> Vec<ServiceId> {
        self.service.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.read.values().map(Vec::len).sum::<usize>() + self.service.values().map(Vec::len).sum::<usize>()
    }

    pub(super) fn shown(&mut self) -> Arc<[Rejection]> {
        let all = || self.read.values().chain(self.service.values()).flatten().take(MAX_REJECTIONS).cloned().collect();
        self.shown.get_or_insert_with(all).clone()
    }
}
