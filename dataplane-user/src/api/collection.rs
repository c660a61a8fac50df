//! Names the objects that a list or a watch is about, and builds the requests for them.
//!
//! Used by [`ListWatch`](super::ListWatch), which sends the requests.

use hyper::Request;
use kube::Resource;
use kube::api::{ListParams, VersionMatch, WatchParams};
use kube::core::Request as Target;

use super::list_watch::WatchError;

/// The objects to watch.
#[derive(Clone, Debug)]
pub struct Collection {
    path: String,
    labels: Option<String>,
    fields: Option<String>,
    metadata: bool,
    pub(super) latest: bool,
    pub(super) patient: bool,
}

impl Collection {
    /// Returns the collection of all objects of a kind.
    #[must_use]
    pub fn all<K: Resource<DynamicType = ()>>() -> Self {
        let path = K::url_path(&(), None);
        Self { path, labels: None, fields: None, metadata: K::metadata_api(), latest: false, patient: false }
    }

    /// Restricts it to objects with matching labels.
    #[must_use]
    pub fn labels(self, selector: &str) -> Self {
        Self { labels: Some(selector.into()), ..self }
    }

    /// Restricts it to objects with matching fields.
    #[must_use]
    pub fn fields(self, selector: &str) -> Self {
        Self { fields: Some(selector.into()), ..self }
    }

    /// Has each list show at least what was there when it was asked for, which costs the API server
    /// a look at etcd. For objects whose old state must not come back after a restart.
    #[must_use]
    pub fn latest(self) -> Self {
        Self { latest: true, ..self }
    }

    /// Has the watch wait for a minute or two when its connection has ended. For objects that
    /// change seldom: when an API server is restarted, all nodes open all watches again.
    #[must_use]
    pub fn patient(self) -> Self {
        Self { patient: true, ..self }
    }

    /// Returns the request for a list, or for its next page with a `token`.
    pub(super) fn list(&self, version: Option<&str>, token: Option<String>) -> Result<Request<Vec<u8>>, WatchError> {
        // With a page size `kube` would not send version 0, and the list would come from etcd.
        let params = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            version_match: version.map(|_| VersionMatch::NotOlderThan),
            resource_version: version.map(Into::into),
            continue_token: token,
            ..ListParams::default()
        };
        let request = Target::new(&self.path);
        let request = if self.metadata { request.list_metadata(&params) } else { request.list(&params) };
        request.map_err(|e| WatchError::List(kube::Error::BuildRequest(e)))
    }

    /// Returns the request for a watch from a version on, or with `initial` from the beginning.
    pub(super) fn watch(&self, version: &str, seconds: u32, initial: bool) -> Result<Request<Vec<u8>>, WatchError> {
        let params = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: Some(seconds),
            bookmarks: true,
            send_initial_events: initial,
        };
        let request = Target::new(&self.path);
        let request =
            if self.metadata { request.watch_metadata(&params, version) } else { request.watch(&params, version) };
        request.map_err(|e| WatchError::Watch(kube::Error::BuildRequest(e)))
    }
}
