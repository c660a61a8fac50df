//! Medians and spread.

use std::time::Duration;

pub(crate) fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

pub(crate) fn us(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

/// Measurements of one thing.
pub(crate) struct Series {
    name: String,
    values: Vec<f64>,
}

impl Series {
    pub(crate) fn new(name: &str, values: Vec<f64>) -> Self {
        Self { name: name.into(), values }
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.values
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

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name, "median": self.median(), "min": self.quantile(0.0), "p99": self.quantile(0.99),
            "max": self.quantile(1.0), "n": self.values.len(),
        })
    }
}
