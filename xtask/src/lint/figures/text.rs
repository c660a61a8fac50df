//! Counts comments and names of types, line by line.
//!
//! Reads a line's beginning and no syntax: a raw string whose lines look like comments counts too.

use std::collections::BTreeMap;

use crate::lint::columns::LAST;

/// First words of doc comments that have no subject.
const WEAK: &[&str] = &["What", "Whether", "How", "Where", "Who", "As", "Of", "From", "In", "Whose", "Which"];

/// Words up to which a doc comment is short.
const SHORT: usize = 3;

/// The counts over several files.
#[derive(Default)]
pub(super) struct Text {
    /// Lines that have code.
    pub(super) code_lines: usize,
    /// Lines that are a comment of any kind.
    pub(super) comment_lines: usize,
    /// Comment lines that are too wide.
    pub(super) wide: usize,
    /// Columns of the widest comment line.
    pub(super) widest: usize,
    /// Comment lines that begin with `//` and are no documentation.
    pub(super) plain: usize,
    /// Doc comments of items; several lines are one.
    pub(super) docs: usize,
    /// Doc comments that begin with one of [`WEAK`].
    pub(super) openings: usize,
    /// Doc comments of at most [`SHORT`] words.
    pub(super) short_docs: usize,
    /// Files with a header.
    pub(super) headers: usize,
    /// Files whose header is a single line.
    pub(super) short_headers: usize,
    types: BTreeMap<String, usize>,
}

impl Text {
    /// Adds the lines of a file.
    pub(super) fn add(&mut self, text: &str) {
        let header = text.lines().take_while(|line| line.starts_with("//!")).count();
        self.headers += usize::from(header > 0);
        self.short_headers += usize::from(header == 1);
        let mut doc = String::new();
        for line in text.lines() {
            let trimmed = line.trim();
            if let Some(words) = trimmed.strip_prefix("///") {
                doc.push_str(words);
                doc.push(' ');
            } else {
                self.doc(&std::mem::take(&mut doc));
            }
            self.line(line, trimmed);
        }
        self.doc(&doc);
    }

    /// Returns the names that more than one type has.
    pub(super) fn names_of_several_types(&self) -> Vec<&str> {
        self.types.iter().filter(|(_, count)| **count > 1).map(|(name, _)| name.as_str()).collect()
    }

    fn line(&mut self, line: &str, trimmed: &str) {
        if trimmed.starts_with("//") {
            let columns = line.chars().count();
            self.comment_lines += 1;
            self.wide += usize::from(columns > LAST);
            self.widest = self.widest.max(columns);
            self.plain += usize::from(!trimmed.starts_with("///") && !trimmed.starts_with("//!"));
        } else if !trimmed.is_empty() {
            self.code_lines += 1;
            if let Some(name) = type_name(line) {
                *self.types.entry(name.to_owned()).or_default() += 1;
            }
        }
    }

    fn doc(&mut self, text: &str) {
        let mut words = text.split_whitespace();
        let Some(first) = words.next() else { return };
        self.docs += 1;
        self.openings += usize::from(WEAK.contains(&first));
        self.short_docs += usize::from(words.count() < SHORT);
    }
}

/// Returns the name of the type that a line defines. Indented aliases belong to traits.
fn type_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let mut word = words.next()?;
    if word == "pub" || word.starts_with("pub(") {
        word = words.next()?;
    }
    let defines = matches!(word, "struct" | "enum" | "trait") || (word == "type" && !line.starts_with(' '));
    let name = words.next().filter(|_| defines)?;
    name.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> Text {
        let mut all = Text::default();
        all.add(text);
        all
    }

    #[test]
    fn docs_are_counted_once_and_by_their_first_word() {
        let text =
            count("/// What it is,\n/// and more.\nfn a() {}\n/// Returns one.\nfn b() {}\n/// Whatever it takes.");
        assert_eq!((text.docs, text.openings, text.short_docs), (3, 1, 2));
    }

    #[test]
    fn comments_are_told_apart() {
        let text = count("//! Header.\n\n// why\nfn a() {\n    // why\n}\n/// Doc.\n");
        assert_eq!((text.comment_lines, text.plain, text.code_lines), (4, 2, 2));
        let text = count(&format!("//{}\n//{}\n", "x".repeat(98), "x".repeat(99)));
        assert_eq!((text.wide, text.widest), (1, 101));
    }

    #[test]
    fn headers_of_one_line_are_found() {
        let mut text = count("//! One.\n");
        text.add("//! Two\n//! lines.\n");
        text.add("fn a() {}\n");
        assert_eq!((text.headers, text.short_headers), (2, 1));
    }

    #[test]
    fn types_are_known_by_their_names() {
        let text = count("pub struct A<T>(T);\npub(crate) enum B {\ntrait A {\n    type B = u8;\ntype C = u8;\n");
        assert_eq!(text.names_of_several_types(), ["A"]);
    }
}
