//! `cargo xtask test contracts --sabotage`: breaks each rule of the contract in the product's
//! source and expects the cells of that rule to fail.
//!
//! tests/sabotage has one patch for each rule. A patch is applied to a copy of the checkout, which
//! is built and tested with that rule alone. docs/sabotage.md lists the results.

mod results;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ropeway_tests::contracts::{RULE_VARIABLE, RULES, Rule, VARIABLE, read};

use super::{Level, copy};
use crate::paths::Paths;
use crate::setup::{self, Need};
use crate::{build, shell};

/// The folder of the patches, relative to the root.
const PATCHES: &str = "tests/sabotage";

/// Cells of a broken rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outcome {
    /// Cells that failed.
    red: usize,
    /// Cells to which the rule applies.
    all: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.red, self.all)
    }
}

/// Breaks one rule, or each. Fails if no cell of a broken rule fails.
pub(super) fn run(paths: &Paths, only: Option<&str>) -> Result<()> {
    shell::require_root("the contract test")?;
    ensure!(std::env::var_os("CARGO_TARGET_DIR").is_none(), "broken builds need a target directory of their own");
    setup::packages(&[Need::Network])?;
    let rules = match only {
        Some(number) => vec![Rule::of(number)?],
        None => with_cells().collect(),
    };
    let mut unnoticed = Vec::new();
    for rule in rules {
        shell::step(&format!("breaking rule {}: {}", rule.number, rule.title));
        let outcome = break_rule(paths, rule).with_context(|| format!("rule {}", rule.number))?;
        println!("rule {}: {outcome} cells fail", rule.number);
        if outcome.red == 0 {
            unnoticed.push(rule.number);
        } else {
            results::note(paths, rule.number, &outcome.to_string())?;
        }
    }
    ensure!(unnoticed.is_empty(), "no test has noticed that these rules are broken: {}", unnoticed.join(", "));
    Ok(())
}

/// Returns the rules that apply to any cell.
fn with_cells() -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(|rule| !rule.cells().is_empty())
}

/// Builds a copy with the rule's patch, and runs the test of the rule in it.
fn break_rule(paths: &Paths, rule: &Rule) -> Result<Outcome> {
    let copy = copy::make(paths, "sabotage")?;
    use_tools(paths, &copy)?;
    shell::output(apply(&copy.root).arg(patch(rule)))
        .with_context(|| format!("{} does not apply to the source any more", patch(rule).display()))?;
    build::for_tests(&copy)?;
    let records = copy.target.join("contracts.jsonl");
    if records.exists() {
        fs::remove_file(&records)?;
    }
    let mut cargo = shell::cargo(&copy.root);
    cargo.env("ROPEWAY_BIN_DIR", copy.demo_binaries());
    cargo.env(VARIABLE, &records).env(RULE_VARIABLE, rule.number);
    let (selection, flags) = Level::Namespace.calls()[0];
    cargo.args(["test", "--quiet", "--locked"]).args(selection).arg("--").args(flags).arg(test_of(rule));
    let passed = cargo.status().context("cannot start cargo test")?.success();
    let cells: Vec<_> = read(&records)?.into_iter().filter(|record| record.rule == rule.number).collect();
    // A fixture that fails would fail for any fault, and so say nothing about the rule.
    if cells.len() != rule.cells().len() {
        bail!("{} of {} cells were checked: the patch breaks more than the rule", cells.len(), rule.cells().len());
    }
    let red = cells.iter().filter(|record| record.failure.is_some()).count();
    ensure!(passed == (red == 0), "the test has passed: {passed}, but {red} cells have failed");
    Ok(Outcome { red, all: cells.len() })
}

/// Lets builds of the copy use the tools of the checkout.
fn use_tools(paths: &Paths, copy: &Paths) -> Result<()> {
    let link = copy.tools();
    if !link.exists() {
        std::os::unix::fs::symlink(paths.tools(), &link)
            .with_context(|| format!("cannot create the link {}", link.display()))?;
    }
    Ok(())
}

fn patch(rule: &Rule) -> PathBuf {
    Path::new(PATCHES).join(format!("{}.patch", rule.number))
}

/// A call of `git apply` in a folder that need not be a repository.
fn apply(root: &Path) -> Command {
    let mut git = Command::new("git");
    // Below a repository, git would leave out what is not below the current folder of it.
    git.current_dir(root).env("GIT_CEILING_DIRECTORIES", root.parent().unwrap_or(root)).arg("apply");
    git
}

/// Returns the name of the test that checks a rule, or its beginning.
fn test_of(rule: &Rule) -> String {
    let underscored = |number: &str| number.replace('.', "_");
    match rule.number {
        "2.1.3" | "2.6.5" => format!("rule_{}_", underscored(rule.number)),
        "2.3.1" | "2.3.2" | "2.3.3" | "2.3.4" | "2.3.5" | "2.3.6" | "2.3.7" => {
            "section_2_3_traffic_policies".to_owned()
        }
        _ if rule.section() == "2.3" => "section_2_3_reachability".to_owned(),
        _ => format!("section_{}_", underscored(rule.section())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn each_rule_with_cells_has_a_patch_that_applies() {
        let mut files: Vec<_> =
            fs::read_dir(root().join(PATCHES)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        for rule in with_cells() {
            let patch = patch(rule);
            files.retain(|file| *file != *patch.file_name().unwrap());
            shell::output(apply(root()).arg("--check").arg(&patch)).unwrap_or_else(|error| panic!("{error:#}"));
        }
        assert_eq!(files, [""; 0], "patches without a rule");
    }

    #[test]
    fn each_rule_with_cells_has_a_row_for_its_result() {
        let page = fs::read_to_string(root().join(results::PAGE)).unwrap();
        for rule in with_cells() {
            assert!(page.contains(&format!("\n| {} | ", rule.number)), "no row for rule {}", rule.number);
        }
    }
}
