//! When a failed request is repeated: at intervals that grow, at another moment on each node.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use tokio::time::Instant;

/// Returns a random number, for jitter. It is not fit for secrets.
#[must_use]
pub fn random() -> u64 {
    // Each `RandomState` has other keys, from the operating system's random numbers.
    RandomState::new().build_hasher().finish()
}

/// Returns a random duration from `least` up to `most`.
pub(super) fn between(least: Duration, most: Duration) -> Duration {
    let spread = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX - 1);
    least + Duration::from_nanos(random() % (spread + 1))
}

/// The moments of attempts.
///
/// The interval counts from one attempt's beginning to the next one's. An attempt that has waited
/// for its limit is repeated soon, and one that has failed at once is not.
#[derive(Debug)]
pub(super) struct Retry {
    first: Duration,
    last: Duration,
    interval: Duration,
    began: Instant,
    at: Option<Instant>,
}

impl Retry {
    pub(super) fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, interval: first, began: Instant::now(), at: None }
    }

    /// Notes that an attempt begins.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// Schedules the next attempt, after a quarter more or less than the interval.
    pub(super) fn failed(&mut self) {
        let interval = between(self.interval * 3 / 4, self.interval * 5 / 4);
        self.at = Some(self.began + interval);
        self.interval = (self.interval * 2).min(self.last);
    }

    /// Schedules the next attempt after `interval`, a quarter more or less.
    pub(super) fn slow_down(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Schedules the next attempt after this time.
    pub(super) fn pause(&mut self, time: Duration) {
        self.at = Some(Instant::now() + time);
    }

    /// Begins again with short intervals.
    pub(super) fn succeeded(&mut self) {
        self.interval = self.first;
    }

    /// Takes the time of the scheduled attempt.
    pub(super) fn take(&mut self) -> Option<Instant> {
        self.at.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_double_count_from_the_beginning_and_are_spread() {
        let second = Duration::from_secs(1);
        let mut retry = Retry::new(second, 4 * second);
        let mut all = Vec::new();
        for interval in [1, 2, 4, 4] {
            retry.begin();
            retry.began -= second / 2;
            let began = retry.began;
            retry.failed();
            let wait = retry.take().unwrap() - began;
            assert!(wait >= interval * second * 3 / 4 && wait <= interval * second * 5 / 4, "{wait:?}");
            all.push(wait);
        }
        assert_ne!(all[2], all[3], "jitter");
        retry.succeeded();
        retry.begin();
        retry.failed();
        assert!(retry.take().unwrap() - Instant::now() <= second * 5 / 4);
        assert_eq!(retry.take(), None);
    }
}
