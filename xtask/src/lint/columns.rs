//! Checks that comments and Markdown end at column 100.
//!
//! Reads every Rust and Markdown file of the checkout. Tables, code blocks, generated files and
//! links that have no space to break at are exempt. Code may be 120 columns wide, which rustfmt
//! checks.

use anyhow::{Result, bail};

use super::files::{self, File};
use crate::paths::Paths;

/// The last column of a comment and of a line of Markdown.
pub(super) const LAST: usize = 100;

/// Generated files.
const GENERATED: &[&str] = &["docs/service-matrix.md", "docs/configuration.md"];

/// Checks every file of the checkout.
pub(super) fn check(paths: &Paths) -> Result<()> {
    let mut faults = Vec::new();
    let mut held = 0;
    for file in files::below(paths, "", &["rs", "md"])?.iter().filter(|file| holds(&file.name)) {
        held += 1;
        faults.extend(long_lines(file).map(|(line, columns)| {
            format!("{}:{line}: {columns} columns; comments and Markdown end at {LAST}", file.name)
        }));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{held} files");
    Ok(())
}

fn holds(name: &str) -> bool {
    !GENERATED.contains(&name)
}

/// Returns number and width of each line that is too long.
fn long_lines(file: &File) -> impl Iterator<Item = (usize, usize)> {
    let markdown = file.name.rsplit_once('.').is_some_and(|(_, extension)| extension == "md");
    let mut in_code_block = false;
    file.text.lines().enumerate().filter_map(move |(index, line)| {
        let trimmed = line.trim_start();
        let comment = trimmed.starts_with("//");
        if !markdown && !comment {
            in_code_block = false; // a code block ends with the comment that it is in
            return None;
        }
        let text = if markdown { trimmed } else { trimmed.trim_start_matches(['/', '!']).trim_start() };
        if text.starts_with("```") {
            in_code_block = !in_code_block;
            return None;
        }
        let columns = line.chars().count();
        let exempt = in_code_block || text.starts_with('|') || unbreakable(line, text);
        (columns > LAST && !exempt).then_some((index + 1, columns))
    })
}

/// Returns true if a link is the first word of the line, so that no break could shorten it.
fn unbreakable(line: &str, text: &str) -> bool {
    let text = text.trim_start_matches(['-', '*', '>', ' ']);
    let word = text.split_whitespace().next().unwrap_or_default();
    let link = word.contains("://") || word.contains("](") || word.contains("]:");
    let end = line.chars().count() - text.chars().count() + word.chars().count();
    // A reference definition, `[name]: address`, can't be broken after the name either.
    let definition = word.ends_with("]:") && text.split_whitespace().count() == 2;
    link && (end > LAST || definition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(name: &str, text: &str) -> Vec<usize> {
        long_lines(&File { name: name.into(), text: text.into() }).map(|(line, _)| line).collect()
    }

    #[test]
    fn long_comments_are_found_and_long_code_is_not() {
        let long = "x ".repeat(60);
        assert_eq!(lines("a.rs", &format!("//! {long}\nlet {long};\n    // {long}\n/// short\n")), [1, 3]);
        assert_eq!(lines("a.rs", &format!("//! {}", "x".repeat(96))), [0usize; 0]);
        assert_eq!(lines("a.rs", &format!("//! {}", "x".repeat(97))), [1]);
    }

    #[test]
    fn columns_are_characters_and_not_bytes() {
        assert!(lines("a.md", &"ü".repeat(100)).is_empty());
    }

    #[test]
    fn tables_and_code_blocks_are_exempt() {
        let long = "x ".repeat(60);
        assert_eq!(lines("a.md", &format!("| {long} |\n```sh\n{long}\n```\n{long}\n")), [5]);
        assert!(lines("a.rs", &format!("/// ```\n/// {long}\n/// ```\n")).is_empty());
    }

    #[test]
    fn link_without_a_break_is_exempt() {
        let link = format!("https://example.org/{}", "x".repeat(90));
        assert!(lines("a.rs", &format!("// {link}\n")).is_empty());
        assert!(lines("a.md", &format!("- [name]({link})\n[name]: {link}\n")).is_empty());
        assert_eq!(lines("a.md", &format!("see {link}\n")), [1]);
    }

    #[test]
    fn generated_files_are_exempt() {
        assert!(!holds("docs/service-matrix.md"));
        assert!(holds("xtask/src/lint/columns.rs"));
    }
}
