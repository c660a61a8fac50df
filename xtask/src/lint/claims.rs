//! Checks what documents claim: measured figures, and the tests and commands that show a promise.
//!
//! A table row that names a figure of docs/figures.json in backquotes must have its value, spread
//! and date as [`Figure`] shows them; README.md's table of figures has no other rows.
//! SPECIFICATION.md names the command or the file that holds each promise: the command line accepts
//! the command, a test matches its filter, and the file exists. ARCHITECTURE.md names the tests of
//! each invariant, docs/hostile-matrix.md those of each attack.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use clap::Parser as _;

use super::files::{self, File};
use crate::bench::record::{self, Figure};
use crate::paths::Paths;

/// Checks that the documents have the recorded figures.
pub(super) fn figures(paths: &Paths) -> Result<()> {
    let runs = record::read(paths)?;
    let recorded: BTreeMap<&str, (&str, &Figure)> = runs
        .values()
        .flat_map(|run| run.figures.iter().map(|figure| (figure.name.as_str(), (run.date.as_str(), figure))))
        .collect();
    let documents = files::below(paths, "", &["md"])?;
    let faults: Vec<_> = documents.iter().flat_map(|file| wrong_rows(file, &recorded)).collect();
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{} figures", recorded.len());
    Ok(())
}

/// Returns the rows that show a recorded figure otherwise than it was measured.
fn wrong_rows(file: &File, recorded: &BTreeMap<&str, (&str, &Figure)>) -> Vec<String> {
    let (mut faults, mut section) = (Vec::new(), "");
    for (index, line) in file.text.lines().enumerate() {
        section = line.strip_prefix("## ").unwrap_or(section);
        let head = line.starts_with("|---") || file.text.lines().nth(index + 1).is_some_and(|l| l.starts_with("|---"));
        if !line.starts_with('|') || head {
            continue;
        }
        let named: Vec<_> = quoted(line).filter_map(|name| recorded.get(name)).collect();
        let place = format!("{}:{}", file.name, index + 1);
        if named.is_empty() && file.name == "README.md" && section == "Figures" {
            faults.push(format!("{place}: the row names no figure of {}", record::FILE));
        }
        for (date, figure) in named {
            if !line.contains(&format!(" {figure}")) || !line.contains(date) {
                faults.push(format!("{place}: {} is {figure}, measured on {date}", figure.name));
            }
        }
    }
    faults
}

