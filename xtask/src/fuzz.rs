//! `cargo xtask fuzz`: the tests called `fuzz_*`, longer than in an ordinary run and with a new
//! seed.
//!
//! Their inputs are changed at random (see `tests/fuzz/src/lib.rs`). An input that fails is a file
//! in `tests/fuzz/corpus/`; committed, every run of the tests repeats it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;

use crate::paths::Paths;
use crate::shell;

/// Options of `cargo xtask fuzz`.
#[derive(Args)]
pub(crate) struct Options {
    /// Time for all targets together, such as 60s or 10m
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = duration)]
    time: Duration,
    /// Seed, to repeat a run; a run that is limited by time may still try fewer inputs
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

/// Packages with targets. Those of one package run at once.
const PACKAGES: [&str; 3] = ["cni-plugin", "dataplane-host", "dataplane-user"];

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| "is not a number and a unit, such as 60s".to_owned())?;
    match unit {
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(format!("{unit:?} is not s, m or h")),
    }
}

pub(crate) fn run(paths: &Paths, options: &Options) -> Result<()> {
    let seed = match options.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs(),
    };
    let seconds = (options.time.as_secs() / PACKAGES.len() as u64).max(1);
    shell::step(&format!("fuzzing {} for {seconds} s each, seed {seed}", PACKAGES.join(", ")));
    for package in PACKAGES {
        let mut cargo = shell::cargo(&paths.root);
        cargo.env("ROPEWAY_FUZZ_SECONDS", seconds.to_string()).env("ROPEWAY_FUZZ_SEED", seed.to_string());
        cargo.args(["test", "--quiet", "--locked", "--package", package]);
        cargo.args([if package == "cni-plugin" { "--bins" } else { "--lib" }, "--", "--nocapture", "fuzz_"]);
        shell::run(&mut cargo).with_context(|| format!("fuzzing of {package} failed"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, seconds) in [("60s", 60), ("5", 5), ("10m", 600), ("2h", 7200)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        assert!(["", "s", "1d", "-1s"].iter().all(|text| duration(text).is_err()));
    }
}
