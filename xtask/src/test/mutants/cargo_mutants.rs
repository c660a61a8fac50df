//! cargo-mutants, which finds the places to change.
//!
//! It only lists mutants; [`super::trial`] runs them. Its runner tests the deleted fields of
//! structures even if they are not selected, and runs the tests without a mutation only for the
//! changed package, which for the packet core are not those that matter.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::mutant::Mutant;
use super::room::Room;
use crate::paths::Paths;
use crate::setup::Tool;
use crate::shell;

/// The installed program.
pub(super) struct CargoMutants {
    program: PathBuf,
}

impl CargoMutants {
    /// Installs the program unless it is present.
    pub(super) fn ensure(paths: &Paths) -> Result<Self> {
        Ok(Self { program: Tool::CargoMutants.ensure(paths)? })
    }

    /// Lists the mutants of a room in a checkout; with a diff, only those in changed lines.
    pub(super) fn list(&self, checkout: &Path, room: &Room, diff: Option<&Path>) -> Result<Vec<Mutant>> {
        let mut command = Command::new(&self.program);
        command.current_dir(checkout);
        shell::clean(&mut command);
        command.args(["mutants", "--list", "--json", "--no-config", "--package", room.package]);
        for file in room.files {
            command.args(["--file", file]);
        }
        if let Some(diff) = diff {
            command.arg("--in-diff").arg(diff);
        }
        let text = shell::output(&mut command)?;
        if text.trim().is_empty() {
            return Ok(Vec::new()); // the diff changes no source
        }
        let values: Vec<Value> = serde_json::from_str(&text).context("the list of cargo-mutants")?;
        values.iter().map(|value| Mutant::read(value, checkout)).collect()
    }
}
