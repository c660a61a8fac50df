//! What the agent tells `ropeway status` about itself: `agent-status.json` in the state directory.
//!
//! [`run`], a task of the agent, writes the file when its content changes; the command line reads
//! it. Traffic and the plugin do not depend on it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dataplane_host::contract::{self, AgentFile};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use crate::api::{Contacts, Stall};
use crate::network::node::status::NodeStatus;
use crate::proxy::controller::Snapshot;

/// Interval at which the content is compared with the file.
const PAUSE: Duration = Duration::from_secs(5);
/// Rejections in the file; the log and the Events have all of them.
const SHOWN: usize = 20;

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentStatus {
    /// Version of the format.
    pub version: u32,
    /// Time of the last change of the other fields, in UTC (RFC 3339).
    pub since: String,
    /// All Services have been in the maps once.
    pub synced: bool,
    /// Kinds of objects that have not been complete once.
    pub waiting_for: Vec<String>,
    /// Kinds of objects that the API server does not tell about, with the time of the last contact.
    pub stalled: Vec<String>,
    /// Time and text of the last error of a watch or of a map; it may have ended since.
    pub last_error: Option<String>,
    /// Settings and devices that an operator should know of.
    pub notes: Vec<String>,
    /// Programs of others at the hooks of Ropeway's programs.
    pub foreign_programs: Vec<String>,
    /// Number of parts of objects and files that can't be used or served.
    pub rejected: usize,
    /// The first of them.
    pub rejections: Vec<String>,
}

impl AgentFile for AgentStatus {
    const NAME: &str = "agent-status.json";
    const VERSIONS: RangeInclusive<u32> = 1..=1;
}

impl AgentStatus {
    /// Returns the status at present, without a time.
    #[must_use]
    pub fn new(snapshot: &Snapshot, stalled: &[Stall], notes: &[String], foreign_programs: Vec<String>) -> Self {
        Self {
            version: *Self::VERSIONS.end(),
            since: String::new(),
            synced: snapshot.synced,
            waiting_for: snapshot.waiting_for.iter().map(|&kind| kind.into()).collect(),
            stalled: stalled.iter().map(describe).collect(),
            last_error: snapshot.last_error.as_ref().map(|(time, text)| format!("{}: {text}", rfc3339(*time))),
            notes: notes.into(),
            foreign_programs,
            rejected: snapshot.rejected,
            rejections: snapshot.rejections.iter().take(SHOWN).map(ToString::to_string).collect(),
        }
    }
}

fn describe(stall: &Stall) -> String {
    match stall.last.map(rfc3339) {
        Some(time) => format!("{}: nothing heard since {time}", stall.kind),
        None => format!("{}: nothing heard yet", stall.kind),
    }
}

fn rfc3339(time: SystemTime) -> String {
    format!("{:.0}", Timestamp::try_from(time).unwrap_or(Timestamp::MIN))
}

/// Keeps the file up to date; `notes`: those that do not change. Returns when the controller has
/// ended.
pub async fn run(
    state_dir: PathBuf,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    contacts: Arc<Contacts>,
    node: Arc<NodeStatus>,
    notes: Vec<String>,
) {
    let (mut written, mut failed) = (None, false);
    loop {
        let all_notes = [notes.clone(), node.notes()].concat();
        let stalled = contacts.stalled(Instant::now());
        let status = AgentStatus::new(&snapshots.borrow_and_update(), &stalled, &all_notes, node.foreign_programs());
        if written.as_ref() != Some(&status) {
            let file = AgentStatus { since: rfc3339(SystemTime::now()), ..status.clone() };
            match contract::write(&state_dir, &file) {
                Ok(_) => (written, failed) = (Some(status), false),
                // Tried again after the pause; logged once.
                Err(error) => {
                    if !failed {
                        warn!(%error, "status for `ropeway status` not written");
                    }
                    failed = true;
                }
            }
        }
        let changes = async { while snapshots.changed().await.is_ok() {} };
        if timeout(PAUSE, changes).await.is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::source::{ObjectKey, ObjectKind, Rejection};

    #[test]
    fn status_names_stalls_and_the_first_rejections() {
        let key = ObjectKey::new("shop", "web");
        let rejection = |n: usize| Rejection::of(ObjectKind::Service, &key, "spec.ports", format!("fault {n}"));
        let last = SystemTime::UNIX_EPOCH + Duration::from_millis(951_782_400_900);
        let snapshot = Snapshot {
            synced: true,
            rejected: 30,
            rejections: (0..30).map(rejection).collect(),
            last_error: Some((last, "Node: connection lost".into())),
            ..Snapshot::default()
        };
        let stalls = [
            Stall { kind: "Node", lasting: PAUSE, last: None },
            Stall { kind: "Service", lasting: PAUSE, last: Some(last) },
        ];
        let status = AgentStatus::new(&snapshot, &stalls, &["note".into()], vec!["cil_sock4".into()]);
        assert_eq!(status.foreign_programs, ["cil_sock4"]);
        assert_eq!(status.stalled[0], "Node: nothing heard yet");
        assert_eq!(status.stalled[1], "Service: nothing heard since 2000-02-29T00:00:00Z");
        assert_eq!(status.last_error.unwrap(), "2000-02-29T00:00:00Z: Node: connection lost");
        assert_eq!((status.rejected, status.rejections.len()), (30, SHOWN));
        assert_eq!(status.rejections[0], "Service shop/web, spec.ports: fault 0");
    }

    #[tokio::test]
    async fn file_follows_the_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, snapshots) = watch::channel(Arc::default());
        let task = tokio::spawn(run(dir.path().into(), snapshots, Arc::default(), Arc::default(), vec![]));
        let read = || contract::read::<AgentStatus>(dir.path()).unwrap();
        timeout(Duration::from_secs(5), async {
            while read().is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert!(!read().unwrap().synced && !read().unwrap().since.is_empty());
        drop(sender);
        task.await.unwrap();
    }
}
