//! `cargo xtask test hostile`: the tests of what hostile pods, neighbours and tenants can do, and
//! docs/hostile-matrix.md, which is written from their outcome.
//!
//! [`catalogue`] lists attacker, means, victim and the tests that show the outcome. Each test also
//! runs in its level with all others; here they run alone, with as many packets as wanted.

mod catalogue;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::catalogue::{ROWS, Row};
use super::Level;
use super::page::Page;
use crate::paths::Paths;
use crate::setup::{self, Need};
use crate::{build, shell};

const DOC: &str = "docs/hostile-matrix.md";

/// Options of `cargo xtask test hostile`.
#[derive(Args)]
pub(super) struct Options {
    /// Write docs/hostile-matrix.md from the outcome of this run instead of comparing them
    #[arg(long)]
    write: bool,
    /// Number of random packets of the differential run, and of forged packets of the spoof matrix
    #[arg(long, value_name = "NUMBER")]
    packets: Option<u64>,
    /// First seed of the differential run
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

/// Places of the spoof matrix, which share the forged packets.
const PLACES: u64 = 4;

/// The outcome of tests, by the names that their programs print.
type Outcomes = BTreeMap<String, bool>;

pub(super) fn run(paths: &Paths, options: &Options) -> Result<()> {
    if !shell::is_root() {
        bail!("these tests need root");
    }
    setup::packages(&[Need::Network, Need::ReferencePlugins])?;
    build::for_tests(paths)?;
    let mut outcomes = BTreeMap::new();
    for level in Level::ALL {
        shell::step(&format!("hostile tests of level {}", level.title()));
        outcomes.insert(level, run_level(paths, level, options)?);
    }
    let failures: Vec<_> = ROWS.iter().flat_map(|row| failures(row, &outcomes)).collect();
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    let text = text();
    println!("{text}");
    Page::new(paths, DOC, "cargo xtask test hostile --write", options.write).settle(&text)
}

/// Runs the tests of the catalogue of one level.
fn run_level(paths: &Paths, level: Level, options: &Options) -> Result<Outcomes> {
    let names: Vec<_> = ROWS.iter().flat_map(|row| row.tests).filter(|(l, _)| *l == level).map(|(_, n)| *n).collect();
    let mut outcomes = Outcomes::new();
    // The tests of the catalogue are in the first call of their level.
    for (selection, flags) in level.calls().iter().take(1) {
        let mut cargo = shell::cargo(&paths.root);
        cargo.env("RUST_LIB_BACKTRACE", "0").env("ROPEWAY_BIN_DIR", paths.demo_binaries());
        if let Some(packets) = options.packets {
            cargo.env("ROPEWAY_PACKETS", packets.to_string());
            cargo.env("ROPEWAY_FORGED", packets.div_ceil(PLACES).to_string());
        }
        if let Some(seed) = options.seed {
            cargo.env("ROPEWAY_SEED", seed.to_string());
        }
        // Output between the name of a test and its outcome could not be read.
        let flags = flags.iter().filter(|flag| **flag != "--nocapture");
        cargo.args(["test", "--locked", "--no-fail-fast"]).args(*selection).arg("--").args(flags).args(&names);
        let output = shell::with_signs_of_life(|| cargo.output().context("cannot start cargo"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            text.lines().filter(|line| line.starts_with("test ")).for_each(|line| println!("{line}"));
        } else {
            eprintln!("{}{text}", String::from_utf8_lossy(&output.stderr));
        }
        outcomes.extend(parse(&text));
    }
    Ok(outcomes)
}

/// Reads the lines of libtest; ignored tests have no outcome.
fn parse(output: &str) -> Outcomes {
    let outcome = |line: &str| {
        let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
        match outcome {
            "ok" => Some((name.to_owned(), true)),
            "FAILED" => Some((name.to_owned(), false)),
            _ => None,
        }
    };
    output.lines().filter_map(outcome).collect()
}

/// Returns the tests of a row that failed or did not run.
fn failures(row: &Row, outcomes: &BTreeMap<Level, Outcomes>) -> Vec<String> {
    let fault = |(level, name): &(Level, &str)| {
        let is_it = |(full, _): &(&String, &bool)| full.rsplit("::").next() == Some(name);
        let mut found = outcomes.get(level).into_iter().flatten().filter(is_it).peekable();
        let what = if found.peek().is_none() { "did not run" } else { "failed" };
        let holds = found.peek().is_some() && found.all(|(_, passed)| *passed);
        (!holds).then(|| format!("{}: {name} {what}", row.finding))
    };
    row.tests.iter().filter_map(fault).collect()
}

/// Returns the text of the page, for a run in which every test passed.
fn text() -> String {
    let mut text = catalogue::HEAD.to_owned();
    let mut section = "";
    for row in ROWS {
        if row.section != section {
            section = row.section;
            let _ = write!(text, "\n## {section}\n\n| # | attacker | means | victim | outcome | tests |\n");
            text.push_str("|---|---|---|---|---|---|\n");
        }
        let tests: Vec<_> = row.tests.iter().map(|(_, name)| format!("`{name}`")).collect();
        let outcome = match row.open {
            None => "holds".to_owned(),
            Some(weakness) if row.tests.is_empty() => format!("open: {weakness}"),
            Some(weakness) => format!("in part; open: {weakness}"),
        };
        let Row { finding, attacker, means, victim, .. } = row;
        let _ = writeln!(text, "| {finding} | {attacker} | {means} | {victim} | {outcome} | {} |", tests.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_the_catalogue_and_names_every_finding() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = std::fs::read_to_string(root.join(DOC)).unwrap();
        assert!(page == text(), "{DOC} is stale: rewrite it with `cargo xtask test hostile --write`");
        for number in 1..=21 {
            let finding = format!("F{number}");
            assert!(ROWS.iter().any(|row| row.finding == finding), "{finding} has no row");
        }
        for row in ROWS {
            assert!(!row.tests.is_empty() || row.open.is_some(), "{}: no test, and not open", row.finding);
        }
    }

    #[test]
    fn open_rows_name_a_known_weakness() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let security = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
        for weakness in ROWS.iter().filter_map(|row| row.open) {
            assert!(security.contains(&format!("\n| {weakness} |")), "SECURITY.md has no {weakness}");
        }
    }

    #[test]
    fn failed_and_missing_tests_fail_their_row() {
        let row = Row {
            section: "",
            finding: "F0",
            attacker: "",
            means: "",
            victim: "",
            tests: &[(Level::Packet, "a"), (Level::Packet, "b"), (Level::Host, "c")],
            open: None,
        };
        let output = "test host::a ... ok\ntest kernel_programs::a ... ok\ntest host::b ... ok\ntest k::b ... FAILED\n";
        let outcomes =
            [(Level::Packet, parse(output)), (Level::Host, parse("test m::cc ... ok\ntest c ... ignored\n"))];
        assert_eq!(failures(&row, &outcomes.into()), ["F0: b failed", "F0: c did not run"]);
    }
}
