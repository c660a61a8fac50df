//! The matrix of rules, client paths and address families: built from the records of the namespace
//! tests, printed, and compared with docs/service-matrix.md.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ropeway_tests::contracts::{Matrix, read};

use super::page::Page;
use crate::paths::Paths;
use crate::shell;

/// The module of the tests that record.
const MODULE: &str = "contracts::";
const DOC: &str = "docs/service-matrix.md";
const COMMAND: &str = "cargo xtask test contracts --write";

/// The files of a run: its records and the committed matrix.
pub(super) struct Contracts {
    /// File to which the tests append their records.
    pub(super) records: PathBuf,
    page: Page,
}

impl Contracts {
    /// Removes the records of an earlier run.
    pub(super) fn start(paths: &Paths, write: bool) -> Result<Self> {
        let records = paths.target.join("contracts.jsonl");
        match fs::remove_file(&records) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", records.display()));
            }
            _ => {}
        }
        Ok(Self { records, page: Page::new(paths, DOC, COMMAND, write) })
    }

    /// Returns whether the filter selects all tests that record.
    pub(super) fn are_complete(filter: Option<&str>) -> bool {
        filter.is_none_or(|filter| MODULE.contains(filter))
    }

    /// Prints the matrix. Fails if a cell has failed, or if the committed file differs.
    pub(super) fn check(&self) -> Result<()> {
        let matrix = Matrix::new(&read(&self.records)?);
        let text = matrix.to_string();
        shell::step(&format!("the contract of a service proxy: {DOC}"));
        println!("{text}");
        let (failures, gaps) = (matrix.failures(), matrix.gaps());
        println!("{} cells pass, {} lines of failures, {} of known gaps", matrix.passed(), failures.len(), gaps.len());
        if !failures.is_empty() {
            bail!("rules failed:\n{}", failures.join("\n"));
        }
        self.page.settle(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contracts(name: &str, write: bool) -> Contracts {
        let folder = std::env::temp_dir().join(format!("ropeway-contracts-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let page = Page { name: DOC, command: COMMAND, file: folder.join("doc"), write };
        Contracts { records: folder.join("records"), page }
    }

    fn outcome(contracts: &Contracts) -> String {
        contracts.check().map_or_else(|error| error.to_string(), |()| "well".to_owned())
    }

    /// Returns the records of a run without failures.
    fn records() -> String {
        let mut text = String::new();
        for rule in ropeway_tests::contracts::RULES {
            for (path, family) in rule.cells() {
                let failure = rule.gap(path, family).map(str::to_owned);
                let rule = rule.number.to_owned();
                let record = ropeway_tests::contracts::Record { rule, path, family, assertions: 1, failure };
                text += &(serde_json::to_string(&record).unwrap() + "\n");
            }
        }
        text
    }

    #[test]
    fn failed_or_stale_matrix_is_reported() {
        let checked = contracts("checked", false);
        let writing = contracts("checked", true);
        assert!(outcome(&writing).contains("no test has looked"), "nothing was recorded");
        assert!(!checked.page.file.exists(), "what fails is not written");
        fs::write(&checked.records, records()).unwrap();
        assert!(outcome(&checked).contains("is stale"), "there is no file");
        assert_eq!(outcome(&writing), "well");
        assert_eq!(outcome(&checked), "well");
        fs::write(&checked.records, records().replacen(r#""failure":null"#, r#""failure":"timeout""#, 1)).unwrap();
        assert!(outcome(&checked).contains(": timeout"));
        fs::remove_dir_all(checked.page.file.parent().unwrap()).unwrap();
    }

    #[test]
    fn filtered_out_rules_are_not_reported() {
        assert!([None, Some("contracts"), Some("contracts::")].into_iter().all(Contracts::are_complete));
        assert!(!Contracts::are_complete(Some("contracts::choice")));
        assert!(!Contracts::are_complete(Some("reach")));
    }
}
