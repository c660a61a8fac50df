//! `cargo xtask lint --figures`: prints how the source of the product reads, in figures.
//!
//! A figure shows where to look; it never fails the command. Reads the crates that run on a node,
//! without their tests. `text.rs` counts lines, `functions.rs` counts tokens.

mod functions;
mod text;

use anyhow::Result;

use self::text::Text;
use super::files::{self, File};
use crate::paths::Paths;

/// The crates that run on a node.
const PRODUCT: &[&str] = &["cni-plugin", "dataplane-common", "dataplane-ebpf", "dataplane-host", "dataplane-user"];

/// Lines above which a function is long.
const LONG_FUNCTION: usize = 60;

/// Prints every figure beside its goal.
pub(super) fn print(paths: &Paths) -> Result<()> {
    let mut all = Vec::new();
    for folder in PRODUCT {
        all.extend(files::below(paths, folder, &["rs"])?.into_iter().filter(|file| !is_test(&file.name)));
    }
    for row in rows(&all)? {
        println!("{row}");
    }
    Ok(())
}

fn is_test(name: &str) -> bool {
    name.contains("/tests") || name.ends_with("tests.rs")
}

/// Returns a line of text for each figure.
fn rows(files: &[File]) -> Result<Vec<String>> {
    let mut lengths: Vec<_> = files.iter().map(|file| file.text.lines().count()).collect();
    lengths.sort_unstable();
    let mut functions = Vec::new();
    let mut text = Text::default();
    for file in files {
        functions.extend(functions::lengths(file)?);
        text.add(&file.text);
    }
    let long = functions.iter().filter(|lines| **lines > LONG_FUNCTION).count();
    let [median, upper, longest] = [2, 3, 4].map(|quarter| quantile(&lengths, quarter));
    let names = text.names_of_several_types();
    Ok(vec![
        row("files", &files.len().to_string(), ""),
        row("file length, median / p75 / longest", &format!("{median} / {upper} / {longest}"), "122 / 184 / 483"),
        row(&format!("functions over {LONG_FUNCTION} lines"), &share(long, functions.len()), "0.2 %"),
        row("doc comments with a weak opening", &share(text.openings, text.docs), "< 2 %"),
        row("doc comments of 1 to 3 words", &share(text.short_docs, text.docs), "< 4 %"),
        row("comment lines beyond column 100", &share(text.wide, text.comment_lines), "0 %"),
        row("longest comment line", &text.widest.to_string(), "100"),
        row("plain comments per 1,000 code lines", &per_thousand(text.plain, text.code_lines), ">= 40"),
        row("names of two or more types", &names.len().to_string(), "<= 25"),
        row("  these", &names.join(" "), ""),
        row("headers of one line", &format!("{} of {}", text.short_headers, text.headers), "0"),
    ])
}

fn row(name: &str, value: &str, goal: &str) -> String {
    let goal = if goal.is_empty() { String::new() } else { format!("(goal {goal})") };
    format!("{name:<38} {value:<18} {goal}").trim_end().to_owned()
}

/// Returns the value below which `quarter` quarters of the sorted values are.
fn quantile(sorted: &[usize], quarter: usize) -> usize {
    let index = (sorted.len() * quarter / 4).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

/// Returns a share in percent, with one decimal place.
fn share(part: usize, whole: usize) -> String {
    let tenths = (part * 1000 + whole / 2).checked_div(whole).unwrap_or_default();
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn per_thousand(part: usize, whole: usize) -> String {
    (part * 1000 + whole / 2).checked_div(whole).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_value_and_goal() {
        let file = File { name: "a.rs".into(), text: "//! Header.\nfn f() {}\n".into() };
        let rows = rows(&[file]).unwrap();
        assert_eq!(rows[1], "file length, median / p75 / longest    2 / 2 / 2          (goal 122 / 184 / 483)");
        assert!(rows.last().unwrap().contains("1 of 1"));
    }

    #[test]
    fn shares_are_rounded_and_nothing_is_no_share() {
        assert_eq!(share(1, 3), "33.3 %");
        assert_eq!(share(2, 3), "66.7 %");
        assert_eq!(share(0, 0), "0.0 %");
        assert_eq!(per_thousand(1, 3), "333");
    }

    #[test]
    fn quantiles_are_values_of_the_sorted_list() {
        let values: Vec<_> = (1..=100).collect();
        assert_eq!([2, 3, 4].map(|quarter| quantile(&values, quarter)), [51, 76, 100]);
        assert_eq!(quantile(&[], 2), 0);
    }

    #[test]
    fn tests_are_left_out() {
        assert!(is_test("dataplane-user/tests/node/mod.rs") && is_test("dataplane-user/src/cli/tests.rs"));
        assert!(!is_test("dataplane-user/src/cli.rs"));
    }
}
