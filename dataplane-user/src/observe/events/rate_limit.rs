//! Limits the rate of Events: a token bucket for each object, and a minimum interval between any
//! two requests.
//!
//! Used by the event recorder. A Service that changes faults all the time must not silence the
//! others or burden the API server.

use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::proxy::source::ObjectKey;

/// Size of an object's bucket, which gets one token per [`REFILL`].
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(300);
/// Minimum interval between two requests, for all objects together.
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

/// The buckets of all objects and the time of the last request.
#[derive(Debug, Default)]
pub(super) struct RateLimits {
    objects: HashMap<ObjectKey, Bucket>,
    last: Option<Instant>,
}

impl RateLimits {
    /// Takes a token of the object's bucket. Returns false if there is none.
    pub(super) fn allows(&mut self, key: &ObjectKey, now: Instant) -> bool {
        // A bucket that is certainly full again needs no entry.
        if self.objects.len() >= 1024 {
            self.objects.retain(|_, b| now.duration_since(b.refilled) < REFILL * BURST);
        }
        let bucket = self.objects.entry(key.clone()).or_insert(Bucket { tokens: BURST, refilled: now });
        let periods = now.duration_since(bucket.refilled).as_secs() / REFILL.as_secs();
        if periods > 0 {
            bucket.tokens = bucket.tokens.saturating_add(u32::try_from(periods).unwrap_or(BURST)).min(BURST);
            bucket.refilled = now;
        }
        let allowed = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        allowed
    }

    /// Records that a request is sent at `now`.
    pub(super) fn spent(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Returns the earliest time of the next request.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| last + INTERVAL)
    }
}