/// Returns the parts of a line in backquotes.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Checks that the tests, commands and files exist that SPECIFICATION.md, the invariants of
/// ARCHITECTURE.md and docs/hostile-matrix.md name.
pub(super) fn evidence(paths: &Paths) -> Result<()> {
    let tests: Vec<String> = files::below(paths, "", &["rs"])?.iter().flat_map(tests_of).collect();
    let (mut faults, mut named) = (Vec::new(), 0);
    for document in ["SPECIFICATION.md", "ARCHITECTURE.md", "docs/hostile-matrix.md"] {
        let text = std::fs::read_to_string(paths.root.join(document))?;
        for (index, line) in text.lines().enumerate() {
            let commands: Vec<_> = quoted(line).filter(|_| line.starts_with('|')).filter_map(command).collect();
            let wrong = commands.iter().filter_map(|command| refused(command, &tests));
            let missing = words(line).filter(|word| is_path(word) && !paths.root.join(word).exists());
            let missing = missing.map(|path| format!("{path} does not exist"));
            let all = wrong.chain(missing).chain(missing_tests(line, &tests));
            faults.extend(all.map(|fault| format!("{document}:{}: {fault}", index + 1)));
            named += commands.len();
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{named} commands");
    Ok(())
}

/// Returns the tests that an invariant (I1) or a row of the hostile matrix (F1) names and that do
/// not exist. A test is named by its function, in the last cell of the row.
fn missing_tests<'a>(line: &'a str, tests: &'a [String]) -> impl Iterator<Item = String> + 'a {
    let is_number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    let is_listed = ["| I", "| F", "| L", "| S"].iter().any(|start| line.strip_prefix(start).is_some_and(is_number));
    let last = line.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default();
    let is_function = |name: &&str| name.contains('_') && !name.contains([' ', '/', '.']);
    let names = quoted(last).filter(move |_| is_listed).filter(is_function);
    let exists = |name: &str| tests.iter().any(|test| test.rsplit("::").next() == Some(name));
    names.filter(move |name| !exists(name)).map(|name| format!("no test is called {name}"))
}

/// Returns the words of a command of `cargo xtask`, without variables and those three words.
/// SPECIFICATION.md shortens `cargo xtask test` and `cargo xtask bench`.
fn command(quoted: &str) -> Option<Vec<&str>> {
    let is_variable = |word: &&str| word.contains('=') && !word.starts_with('-');
    let words: Vec<_> = quoted.split(' ').skip_while(is_variable).collect();
    match words.as_slice() {
        ["time", "cargo", "xtask", rest @ ..] | ["cargo", "xtask", rest @ ..] => Some(rest.to_vec()),
        ["test" | "bench", _, ..] => Some(words),
        _ => None,
    }
}

/// Returns why a command shows nothing: the command line refuses it, or its filter matches no test.
fn refused(command: &[&str], tests: &[String]) -> Option<String> {
    let whole = command.join(" ");
    if let Err(error) = crate::Cli::try_parse_from([&["xtask"], command].concat()) {
        let reason = error.to_string();
        return Some(format!("`{whole}`: {}", reason.lines().next().unwrap_or_default()));
    }
    let ["test", "--level", _, filter] = command else { return None };
    let found = tests.iter().any(|test| test.contains(filter));
    (!found).then(|| format!("`{whole}`: no test is called {filter}"))
}

/// Returns the names of a file's functions with the names of its modules, if it has tests.
fn tests_of(file: &File) -> Vec<String> {
    let has_tests =
        file.text.contains("#[test]") || file.text.contains("#[tokio::test") || file.name.contains("tests/");
    let modules = file.name.trim_end_matches(".rs").replace('/', "::");
    let names = file.text.lines().filter(|_| has_tests).filter_map(|line| {
        let (_, rest) = line.split_once("fn ")?;
        rest.split(['(', '<']).next()
    });
    names.map(|name| format!("{modules}::{name}")).collect()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split([' ', ',', ';', '`', '(', ')', '|']).map(|word| word.trim_end_matches(['.', ':']))
}

/// Returns true for a Rust file or a folder of this repository.
fn is_path(word: &str) -> bool {
    let first = word.split('/').next().unwrap_or_default();
    let ours = ["cni-plugin", "dataplane-common", "dataplane-host", "dataplane-user", "tests", "xtask"];
    word.contains('/') && ours.contains(&first) && !Path::new(word).is_absolute()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> File {
        File { name: name.into(), text: text.into() }
    }

    #[test]
    fn rows_have_the_recorded_value_spread_and_date() {
        let figure = Figure { name: "packet.hit".into(), value: 2.7, min: 2.6, max: 2.8, unit: "x".into() };
        let recorded = BTreeMap::from([("packet.hit", ("2026-12-01", &figure))]);
        let faults = |name: &str, row: &str| {
            wrong_rows(&file(name, &format!("## Figures\n| a | b |\n|---|---|\n{row}\n")), &recorded).len()
        };
        assert_eq!(faults("README.md", "| hit | 2.70 (2.60 to 2.80) | 2026-12-01 | `packet.hit` |"), 0);
        assert_eq!(faults("README.md", "| hit | 2.71 (2.60 to 2.80) | 2026-12-01 | `packet.hit` |"), 1);
        assert_eq!(faults("SPECIFICATION.md", "| hit | 12.70 (2.60 to 2.80) | 2026-12-01 | `packet.hit` |"), 1);
        assert_eq!(faults("SPECIFICATION.md", "| hit | 2.70 (2.60 to 2.80) | 2026-12-02 | `packet.hit` |"), 1);
        assert_eq!(faults("README.md", "| hit | 2.70 | 2026-12-01 | `packet` |"), 1, "not of the file");
        assert_eq!(faults("SPECIFICATION.md", "| hit | 2.70 | 2026-12-01 | `packet` |"), 0);
    }

    #[test]
    fn commands_are_those_of_the_command_line_and_filters_match_tests() {
        let tests = tests_of(&file("a/tests/stall.rs", "#[test]\nfn server_ends() {\n"));
        let fault = |quoted: &str| refused(&command(quoted).unwrap(), &tests);
        assert_eq!(fault("test --level host stall"), None);
        assert_eq!(fault("ROPEWAY_SOAK=1 test --level host server_ends"), None);
        assert_eq!(fault("time cargo xtask demo"), None);
        assert!(fault("test --level host another").unwrap().contains("no test is called another"));
        assert!(fault("bench nothing").unwrap().contains("nothing"));
        assert!(fault("cargo xtask cluster lives").unwrap().contains("lives"));
        assert_eq!(command("from_pod"), None);
        assert_eq!(command("test"), None);
    }

    #[test]
    fn invariants_name_tests_by_their_functions() {
        let tests = ["tests::restart::agent_restarts".to_owned()];
        let faults = |line: &str| missing_tests(line, &tests).count();
        assert_eq!(faults("| I1 | rule | why | `enforced_in` | `agent_restarts`, `cargo xtask lint` |"), 0);
        assert_eq!(faults("| I1 | rule | why | `enforced_in` | `agent_restarts`, `agent_stops` |"), 1);
        assert_eq!(faults("| I1 | rule | why | `enforced_in` | `restarts_all` |"), 1);
        assert_eq!(faults("| Iptables | `agent_stops` |"), 0);
    }

    #[test]
    fn paths_are_told_from_words() {
        let found: Vec<_> =
            words("0, see tests/namespace/restart.rs; and/or `dataplane-user/tests/load.rs`.").collect();
        let found: Vec<_> = found.into_iter().filter(|word| is_path(word)).collect();
        assert_eq!(found, ["tests/namespace/restart.rs", "dataplane-user/tests/load.rs"]);
    }
}
