//! Series of measurements with median, quantiles and spread.
//!
//! Wall and CPU times are in milliseconds or microseconds, as the caller converts them.

use std::time::Duration;

pub(crate) fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

pub(crate) fn us(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

/// Returns the CPU time of this thread, which a busy machine falsifies less than wall time.
pub(crate) fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// Wall time and CPU time in milliseconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// Runs `work` and measures its cost.
pub(crate) fn cost<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (begin, begin_cpu) = (std::time::Instant::now(), cpu());
    let result = work();
    let wall = ms(begin.elapsed());
    (result, Cost { wall, cpu: ms(cpu().saturating_sub(begin_cpu)) })
}

/// Measurements of the same quantity.
pub(crate) struct Series {
    name: String,
    values: Vec<f64>,
}

impl Series {
    pub(crate) fn new(name: &str, values: Vec<f64>) -> Self {
        Self { name: name.into(), values }
    }

    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * q).round() as usize]
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn print(&self, unit: &str) {
        println!(
            "{:32} median {:9.3} {unit}   min {:9.3}   p99 {:9.3}   max {:9.3}   n {}",
            self.name,
            self.median(),
            self.quantile(0.0),
            self.quantile(0.99),
            self.quantile(1.0),
            self.values.len()
        );
    }

    /// Returns the series as `cargo xtask bench` reads it.
    pub(crate) fn figure(&self, name: &str, unit: &str) -> serde_json::Value {
        let [value, min, max] = [0.5, 0.0, 1.0].map(|q| self.quantile(q));
        serde_json::json!({"name": name, "value": value, "min": min, "max": max, "unit": unit})
    }
}
