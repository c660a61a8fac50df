//! docs/sabotage.md: the result of the last run of each rule, with its date.

use std::fs;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::shell;

/// The page, relative to the root.
pub(super) const PAGE: &str = "docs/sabotage.md";

/// Writes the result of a rule with the date of today into its row.
pub(super) fn note(paths: &Paths, rule: &str, outcome: &str) -> Result<()> {
    let today = shell::output(std::process::Command::new("date").args(["--utc", "+%F"]))?;
    let path = paths.root.join(PAGE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    let text = with_row(&text, rule, outcome, today.trim()).with_context(|| format!("{PAGE} has no row {rule}"))?;
    fs::write(&path, text).with_context(|| format!("cannot write {PAGE}"))
}

/// Replaces the last two columns of the row of a rule; `None` if there is no row.
fn with_row(text: &str, rule: &str, outcome: &str, date: &str) -> Option<String> {
    let begins = format!("| {rule} |");
    let row = text.lines().find(|line| line.starts_with(&begins))?;
    let what = row.split('|').nth(2)?.trim();
    Some(text.replacen(row, &format!("| {rule} | {what} | {outcome} | {date} |"), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_of_a_rule_gets_result_and_date() {
        let text =
            "| rule | what | cells | date |\n|---|---|---|---|\n| 2.1.1 | a | not run | |\n| 2.1.10 | b | - | |\n";
        let new = with_row(text, "2.1.1", "8 of 8", "2026-01-02").unwrap();
        assert!(new.contains("| 2.1.1 | a | 8 of 8 | 2026-01-02 |\n| 2.1.10 | b | - | |\n"), "{new}");
        assert_eq!(with_row(text, "2.2.1", "8 of 8", "2026-01-02"), None);
    }
}
