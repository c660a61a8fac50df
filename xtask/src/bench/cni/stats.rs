//! Series of times and their percentiles.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::record::Figure;

/// Times of one kind of call, in the order of the calls.
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
    }

    /// Returns a percentile in microseconds (nearest rank).
    pub(super) fn percentile(&self, share: f64) -> f64 {
        percentile(&self.times, share)
    }

    /// Returns the percentile of each of `parts` equal parts of the series.
    fn percentiles(&self, share: f64, parts: usize) -> Vec<f64> {
        self.times.chunks(self.times.len().div_ceil(parts).max(1)).map(|part| percentile(part, share)).collect()
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

fn percentile(times: &[Duration], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let time = sorted.get(rank.saturating_sub(1)).or(sorted.last());
    time.map_or(f64::NAN, |t| t.as_secs_f64() * 1e6)
}

/// Returns the first series' percentile as a multiple of the second's. The spread is that of the
/// same ratio in each of `parts` parts of the series.
pub(super) fn ratio(name: &str, pair: &[Series; 2], share: f64, parts: usize) -> Figure {
    let [ours, theirs] = [&pair[0], &pair[1]].map(|series| series.percentiles(share, parts));
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    Figure {
        name: name.into(),
        value: pair[0].percentile(share) / pair[1].percentile(share),
        min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        max: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        unit: "x".into(),
    }
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

    #[test]
    fn spread_of_a_ratio_is_that_of_its_parts() {
        let series = |micros: [u64; 4]| {
            let mut series = Series::new("x");
            series.extend(micros.map(Duration::from_micros));
            series
        };
        let figure = ratio("cni.x", &[series([10, 10, 40, 40]), series([20, 20, 20, 20])], 1.0, 2);
        assert!([(figure.value, 2.0), (figure.min, 0.5), (figure.max, 2.0)].iter().all(|(a, b)| (a - b).abs() < 1e-9));
    }
}
