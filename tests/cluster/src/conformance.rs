//! `conformance`: upstream's own tests, unmodified, run from outside of the cluster.
//!
//! tests/cluster/skips.txt names the tests that are left out, each with its reason. Each run writes
//! a table and upstream's `JUnit` files into a new directory.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::junit::{self, Case, Outcome};
use super::layout::Layout;
use super::network::{FABRIC, namespace_path};
use super::pki::ADMIN;
use super::shape::Shape;
use super::{kube, tools};

/// The tests that a network and a service proxy must pass to conform.
const CONFORMANCE: &str = r"\[sig-network\].*\[Conformance\]";

/// Options that select the tests.
#[derive(Args)]
pub(crate) struct Options {
    /// Regular expression for the names of the tests
    #[arg(long, default_value = CONFORMANCE, value_name = "REGEX")]
    focus: String,
    /// Regular expression for names to leave out, besides those in tests/cluster/skips.txt
    #[arg(long, value_name = "REGEX")]
    skip: Option<String>,
    /// Tests that run at the same time
    #[arg(long, default_value_t = 4, value_name = "N")]
    parallel: usize,
}

/// Runs the tests; an error if one failed.
pub(super) fn run(layout: &Layout, options: &Options) -> Result<()> {
    let shape = Shape::require(layout)?;
    tools::build(layout, &[tools::Set::Tests])?;
    kube::nodes_ready(layout, shape.all().len(), 60)?;
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let directory = layout.results().join(format!("run-{seconds}"));
    fs::create_dir_all(&directory)?;
    let mut skips = skips(&fs::read_to_string(layout.skips()).context("cannot read tests/cluster/skips.txt")?)?;
    skips.extend(options.skip.clone());
    println!("==> upstream's tests, {} at a time; output in {}", options.parallel, directory.display());
    let begin = Instant::now();
    ginkgo(layout, &shape, options, &skips, &directory)?;
    let cases = junit::read(&directory)?;
    let table = table(&cases, begin.elapsed().as_secs());
    fs::write(directory.join("table.md"), &table)?;
    print!("{table}");
    let failed = cases.iter().filter(|case| case.outcome == Outcome::Failed).count();
    ensure!(failed == 0, "{failed} tests failed: see {}", directory.display());
    ensure!(cases.iter().any(|case| case.outcome == Outcome::Passed), "no test passed: see {}", directory.display());
    if options.focus == CONFORMANCE && options.skip.is_none() {
        let left_out = left_out_of_conformance(&cases);
        ensure!(left_out.is_empty(), "Conformance tests that did not run: {}", left_out.join("; "));
    }
    Ok(())
}

/// Lists the Conformance tests of the network that were skipped, by themselves or by skips.txt. A
/// report has every test of the binary, those that the focus leaves out as skipped.
fn left_out_of_conformance(cases: &[Case]) -> Vec<&str> {
    let conformance = |case: &&Case| case.name.contains("[sig-network]") && case.name.contains("[Conformance]");
    let skipped = cases.iter().filter(|case| case.outcome == Outcome::Skipped);
    skipped.filter(conformance).map(|case| case.name.as_str()).collect()
}

/// Parses the expressions of the file: one a line, each with a comment above it that gives the
/// reason.
fn skips(text: &str) -> Result<Vec<String>> {
    let (mut found, mut reason) = (Vec::new(), false);
    for (number, line) in text.lines().map(str::trim).enumerate() {
        match line.strip_prefix('#') {
            Some(comment) => reason = !comment.trim().is_empty(),
            None if line.is_empty() => reason = false,
            None if reason => found.push(line.to_owned()),
            None => bail!("tests/cluster/skips.txt, line {}: no comment with the reason above it", number + 1),
        }
    }
    Ok(found)
}

/// Runs the tests. Failed tests are not an error here.
fn ginkgo(layout: &Layout, shape: &Shape, options: &Options, skips: &[String], directory: &Path) -> Result<()> {
    let output = File::create(directory.join("output.log"))?;
    let mut ginkgo = Command::new("nsenter");
    ginkgo.arg(format!("--net={}", namespace_path(FABRIC).display())).arg("--").arg(layout.bin("ginkgo"));
    ginkgo.args(["--no-color", "--timeout=3h"]);
    ginkgo.arg(format!("--procs={}", options.parallel)).arg(format!("--focus={}", options.focus));
    if !skips.is_empty() {
        ginkgo.arg(format!("--skip={}", skips.join("|")));
    }
    ginkgo.arg(layout.bin("e2e.test")).arg("--");
    ginkgo.arg(format!("--kubeconfig={}", layout.kubeconfig(ADMIN).display()));
    ginkgo.arg(format!("--kubectl-path={}", layout.bin("kubectl").display()));
    ginkgo.arg(format!("--repo-root={}", tools::kubernetes_source(layout)?.display()));
    ginkgo.arg(format!("--report-dir={}", directory.display()));
    // With another number, tests that need two nodes skip themselves.
    ginkgo.arg(format!("--num-nodes={}", shape.workers().len()));
    ginkgo.args(["--provider=skeleton", "--disable-log-dump=true", "--dump-logs-on-failure=false"]);
    ginkgo.arg("--allowed-not-ready-nodes=0");
    let status = ginkgo.current_dir(directory).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).status();
    status.context("cannot start ginkgo").map(drop)
}

/// Formats the results as a table.
fn table(cases: &[Case], seconds: u64) -> String {
    let mut text = String::from("| test | result | seconds | reason |\n|---|---|---|---|\n");
    for case in cases.iter().filter(|case| case.outcome != Outcome::Skipped) {
        let result = if case.outcome == Outcome::Passed { "ok" } else { "FAIL" };
        let row = format!("| {} | {result} | {:.1} | {} |\n", case.name, case.seconds, case.reason);
        text.push_str(&row);
    }
    let count = |outcome| cases.iter().filter(|case| case.outcome == outcome).count();
    text + &format!("\n{} passed, {} failed, in {seconds} s\n", count(Outcome::Passed), count(Outcome::Failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skip_without_reason_is_rejected() {
        assert_eq!(skips("# because\none\ntwo\n\n# and\nthree\n").unwrap(), ["one", "two", "three"]);
        let message = skips("# because\none\n\ntwo\n").unwrap_err().to_string();
        assert_eq!(message, "tests/cluster/skips.txt, line 4: no comment with the reason above it");
    }

    #[test]
    fn skip_file_is_valid_and_skips_no_conformance_test() {
        let text = include_str!("../skips.txt");
        assert!(skips(text).unwrap().iter().all(|skip| !skip.contains("[Conformance]")));
    }
}
