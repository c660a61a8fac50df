//! Combines the catalogue with the records and writes the matrix as Markdown. The same text goes to
//! the screen and to docs/service-matrix.md.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::record::NOTHING_ASSERTED;
use super::{Path, RULES, Record, Rule, all_cells};
use crate::pod::IpFamily;

/// The outcome of a cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A test recorded that the rule holds.
    Pass,
    /// The rule failed, or no test recorded the cell; with the reason.
    Fail(String),
    /// The rule failed, which is a known gap.
    Gap(&'static str),
    /// The rule does not apply to this cell.
    Absent(&'static str),
}

/// The outcome of every cell of every rule.
#[derive(Debug)]
pub struct Matrix {
    rows: Vec<(&'static Rule, Vec<Outcome>)>,
}

const HEAD: &str = "\
<!-- Written by `cargo xtask test contracts --write`. -->
# The contract of a service proxy, and how Ropeway keeps it

Each row is a rule, each column a client path and an address family.

- `pass`: a test with real packets has checked the rule on this path, with TCP and UDP where both
  are meant, and has made at least one assertion for the cell.
- `-`: the rule does not apply there.
- `gap`: the rule is known not to hold there.

The reasons for `-` and `gap` are below each table. Any other failure is a failed test.

- **pod**: a pod on the node, once by its sockets, which the hooks translate, and once by packets
  that no hook has seen;
- **node**: a process of the node itself, or a pod with `hostNetwork`;
- **other node**: a process of another node, to the first node's node ports and to Services;
- **outside**: a machine that is no node.

The rules are those that users of kube-proxy rely on: its documentation and source, the Kubernetes
API and its end-to-end tests.
";

const SECTIONS: [(&str, &str); 6] = [
    ("2.1", "Objects that are served"),
    ("2.2", "Choice of endpoints"),
    ("2.3", "Missing endpoints, local policies, and reachability"),
    ("2.4", "Session affinity"),
    ("2.5", "Health endpoints and metrics"),
    ("2.6", "State of connections"),
];

impl Matrix {
    /// Combines the catalogue with the records of the tests.
    #[must_use]
    pub fn new(records: &[Record]) -> Self {
        Self::of(RULES, records)
    }

    fn of(rules: &'static [Rule], records: &[Record]) -> Self {
        let row = |rule: &'static Rule| {
            let own: Vec<_> = records.iter().filter(|record| record.rule == rule.number).collect();
            (rule, all_cells().map(|(path, family)| outcome(rule, path, family, &own)).collect())
        };
        Self { rows: rules.iter().map(row).collect() }
    }

    /// Returns the failures, one line each.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.said(|outcome| match outcome {
            Outcome::Fail(why) => Some(why.clone()),
            _ => None,
        })
    }

    /// Returns the known gaps, one line each.
    #[must_use]
    pub fn gaps(&self) -> Vec<String> {
        self.said(|outcome| match outcome {
            Outcome::Gap(why) => Some((*why).to_owned()),
            _ => None,
        })
    }

    /// Returns the number of cells that pass.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.rows.iter().flat_map(|(_, outcomes)| outcomes).filter(|outcome| **outcome == Outcome::Pass).count()
    }

    fn said(&self, what: impl Fn(&Outcome) -> Option<String>) -> Vec<String> {
        self.rows.iter().flat_map(|(rule, outcomes)| reasons(rule, outcomes, &what)).collect()
    }
}

fn outcome(rule: &Rule, path: Path, family: IpFamily, records: &[&Record]) -> Outcome {
    if let Some(why) = rule.absent(path, family) {
        return Outcome::Absent(why);
    }
    let own: Vec<_> = records.iter().filter(|record| (record.path, record.family) == (path, family)).collect();
    let failure = own.iter().find_map(|record| record.failure.as_ref());
    match (failure, rule.gap(path, family)) {
        _ if own.is_empty() => Outcome::Fail("no test has looked".to_owned()),
        (Some(_), Some(gap)) => Outcome::Gap(gap),
        (Some(failure), None) => Outcome::Fail(failure.clone()),
        (None, Some(_)) => Outcome::Fail("it holds, so it is no gap any more".to_owned()),
        (None, None) if own.iter().any(|record| record.assertions == 0) => Outcome::Fail(NOTHING_ASSERTED.to_owned()),
        (None, None) => Outcome::Pass,
    }
}

