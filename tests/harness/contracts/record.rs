//! Records the outcome of each cell of the matrix as a line of JSON in the file that
//! `ROPEWAY_CONTRACTS` names.
//!
//! The namespace tests write the file, `cargo xtask test` reads it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Checked, Path, Rule};
use crate::pod::IpFamily;

/// The environment variable that names the file. Without it, outcomes are only printed.
pub const VARIABLE: &str = "ROPEWAY_CONTRACTS";

/// The failure of a cell whose test compared nothing.
pub(super) const NOTHING_ASSERTED: &str = "its test has asserted nothing";

/// The outcome of one cell, one line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number of the rule.
    pub rule: String,
    /// The client path, a column of the matrix.
    pub path: Path,
    /// Address family of the cell.
    pub family: IpFamily,
    /// Number of assertions that the test made for the cell.
    pub assertions: u32,
    /// The reason why the rule does not hold; `None`: it holds.
    pub failure: Option<String>,
}

/// Records outcomes; [`Recorder::end`] returns whether all are as expected.
#[derive(Debug)]
pub struct Recorder {
    file: Option<Mutex<File>>,
    wrong: Mutex<Vec<String>>,
}

impl Recorder {
    /// Appends to the file of [`VARIABLE`].
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn start() -> Result<Self> {
        let open = |path: PathBuf| {
            let file = OpenOptions::new().create(true).append(true).open(&path);
            file.map(Mutex::new).with_context(|| format!("cannot open {}", path.display()))
        };
        let file = std::env::var_os(VARIABLE).map(|path| open(path.into())).transpose()?;
        Ok(Self { file, wrong: Mutex::default() })
    }

    /// Records the outcome of one cell.
    ///
    /// # Errors
    /// When the rule does not apply to this cell, or the line can't be written.
    pub fn cell(&self, rule: &Rule, path: Path, family: IpFamily, checked: &Checked) -> Result<()> {
        let number = rule.number;
        ensure!(rule.absent(path, family).is_none(), "rule {number} does not apply to {path}, {family:?}");
        let failure = checked.outcome.as_ref().err().map(|error| format!("{error:#}"));
        let cell = format!("{number} {path} {family:?}");
        let wrong = match (&failure, rule.gap(path, family)) {
            (Some(failure), None) => Some(failure.clone()),
            (None, None) if checked.assertions == 0 => Some(NOTHING_ASSERTED.to_owned()),
            (None, None) | (Some(_), Some(_)) => None,
            (None, Some(gap)) => Some(format!("it holds, so this is no gap any more: {gap}")),
        };
        match (&wrong, &failure) {
            (Some(wrong), _) => println!("{cell}: FAIL: {wrong}"),
            (None, Some(failure)) => println!("{cell}: known gap: {failure}"),
            (None, None) => println!("{cell}: pass, {} assertions", checked.assertions),
        }
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(wrong.map(|wrong| format!("{cell}: {wrong}")));
        let record = Record { rule: number.to_owned(), path, family, assertions: checked.assertions, failure };
        let Some(file) = &self.file else { return Ok(()) };
        let line = serde_json::to_string(&record)? + "\n";
        file.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(line.as_bytes())
            .context("cannot write to the file of records")
    }

    /// Ends the test and returns its result.
    ///
    /// # Errors
    /// When a cell has another outcome than the catalogue says.
    pub fn end(self) -> Result<()> {
        let wrong = self.wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
        ensure!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
        Ok(())
    }
}

/// Reads all lines of a file of records; none if the file does not exist.
///
/// # Errors
/// When a line can't be read.
pub fn read(path: &FilePath) -> Result<Vec<Record>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("cannot parse the record {line}")))
        .collect()
}
