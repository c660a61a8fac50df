//! Decides if the service proxy is healthy, by kube-proxy's rules.
//!
//! Pure functions of the controller's snapshot, called for `/healthz` and `/livez`. A proxy is
//! unhealthy if a change has waited for too long, or if no change can be applied at all. A single
//! Service that can't be served does not make it unhealthy, because a load balancer would take the
//! whole node away. A node that is about to be removed fails `/healthz`, which load balancers ask,
//! but not `/livez`, which decides on a restart. So does a proxy that is starting, unless its
//! predecessor has left Services in the maps: a load balancer would send traffic that no Service of
//! this node gets.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use jiff::Timestamp;
use serde::Serialize;

use super::HttpResponse;
use crate::proxy::controller::Snapshot;

/// Maximum waiting time of a change: twice kube-proxy's maximum interval between two syncs.
pub const MAX_PENDING: Duration = Duration::from_secs(60);

/// The moment for which health is computed.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic clock, for durations.
    pub instant: Instant,
    /// Wall clock, for the timestamps in the response.
    pub time: SystemTime,
}

impl Now {
    /// Reads both clocks at the present moment.
    #[must_use]
    pub fn get() -> Self {
        Self { instant: Instant::now(), time: SystemTime::now() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
}

/// Returns true if the proxy is healthy at `now`.
#[must_use]
pub fn is_healthy(snapshot: &Snapshot, now: Now) -> bool {
    let waited = |since: SystemTime| now.time.duration_since(since).unwrap_or_default() >= MAX_PENDING;
    let stuck = match (snapshot.last_queued, snapshot.last_sync) {
        (Some(queued), Some(synced)) => queued > synced && waited(queued),
        // Before the first sync it waits for its source, which may take long.
        _ => false,
    };
    let nothing_works = snapshot.services > 0
        && snapshot.failing >= snapshot.services
        && snapshot.pending_since.is_some_and(|since| now.instant.duration_since(since) >= MAX_PENDING);
    !stuck && !nothing_works
}

/// Returns true if the maps have no Services yet.
const fn is_empty(snapshot: &Snapshot) -> bool {
    !snapshot.synced && snapshot.service_ports == 0
}

/// Returns the response of `/healthz`, or of `/livez`, which ignores the state of the node and of
/// the maps.
#[must_use]
pub fn answer(snapshot: &Snapshot, now: Now, livez: bool) -> HttpResponse {
    let healthy = is_healthy(snapshot, now) && (livez || !is_empty(snapshot));
    let eligible = (!livez).then_some(!snapshot.leaving);
    let last = if healthy { Some(now.time) } else { snapshot.last_sync };
    let body = Body {
        last_updated: last.map_or_else(|| "never".into(), rfc3339),
        current_time: rfc3339(now.time),
        node_eligible: eligible,
    };
    let status = if healthy && eligible != Some(false) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::json(status, serde_json::to_string(&body).unwrap_or_default())
}

/// Formats a time in UTC according to RFC 3339, truncated to milliseconds. Times before 1970 are
/// shown as its beginning.
fn rfc3339(time: SystemTime) -> String {
    let time = Timestamp::try_from(time.max(UNIX_EPOCH)).unwrap_or(Timestamp::MAX);
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn code(snapshot: &Snapshot, now: Now, livez: bool) -> u16 {
        answer(snapshot, now, livez).status.as_u16()
    }

    #[test]
    fn times_have_the_form_of_rfc3339() {
        assert_eq!(rfc3339(at(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(at(951_782_400)), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(at(1_709_251_199)), "2024-02-29T23:59:59.000Z");
        assert_eq!(rfc3339(at(4_102_444_800)), "2100-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(at(1) + Duration::from_nanos(999_999_999)), "1970-01-01T00:00:01.999Z", "truncated");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z", "a clock that is not set");
    }

    #[test]
    fn pending_change_makes_proxy_unhealthy() {
        let now = Now { instant: Instant::now(), time: at(1000) };
        let mut s = Snapshot { synced: true, ..Snapshot::default() };
        assert_eq!(code(&s, now, false), 200);
        s.last_queued = Some(at(10));
        assert_eq!(code(&s, now, false), 200, "the first sync may take long");
        s.last_sync = Some(at(5));
        assert_eq!((code(&s, now, false), code(&s, now, true)), (503, 503));
        assert!(answer(&s, now, true).text.contains(r#""lastUpdated":"1970-01-01T00:00:05.000Z""#));
        s.last_queued = Some(at(941));
        assert_eq!(code(&s, now, false), 200);
        s.last_sync = Some(at(999));
        let body = answer(&s, now, false).text;
        assert!(body.contains(r#""lastUpdated":"1970-01-01T00:16:40.000Z""#), "a healthy proxy is up to date: {body}");
    }

    #[test]
    fn one_failing_service_is_healthy() {
        let instant = Instant::now() + 2 * MAX_PENDING;
        let now = Now { instant, time: at(1000) };
        let pending_since = Some(Instant::now());
        let mut s = Snapshot { synced: true, services: 2, failing: 1, pending_since, ..Snapshot::default() };
        assert_eq!(code(&s, now, false), 200);
        s.failing = 2;
        assert_eq!(code(&s, now, false), 503);
    }

    /// A load balancer would send traffic to a node that knows no Service.
    #[test]
    fn starting_node_is_healthy_only_with_the_services_of_its_predecessor() {
        let now = Now { instant: Instant::now(), time: at(1000) };
        let mut s = Snapshot::default();
        assert_eq!((code(&s, now, false), code(&s, now, true)), (503, 200), "kubelet must not restart it");
        s.service_ports = 5;
        assert_eq!((code(&s, now, false), code(&s, now, true)), (200, 200));
        s = Snapshot { synced: true, ..Snapshot::default() };
        assert_eq!(code(&s, now, false), 200, "a cluster without Services");
    }

    #[test]
    fn leaving_node_is_alive_but_not_eligible() {
        let now = Now { instant: Instant::now(), time: at(1000) };
        let s = Snapshot { synced: true, leaving: true, ..Snapshot::default() };
        assert_eq!((code(&s, now, false), code(&s, now, true)), (503, 200));
        assert!(answer(&s, now, false).text.contains(r#""nodeEligible":false"#));
        assert!(!answer(&s, now, true).text.contains("nodeEligible"));
    }
}