/// Formats cells as `2.3.1, pod and node, IPv4: why`, each reason once.
fn reasons(rule: &Rule, outcomes: &[Outcome], what: impl Fn(&Outcome) -> Option<String>) -> Vec<String> {
    let mut found: BTreeMap<(Vec<&str>, String), Vec<Path>> = BTreeMap::new();
    for (path, pair) in Path::ALL.into_iter().zip(outcomes.chunks(2)) {
        let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (outcome, family) in pair.iter().zip(["IPv4", "IPv6"]) {
            if let Some(why) = what(outcome) {
                by_reason.entry(why).or_default().push(family);
            }
        }
        for (why, families) in by_reason {
            found.entry((families, why)).or_default().push(path);
        }
    }
    let line = |((families, why), paths): ((Vec<&str>, String), Vec<Path>)| {
        let paths: Vec<_> = paths.iter().map(ToString::to_string).collect();
        let families = if families.len() == 2 { String::new() } else { format!(", {}", families.join(" and ")) };
        format!("{} {}{families}: {why}", rule.number, paths.join(", "))
    };
    found.into_iter().map(line).collect()
}

impl fmt::Display for Matrix {
    /// Writes the text of docs/service-matrix.md.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for (number, title) in SECTIONS {
            let rows: Vec<_> = self.rows.iter().filter(|(rule, _)| rule.section() == number).collect();
            if rows.is_empty() {
                continue;
            }
            let width = rows.iter().map(|(rule, _)| rule.title.len()).max().unwrap_or_default();
            write!(f, "\n## {number} {title}\n\n| {:<6} | {:<width$} |", "rule", "what")?;
            for path in Path::ALL {
                write!(f, " {path} IPv4 | IPv6 |")?;
            }
            write!(f, "\n|{0:-<8}|{0:-<1$}|", "", width + 2)?;
            for path in Path::ALL {
                write!(f, "{0:-<1$}|------|", "", path.to_string().len() + 7)?;
            }
            f.write_char('\n')?;
            for (rule, outcomes) in &rows {
                write!(f, "| {:<6} | {:<width$} |", rule.number, rule.title)?;
                for (path, pair) in Path::ALL.into_iter().zip(outcomes.chunks(2)) {
                    write!(f, " {:<1$} |", word(&pair[0]), path.to_string().len() + 5)?;
                    write!(f, " {:<4} |", word(&pair[1]))?;
                }
                f.write_char('\n')?;
            }
            let said: Vec<_> = rows.iter().flat_map(|(rule, outcomes)| reasons(rule, outcomes, sentence)).collect();
            if !said.is_empty() {
                write!(f, "\n- {}\n", said.join("\n- "))?;
            }
        }
        Ok(())
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Fail(_) => "FAIL",
        Outcome::Gap(_) => "gap",
        Outcome::Absent(_) => "-",
    }
}

