//! The contract of a service proxy: its rules, and the outcome of each in the matrix of rule,
//! client path and address family.
//!
//! The catalogue ([`RULES`]) lists the rules and the cells in which a rule does not apply. Tests
//! record the outcome of a cell with a [`Recorder`]. `cargo xtask test` builds the [`Matrix`] from
//! both. A cell without a record is a failure, and so is one whose test asserted nothing
//! ([`Checked`]).

mod catalogue;
mod checked;
mod matrix;
mod record;

pub use catalogue::RULES;
pub use checked::{Checked, assertions, count_assertion};
pub use matrix::{Matrix, Outcome};
pub use record::{Record, Recorder, VARIABLE, read};

use std::fmt;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::pod::IpFamily;

/// The environment variable with the number of the only rule that tests check. Without it, they
/// check all rules.
pub const RULE_VARIABLE: &str = "ROPEWAY_RULE";

/// The place of a client, seen from the node under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Path {
    /// A pod on the node: by its sockets, and by packets that the socket hooks do not see.
    Pod,
    /// A process in the node's own network namespace.
    Node,
    /// A process of another node.
    OtherNode,
    /// A machine outside the cluster.
    Outside,
}

impl Path {
    /// All paths, in the order of the columns.
    pub const ALL: [Self; 4] = [Self::Pod, Self::Node, Self::OtherNode, Self::Outside];
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::OtherNode => "other node",
            Self::Outside => "outside",
        })
    }
}

/// A rule of the contract.
#[derive(Debug)]
pub struct Rule {
    /// Section and number in it, such as `2.3.1`.
    pub number: &'static str,
    /// The requirement in one line.
    pub title: &'static str,
    /// Cells in which the rule does not apply.
    pub absent: &'static [Cells],
    /// Cells in which the rule is known to fail. A gap that passes is an error.
    pub gaps: &'static [Cells],
}

/// Some cells of a rule, with a reason.
#[derive(Debug)]
pub struct Cells {
    /// Client paths, the columns of the matrix.
    pub paths: &'static [Path],
    /// Address families in which they are meant.
    pub families: &'static [IpFamily],
    /// The reason, as the text after "because" or "gap:".
    pub why: &'static str,
}

impl Cells {
    fn why(all: &'static [Self], path: Path, family: IpFamily) -> Option<&'static str> {
        all.iter().find(|cells| cells.paths.contains(&path) && cells.families.contains(&family)).map(|cells| cells.why)
    }
}

impl Rule {
    /// Returns the rule with this number.
    ///
    /// # Errors
    /// When the catalogue has none.
    pub fn of(number: &str) -> Result<&'static Self> {
        RULES.iter().find(|rule| rule.number == number).with_context(|| format!("there is no rule {number}"))
    }

    /// Returns the number of the section, such as `2.3`.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.number.rsplit_once('.').map_or(self.number, |(section, _)| section)
    }

    /// Returns the reason why the rule does not apply to a cell; `None`: it applies.
    #[must_use]
    pub fn absent(&self, path: Path, family: IpFamily) -> Option<&'static str> {
        Cells::why(self.absent, path, family)
    }

    /// Returns the reason why the rule is known to fail in a cell; `None`: it must hold.
    #[must_use]
    pub fn gap(&self, path: Path, family: IpFamily) -> Option<&'static str> {
        Cells::why(self.gaps, path, family)
    }

    /// Returns the cells that tests must record.
    #[must_use]
    pub fn cells(&self) -> Vec<(Path, IpFamily)> {
        all_cells().filter(|(path, family)| self.absent(*path, *family).is_none()).collect()
    }

    /// Returns the cells that tests check in this run: none if [`RULE_VARIABLE`] names another
    /// rule.
    #[must_use]
    pub fn selected_cells(&self) -> Vec<(Path, IpFamily)> {
        let other = std::env::var(RULE_VARIABLE).is_ok_and(|number| number != self.number);
        if other { Vec::new() } else { self.cells() }
    }
}

/// Returns the cells of a row, in the order of the columns.
pub fn all_cells() -> impl Iterator<Item = (Path, IpFamily)> {
    Path::ALL.into_iter().flat_map(|path| IpFamily::BOTH.map(|family| (path, family)))
}
