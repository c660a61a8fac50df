//! Series of times and their percentiles.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// Times of one kind of call.
pub(super) struct Series {
    pub(super) name: &'static str,
    times: Vec<Duration>,
}

impl Series {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, times: Vec::new() }
    }

    pub(super) fn push(&mut self, time: Duration) {
        self.extend([time]);
    }

    pub(super) fn extend(&mut self, times: impl IntoIterator<Item = Duration>) {
        self.times.extend(times);
        self.times.sort_unstable();
    }

    /// Returns a percentile in microseconds (nearest rank).
    pub(super) fn percentile(&self, share: f64) -> f64 {
        let rank = (share * self.times.len() as f64).ceil() as usize;
        let time = self.times.get(rank.saturating_sub(1)).or(self.times.last());
        time.map_or(f64::NAN, |t| t.as_secs_f64() * 1e6)
    }

    pub(super) fn to_json(&self) -> Value {
        let [min, p50, p90, p99, max] = self.summary();
        json!({ "count": self.times.len(), "min": min, "p50": p50, "p90": p90, "p99": p99, "max": max })
    }

    fn summary(&self) -> [f64; 5] {
        [0.0, 0.5, 0.9, 0.99, 1.0].map(|share| self.percentile(share).round())
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<40}", self.name)?;
        self.summary().iter().try_for_each(|v| write!(f, " {:>9.2}", v / 1000.0))
    }
}

/// Returns the first series' percentile as a multiple of the second's.
pub(super) fn ratio(pair: &[Series; 2], share: f64) -> f64 {
    pair[0].percentile(share) / pair[1].percentile(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut series = Series::new("x");
        series.extend((1..=100).rev().map(Duration::from_micros));
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|s| series.percentile(s).round() as u32), [1, 50, 99, 100]);
    }
}
