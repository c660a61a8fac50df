//! A mutation as cargo-mutants names it, and the choice of some of them.

use std::path::Path;

use anyhow::{Context, Result};
use dataplane_common::types::fnv;
use serde_json::Value;

/// A change of one place in the source that the tests should notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    /// File, line, column and change: `src/a.rs:3:5: replace f -> bool with true`.
    pub(super) place: String,
    /// The same without line and column, which change with every edit of the file.
    pub(super) name: String,
    /// The source line of the place, trimmed.
    pub(super) source: String,
    /// First and last position of the replaced text, the last one exclusive.
    pub(super) span: [Position; 2],
    /// The text in its place.
    pub(super) replacement: String,
}

/// Line and column of a character, from 1.
pub(super) type Position = (usize, usize);

impl Mutant {
    /// Reads an object of `cargo mutants --list --json`, whose file is below `root`.
    pub(super) fn read(value: &Value, root: &Path) -> Result<Self> {
        let text = |name: &str| value[name].as_str().with_context(|| format!("a mutant without {name}: {value}"));
        let (place, file) = (text("name")?, text("file")?);
        let position = |end: &str| -> Option<Position> {
            let number = |name: &str| usize::try_from(value["span"][end][name].as_u64()?).ok();
            Some((number("line")?, number("column")?))
        };
        let (start, end) = position("start").zip(position("end")).context("a mutant without position")?;
        let (line, column) = start;
        let position = format!("{file}:{line}:{column}: ");
        let change = place.strip_prefix(&position).with_context(|| format!("{place}: no mutant of {position}"))?;
        let content = std::fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))?;
        let source = content.lines().nth(line - 1).with_context(|| format!("{file} has no line {line}"))?;
        Ok(Self {
            place: place.to_owned(),
            name: format!("{file}: {change}"),
            source: source.trim().to_owned(),
            span: [start, end],
            replacement: text("replacement")?.to_owned(),
        })
    }

    /// Returns the source with the change.
    pub(super) fn apply(&self, source: &str) -> String {
        let mut changed = String::with_capacity(source.len() + self.replacement.len());
        let [start, end] = self.span;
        let (mut line, mut column) = (1, 1);
        for character in source.chars() {
            if (line, column) == start {
                changed.push_str(&self.replacement);
            }
            if (line, column) < start || (line, column) >= end {
                changed.push(character);
            }
            (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        changed
    }

    /// Returns the path of the file.
    pub(super) fn file(&self) -> &str {
        self.name.split_once(": ").map_or(&self.name, |(file, _)| file)
    }
}

/// Returns `number` of the mutants, chosen by the seed. The choice depends on their names and
/// source lines only, so most of a sample stays the same when other code changes.
pub(super) fn sample(mut mutants: Vec<Mutant>, number: usize, seed: u64) -> Vec<Mutant> {
    mutants.sort_by_cached_key(|mutant| {
        let name = fnv::extend64(fnv::hash64(&seed.to_le_bytes()), mutant.name.as_bytes());
        let hash = fnv::extend64(name, mutant.source.as_bytes());
        // The last bytes of the input reach only the low bits of the hash; mix them into all.
        (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    mutants.truncate(number);
    mutants
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mutant(name: &str) -> Mutant {
        Mutant {
            place: format!("{name} at 1:1"),
            name: name.to_owned(),
            source: "a == b".to_owned(),
            span: [(1, 1), (1, 1)],
            replacement: String::new(),
        }
    }

    #[test]
    fn name_of_a_mutant_has_no_line() {
        let root = std::env::temp_dir().join(format!("ropeway-mutant-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("a.rs"), "fn f() {\n    a == b\n}\n").unwrap();
        let value = json!({
            "name": "a.rs:2:7: replace == with != in f",
            "file": "a.rs",
            "span": { "start": { "line": 2, "column": 7 }, "end": { "line": 2, "column": 9 } },
            "replacement": "!=",
        });
        let mutant = Mutant::read(&value, &root).unwrap();
        assert_eq!((mutant.name.as_str(), mutant.source.as_str()), ("a.rs: replace == with != in f", "a == b"));
        let mut other = value;
        other["span"]["start"]["line"] = json!(3);
        assert!(Mutant::read(&other, &root).is_err(), "the name has another line");
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn change_replaces_the_characters_of_the_span() {
        let mut mutant = mutant("a");
        (mutant.span, mutant.replacement) = ([(2, 3), (3, 2)], "()".to_owned());
        assert_eq!(mutant.apply("fn f() {\n  ü\n1\n}\n"), "fn f() {\n  ()\n}\n");
        (mutant.span, mutant.replacement) = ([(1, 4), (1, 4)], "!".to_owned());
        assert_eq!(mutant.apply("if a {}"), "if !a {}");
    }

    #[test]
    fn sample_depends_on_the_seed_and_survives_new_code() {
        let mut mutants: Vec<_> = (0..100).map(|n| mutant(&format!("mutant {n}"))).collect();
        let first = sample(mutants.clone(), 10, 1);
        assert_eq!(first.len(), 10);
        assert_ne!(first, sample(mutants.clone(), 10, 2));
        mutants.insert(0, mutant("a new one"));
        let moved = sample(mutants, 11, 1);
        assert_eq!(first.iter().filter(|mutant| !moved.contains(mutant)).count(), 0);
        assert_eq!(sample(first.clone(), 1000, 1), first, "a sample of all has all");
    }
}
