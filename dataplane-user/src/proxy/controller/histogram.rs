//! Durations counted in buckets.
//!
//! The boundaries are kube-proxy's (`k/k pkg/proxy/metrics`), so that its dashboards and alerts
//! work. Written by `Status`, rendered by the metrics endpoint.

use std::marker::PhantomData;
use std::time::Duration;

/// The boundaries of a histogram.
pub trait Scale {
    /// Upper bounds in seconds, ascending. A last bucket without a bound takes longer durations.
    const BOUNDS: &'static [f64];
}

/// Bounds for the duration of a round: 1 ms, doubled 14 times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rounds {}

/// Bounds for the time from an endpoint's change to the maps: fine below a minute, coarse up to
/// five.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Programming {}

impl Scale for Rounds {
    const BOUNDS: &'static [f64] = &{
        let mut bounds = [0.001; 15];
        let mut i = 1;
        while i < bounds.len() {
            bounds[i] = bounds[i - 1] * 2.0;
            i += 1;
        }
        bounds
    };
}

impl Scale for Programming {
    const BOUNDS: &'static [f64] = &{
        // first bound, distance, how many
        let parts = [(0.25, 0.25, 2), (1.0, 1.0, 59), (60.0, 5.0, 12), (120.0, 30.0, 7)];
        let mut bounds = [0.0; 80];
        let (mut part, mut i) = (0, 0);
        while part < parts.len() {
            let (first, distance, count) = parts[part];
            let (mut bound, mut n) = (first, 0);
            while n < count {
                bounds[i] = bound;
                bound += distance;
                (i, n) = (i + 1, n + 1);
            }
            part += 1;
        }
        bounds
    };
}

/// Counts durations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram<S> {
    counts: Vec<u64>,
    /// All together, in microseconds.
    sum_us: u64,
    scale: PhantomData<S>,
}

impl<S: Scale> Default for Histogram<S> {
    fn default() -> Self {
        Self { counts: vec![0; S::BOUNDS.len() + 1], sum_us: 0, scale: PhantomData }
    }
}

impl<S: Scale> Histogram<S> {
    /// Counts a duration.
    pub fn record(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.counts[S::BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum_us = self.sum_us.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Returns the upper bound and the count of each bucket; the bound of the last is `f64::MAX`.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        S::BOUNDS.iter().copied().chain([f64::MAX]).zip(self.counts.iter().copied())
    }

    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of all durations.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_those_of_kube_proxy() {
        let said =
            |bounds: &[f64], at: &[usize]| at.iter().map(|i| bounds[*i].to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(said(Rounds::BOUNDS, &[0, 1, 14]), "0.001 0.002 16.384");
        let b = Programming::BOUNDS;
        assert_eq!(said(b, &[0, 1, 2, 60, 61, 62, 72, 73, 74, 79]), "0.25 0.5 1 59 60 65 115 120 150 300");
        assert!(b.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn bound_belongs_to_its_bucket() {
        let mut h = Histogram::<Programming>::default();
        [250, 251, 1000, 400_000].map(Duration::from_millis).into_iter().for_each(|d| h.record(d));
        let filled: Vec<_> = h.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.25, 1), (0.5, 1), (1.0, 1), (f64::MAX, 1)]);
        assert_eq!((h.count(), h.sum()), (4, Duration::from_millis(401_501)));
    }
}
