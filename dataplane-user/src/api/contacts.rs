//! When the API server was last heard of, by kind of object.
//!
//! Written by the watches, read by `/readyz`, the metrics and `ropeway status`. A kind has contact
//! when its list is complete, and with each event or bookmark of its watch. Without contact, the
//! node serves what it knew last, and looks healthy otherwise.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::sleep;
use tracing::{info, warn};

use super::server::Limits;

/// The last contacts of all kinds that are watched. Empty without an API server.
#[derive(Debug)]
pub struct Contacts {
    kinds: Mutex<BTreeMap<&'static str, Contact>>,
    limit: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Contact {
    /// The last contact, or the beginning of the first watch.
    instant: Instant,
    /// The wall clock's time of the last contact; `None`: there was none yet.
    time: Option<SystemTime>,
    /// Without contact for this time, the kind is stalled.
    limit: Duration,
}

/// A kind of which nothing is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The kind's name in the Kubernetes API.
    pub kind: &'static str,
    /// Time without contact.
    pub lasting: Duration,
    /// The wall clock's time of the last contact; `None`: there was none yet.
    pub last: Option<SystemTime>,
}

impl Default for Contacts {
    fn default() -> Self {
        Self::new(Limits::default().stalled)
    }
}

impl Contacts {
    /// Creates an empty list; kinds without contact for `limit` are stalled.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { kinds: Mutex::default(), limit }
    }

    /// Notes that a kind is watched from now on, unless it is already. It may be without contact
    /// for `extra` longer than others.
    pub(super) fn expect(&self, kind: &'static str, extra: Duration) {
        let new = Contact { instant: Instant::now(), time: None, limit: self.limit + extra };
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_insert(new);
    }

    /// Notes a contact of a kind that is watched.
    pub(super) fn made(&self, kind: &'static str) {
        if let Some(contact) = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get_mut(kind) {
            (contact.instant, contact.time) = (Instant::now(), Some(SystemTime::now()));
        }
    }

    /// Returns the stalled kinds, by name.
    #[must_use]
    pub fn stalled(&self, now: Instant) -> Vec<Stall> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let stall = |(kind, contact): (&&'static str, &Contact)| {
            let lasting = now.saturating_duration_since(contact.instant);
            (lasting >= contact.limit).then_some(Stall { kind, lasting, last: contact.time })
        };
        kinds.iter().filter_map(stall).collect()
    }

    /// Returns the time of each kind's last contact; `None`: there was none yet.
    #[must_use]
    pub fn times(&self) -> Vec<(&'static str, Option<SystemTime>)> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.iter().map(|(kind, contact)| (*kind, contact.time)).collect()
    }

    /// Waits until a kind is stalled that has had no contact since `begin`: the server that has
    /// been asked since then does not answer.
    pub async fn stall_since(&self, begin: Instant) -> &'static str {
        loop {
            let now = Instant::now();
            if now.saturating_duration_since(begin) >= self.limit
                && let Some(stall) = self.stalled(now).first()
            {
                return stall.kind;
            }
            sleep(self.limit / LOOKS).await;
        }
    }

    /// Logs when kinds stall and when they are heard of again. Never returns.
    pub async fn report(&self) {
        let mut said: Vec<&'static str> = Vec::new();
        loop {
            let stalled = self.stalled(Instant::now());
            for stall in stalled.iter().filter(|stall| !said.contains(&stall.kind)) {
                warn!(
                    kind = stall.kind,
                    "API server stalled: nothing heard for {:?}; the node serves what it knew then and is not ready; check the API server and \
                     what is between it and this node",
                    Duration::from_secs(stall.lasting.as_secs())
                );
            }
            for kind in said.iter().filter(|kind| stalled.iter().all(|stall| stall.kind != **kind)) {
                info!(kind, "API server answers again");
            }
            said = stalled.into_iter().map(|stall| stall.kind).collect();
            sleep(self.limit / LOOKS).await;
        }
    }
}

/// Looks at the contacts within the time that makes a stall.
const LOOKS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(80);

    #[test]
    fn kind_without_contact_is_stalled() {
        let contacts = Contacts::new(LIMIT);
        let start = Instant::now();
        assert!(contacts.stalled(start + 2 * LIMIT).is_empty(), "no kind is watched");
        contacts.expect("Service", Duration::ZERO);
        contacts.expect("ServiceCIDR", 2 * LIMIT);
        contacts.expect("Node", Duration::ZERO);
        contacts.made("Node");
        assert!(contacts.stalled(start).is_empty());
        let kinds: Vec<_> = contacts.stalled(start + 2 * LIMIT).iter().map(|stall| stall.kind).collect();
        assert_eq!(kinds, ["Node", "Service"]);
        assert_eq!(contacts.stalled(start + 4 * LIMIT).len(), 3);
        let times: Vec<_> = contacts.times().into_iter().map(|(kind, time)| (kind, time.is_some())).collect();
        assert_eq!(times, [("Node", true), ("Service", false), ("ServiceCIDR", false)]);
    }

    #[tokio::test]
    async fn server_is_given_the_whole_limit() {
        let contacts = Contacts::new(Duration::from_millis(40));
        contacts.expect("Service", Duration::ZERO);
        let begin = Instant::now() + Duration::from_millis(60);
        assert_eq!(contacts.stall_since(begin).await, "Service");
        assert!(Instant::now() >= begin + contacts.limit);
    }
}
