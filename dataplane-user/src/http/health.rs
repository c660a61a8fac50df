//! Whether the service proxy is healthy, by kube-proxy's rules.
//!
//! Unhealthy is a proxy that has known of a change for too long without having applied it. A node that is about to be
//! removed makes `/healthz`, which load balancers ask, fail, but not `/livez`, which asks whether to restart.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use serde::Serialize;

use super::Answer;

/// A change may wait this long: twice the period after which kube-proxy applies changes at the latest.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct State {
    pending_since: Option<Instant>,
    last_updated: Option<SystemTime>,
    last_queued: Option<SystemTime>,
}

/// Follows the controller.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: Mutex::new(State { pending_since: None, last_updated: None, last_queued: None }) }
    }
}

impl Health {
    /// A change has come in.
    pub fn queued(&self, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pending_since.get_or_insert(now);
        state.last_queued = Some(SystemTime::now());
    }

    /// All that has come in is applied.
    pub fn updated(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pending_since = None;
        state.last_updated = Some(SystemTime::now());
    }

    /// Whether everything has been applied at least once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.read().last_updated.is_some()
    }

    /// When a change last came in and when all was applied, in seconds since 1970; 0: never.
    #[must_use]
    pub fn timestamps(&self) -> (f64, f64) {
        let seconds = |t: Option<SystemTime>| {
            t.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0.0, |d| d.as_secs_f64())
        };
        let state = self.read();
        (seconds(state.last_queued), seconds(state.last_updated))
    }

    /// `/healthz` with `leaving`, `/livez` without.
    #[must_use]
    pub fn answer(&self, leaving: Option<bool>) -> Answer {
        let (now, time) = (Instant::now(), SystemTime::now());
        let state = self.read();
        let healthy = state.pending_since.is_none_or(|since| now.duration_since(since) < PATIENCE);
        let last = if healthy { Some(time) } else { state.last_updated };
        let body = Body {
            last_updated: last.map_or_else(|| "never".into(), rfc3339),
            current_time: rfc3339(time),
            node_eligible: leaving.map(|l| !l),
        };
        let status = if healthy && leaving != Some(true) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Answer::json(status, serde_json::to_string(&body).unwrap_or_default())
    }

    fn read(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time in UTC as RFC 3339 writes it.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86400, since.as_secs() % 86400);
    // Civil date from days since 1970: years of 400-year cycles, with March as the first month.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (h, m, s, ms) = (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |s: u64| rfc3339(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.000Z");
        assert_eq!(at(4_102_444_800), "2100-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy() {
        let health = Health::default();
        let code = |leaving| health.answer(leaving).status.as_u16();
        assert_eq!((code(Some(false)), health.is_ready()), (200, false), "healthy while starting");
        let Some(long_ago) = Instant::now().checked_sub(PATIENCE) else { return };
        health.queued(long_ago);
        health.queued(Instant::now());
        assert_eq!((code(Some(false)), code(None)), (503, 503));
        assert!(health.answer(None).text.contains("never"));
        health.updated();
        assert_eq!((code(Some(false)), code(None), health.is_ready()), (200, 200, true));
        health.queued(Instant::now());
        assert_eq!(code(Some(false)), 200);
    }

    #[test]
    fn a_node_that_leaves_is_alive_but_not_eligible() {
        let health = Health::default();
        health.updated();
        assert_eq!(health.answer(Some(true)).status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(health.answer(Some(true)).text.contains(r#""nodeEligible":false"#));
        assert_eq!(health.answer(None).status, StatusCode::OK);
        assert!(!health.answer(None).text.contains("nodeEligible"));
    }
}
