//! The recorded figures: docs/figures.json, which `cargo xtask bench --record` writes.
//!
//! README.md and SPECIFICATION.md name figures of this file; `cargo xtask lint` compares the values
//! (`lint/claims.rs`). Each benchmark has a section with date, commit and machine, because ratios
//! are comparable within one run only.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::paths::Paths;
use crate::shell;

/// Path of the file in the checkout.
pub(crate) const FILE: &str = "docs/figures.json";

/// A measured value with its spread between rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Name of the benchmark, a dot, and what was measured.
    pub(crate) name: String,
    /// Median of the rounds, unless the name has another percentile.
    pub(crate) value: f64,
    /// Least value of a round.
    pub(crate) min: f64,
    /// Largest value of a round.
    pub(crate) max: f64,
    /// `x` for a ratio, otherwise a unit such as `ms`.
    pub(crate) unit: String,
}

/// The figures of one benchmark, from one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Day of the run, as `2026-12-01`.
    pub(crate) date: String,
    /// Commit that was measured, as `git describe --always --dirty` names it.
    pub(crate) commit: String,
    /// Processors, memory and kernel.
    pub(crate) machine: String,
    pub(crate) figures: Vec<Figure>,
}

/// The recorded runs, by name of the benchmark.
pub(crate) type Runs = BTreeMap<String, Run>;

/// The figures that a benchmark leaves in its JSON file.
#[derive(Deserialize)]
struct Output {
    figures: Vec<Figure>,
}

/// Shows the figure as the documents must: `2.70 (2.66 to 2.75)`, `38.2 (36.0 to 41.3) us`.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.value < 10.0 { 2 } else { usize::from(self.value < 100.0) };
        write!(f, "{:.digits$} ({:.digits$} to {:.digits$})", self.value, self.min, self.max)?;
        if self.unit == "x" { Ok(()) } else { write!(f, " {}", self.unit) }
    }
}

/// Reads the recorded runs.
///
/// # Errors
/// The file is missing or is not what [`record`] writes.
pub(crate) fn read(paths: &Paths) -> Result<Runs> {
    let text = std::fs::read_to_string(paths.root.join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    serde_json::from_str(&text).with_context(|| format!("{FILE} is malformed"))
}

/// Returns the figures in a benchmark's JSON file.
pub(super) fn of_file(path: &Path) -> Result<Vec<Figure>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let output: Output = serde_json::from_str(&text).with_context(|| format!("{} is malformed", path.display()))?;
    Ok(output.figures)
}

/// Prints the figures. With `recorded` they replace the benchmark's section of the file.
pub(super) fn report(paths: &Paths, benchmark: &str, figures: &[Figure], recorded: bool) -> Result<()> {
    for figure in figures {
        let Figure { name, value, min, max, unit } = figure;
        println!("figure {name} {value:.3} {unit} ({min:.3} to {max:.3})");
    }
    if !recorded {
        return Ok(());
    }
    let mut runs = read(paths)?;
    let run = Run { date: today()?, commit: commit(paths)?, machine: machine()?, figures: figures.to_vec() };
    runs.insert(benchmark.into(), run);
    let text = serde_json::to_string_pretty(&runs)? + "\n";
    std::fs::write(paths.root.join(FILE), text).with_context(|| format!("cannot write {FILE}"))?;
    println!("recorded in {FILE}: bring README.md and SPECIFICATION.md to these values");
    Ok(())
}

fn today() -> Result<String> {
    Ok(shell::output(Command::new("date").args(["-u", "+%F"]))?.trim().into())
}

fn commit(paths: &Paths) -> Result<String> {
    let described =
        shell::output(Command::new("git").current_dir(&paths.root).args(["describe", "--always", "--dirty"]));
    Ok(described?.trim().into())
}

fn machine() -> Result<String> {
    let processors = std::thread::available_parallelism()?;
    let system = rustix::system::sysinfo();
    let memory = system.totalram.saturating_mul(u64::from(system.mem_unit)) >> 30;
    let kernel = rustix::system::uname();
    let release = kernel.release().to_string_lossy();
    // Without the distribution's own suffix.
    let release = release.split('-').next().unwrap_or_default();
    Ok(format!("{processors} processors, {memory} GiB, Linux {release}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_significant_digits_and_their_spread() {
        let figure =
            |value, min, max, unit: &str| Figure { name: "a.b".into(), value, min, max, unit: unit.into() }.to_string();
        assert_eq!(figure(2.704, 2.66, 2.749, "x"), "2.70 (2.66 to 2.75)");
        assert_eq!(figure(38.24, 9.96, 141.31, "us"), "38.2 (10.0 to 141.3) us");
        assert_eq!(figure(235.4, 192.0, 301.6, "ms"), "235 (192 to 302) ms");
    }
}
