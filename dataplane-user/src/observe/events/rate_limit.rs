//! Limits the rate of Events: a token bucket for each object, and a minimum interval between any two.

use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::proxy::source::ObjectKey;

/// For each object.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(300);
/// For all together.
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

/// The buckets.
#[derive(Debug, Default)]
pub(super) struct RateLimits {
    objects: HashMap<ObjectKey, Bucket>,
    last: Option<Instant>,
}

impl RateLimits {
    /// Whether something more may be told about the object; counts it.
    pub(super) fn allows(&mut self, key: &ObjectKey, now: Instant) -> bool {
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

    /// Something is told now.
    pub(super) fn spent(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// When the next may be told.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| last + INTERVAL)
    }
}