fn sentence(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Pass => None,
        Outcome::Fail(why) => Some(format!("FAIL: {why}")),
        Outcome::Gap(why) => Some(format!("gap: {why}")),
        Outcome::Absent(why) => Some(format!("does not apply, because {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::Cells;

    static RULES: [Rule; 2] = [
        Rule {
            number: "2.1.1",
            title: "First",
            absent: &[Cells { paths: &[Path::Outside], families: &IpFamily::BOTH, why: "there is no server" }],
            gaps: &[Cells { paths: &[Path::Node], families: &[IpFamily::V6], why: "not yet" }],
        },
        Rule { number: "2.1.2", title: "Second", absent: &[], gaps: &[] },
    ];

    fn record(rule: &str, path: Path, family: IpFamily, failure: Option<&str>) -> Record {
        Record { rule: rule.to_owned(), path, family, assertions: 1, failure: failure.map(str::to_owned) }
    }

    /// Returns records with which no cell fails.
    fn good() -> Vec<Record> {
        let one = |rule: &'static Rule| {
            rule.cells()
                .into_iter()
                .map(|(path, family)| record(rule.number, path, family, rule.gap(path, family).map(|_| "as is known")))
        };
        RULES.iter().flat_map(one).collect()
    }

    #[test]
    fn complete_records_make_every_cell_pass() {
        let matrix = Matrix::of(&RULES, &good());
        assert_eq!(matrix.failures(), Vec::<String>::new());
        assert_eq!(matrix.gaps(), ["2.1.1 node, IPv6: not yet"]);
        assert_eq!(matrix.passed(), 13);
        let text = matrix.to_string();
        for line in [
            "| rule   | what   | pod IPv4 | IPv6 | node IPv4 | IPv6 | other node IPv4 | IPv6 | outside IPv4 | IPv6 |",
            "|--------|--------|----------|------|-----------|------|-----------------|------|--------------|------|",
            "| 2.1.1  | First  | pass     | pass | pass      | gap  | pass            | pass | -            | -    |",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{text}");
        }
        assert!(text.contains("- 2.1.1 outside: does not apply, because there is no server\n"), "{text}");
        assert!(text.contains("- 2.1.1 node, IPv6: gap: not yet\n"), "{text}");
    }

    #[test]
    fn one_failed_record_fails_the_cell() {
        let mut records = good();
        records.push(record("2.1.2", Path::Pod, IpFamily::V4, Some("timeout")));
        let matrix = Matrix::of(&RULES, &records);
        assert_eq!(matrix.failures(), ["2.1.2 pod, IPv4: timeout"]);
        let text = matrix.to_string();
        assert!(text.contains("| 2.1.2  | Second | FAIL     | pass |"), "{text}");
        assert!(text.contains("- 2.1.2 pod, IPv4: FAIL: timeout\n"), "{text}");
    }

    #[test]
    fn cell_without_record_fails() {
        let all = good();
        let without_rule: Vec<_> = all.iter().filter(|record| record.rule != "2.1.2").cloned().collect();
        let failures = Matrix::of(&RULES, &without_rule).failures();
        assert_eq!(failures, ["2.1.2 pod, node, other node, outside: no test has looked"]);
        assert_eq!(Matrix::of(&RULES, &all[1..]).failures(), ["2.1.1 pod, IPv4: no test has looked"]);
    }

    #[test]
    fn passing_cell_without_assertion_fails() {
        let mut records = good();
        records.last_mut().unwrap().assertions = 0;
        assert_eq!(Matrix::of(&RULES, &records).failures(), ["2.1.2 outside, IPv6: its test has asserted nothing"]);
    }

    #[test]
    fn passing_cell_marked_as_gap_fails() {
        let mut records = good();
        records.retain(|record| record.failure.is_none());
        records.push(record("2.1.1", Path::Node, IpFamily::V6, None));
        let failures = Matrix::of(&RULES, &records).failures();
        assert_eq!(failures, ["2.1.1 node, IPv6: it holds, so it is no gap any more"]);
    }

    #[test]
    fn every_rule_has_a_section_and_at_least_one_cell() {
        let rules = crate::contracts::RULES;
        let mut numbers = Vec::new();
        for (section, count) in [("2.1", 7), ("2.2", 4), ("2.3", 14), ("2.4", 4), ("2.5", 4), ("2.6", 6)] {
            numbers.extend((1..=count).map(|n| format!("{section}.{n}")));
            assert!(SECTIONS.iter().any(|(number, _)| *number == section));
        }
        assert!(numbers.iter().eq(rules.iter().map(|rule| rule.number)), "{numbers:?}");
        let nowhere: Vec<_> = rules.iter().filter(|rule| rule.cells().is_empty()).map(|rule| rule.number).collect();
        assert_eq!(nowhere, ["2.6.6"], "a rule without a test");
    }
}
