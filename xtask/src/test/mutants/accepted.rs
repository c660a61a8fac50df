//! The survivors that are accepted, each with its reason: tests/mutants/accepted.txt.
//!
//! An entry is the name of a mutant, then indented its source line and the reason. Entries have no
//! line numbers, so that they last while other code changes; they end with the source line.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::mutant::Mutant;
use crate::paths::Paths;

/// The file, relative to the root.
pub(super) const FILE: &str = "tests/mutants/accepted.txt";

/// A survivor with a reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    name: String,
    source: String,
    reason: String,
}

impl Entry {
    /// Returns whether this is the entry of a mutant.
    pub(super) fn is_of(&self, mutant: &Mutant) -> bool {
        (self.name.as_str(), self.source.as_str()) == (&mutant.name, &mutant.source)
    }

    /// Returns the name of the mutant.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// Reads the file.
pub(super) fn read(paths: &Paths) -> Result<Vec<Entry>> {
    let text = fs::read_to_string(paths.root.join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    parse(&text).with_context(|| FILE.to_owned())
}

/// Returns the first two lines of an entry. The reason is for a person to write.
pub(super) fn draft(mutant: &Mutant) -> String {
    format!("{}\n  {}", mutant.name, mutant.source)
}

fn parse(text: &str) -> Result<Vec<Entry>> {
    let mut entries: Vec<Vec<&str>> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        match entries.last_mut() {
            Some(entry) if line.starts_with(' ') => entry.push(line.trim()),
            _ => entries.push(vec![line]),
        }
    }
    let entry = |lines: Vec<&str>| {
        ensure!(lines.len() >= 3, "{}: an entry has a name, a source line and a reason", lines[0]);
        Ok(Entry { name: lines[0].to_owned(), source: lines[1].to_owned(), reason: lines[2..].join(" ") })
    };
    entries.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn entries_are_read() {
        let text = "# Title\n\na.rs: replace == with != in f\n  if a == b {\n  The branches\n  are equal.\n";
        let entries = parse(text).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].reason, "The branches are equal.");
        let mut mutant = Mutant {
            place: String::new(),
            name: entries[0].name.clone(),
            source: "if a == b {".to_owned(),
            span: [(1, 1), (1, 1)],
            replacement: String::new(),
        };
        assert!(entries[0].is_of(&mutant));
        assert!(text.contains(&draft(&mutant)));
        mutant.source = "if a == c {".to_owned();
        assert!(!entries[0].is_of(&mutant), "the line has changed");
        assert!(parse("a.rs: replace f with ()\n  f()\n").is_err(), "no reason");
    }

    /// A survivor whose line has changed is another mutant: the entry has to be looked at again.
    #[test]
    fn accepted_survivors_exist_in_the_source() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let paths = Paths { root: root.to_path_buf(), target: root.join("target") };
        for entry in read(&paths).unwrap() {
            let (file, _) = entry.name.split_once(": ").expect("a file, then the change");
            let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(source.lines().any(|line| line.trim() == entry.source), "{file} has no line {}", entry.source);
        }
    }
}
