//! Measures functions in a source file, from the line of `fn` to the closing brace.
//!
//! Reads tokens. Leaves out declarations without a body and modules named `tests`.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::lint::files::File;

/// Returns the number of lines of each function.
pub(super) fn lengths(file: &File) -> Result<Vec<usize>> {
    let tokens: TokenStream = file.text.parse().map_err(|error| anyhow!("{}: {error}", file.name))?;
    let mut lengths = Vec::new();
    walk(tokens, &mut lengths);
    Ok(lengths)
}

fn walk(tokens: TokenStream, lengths: &mut Vec<usize>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at..] {
            [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(_), ..]
                if word == "mod" && name == "tests" =>
            {
                at += 2;
            }
            [TokenTree::Ident(word), TokenTree::Ident(_), rest @ ..] if word == "fn" => {
                lengths.extend(last_line(rest).map(|last| last + 1 - word.span().start().line));
            }
            [TokenTree::Group(group), ..] => walk(group.stream(), lengths),
            _ => {}
        }
        at += 1;
    }
}

/// Returns the last line of the first block before a `;`.
fn last_line(tokens: &[TokenTree]) -> Option<usize> {
    for token in tokens {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == ';' => return None,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                return Some(group.span_close().end().line);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<usize> {
        lengths(&File { name: "x.rs".into(), text: text.into() }).unwrap()
    }

    #[test]
    fn functions_are_measured_with_those_inside() {
        assert_eq!(found("fn a() {}\nimpl A {\n    fn b<T>(\n    ) -> [u8; 2]\n    {\n        c()\n    }\n}"), [1, 5]);
        assert_eq!(found("fn a() {\n    fn b() {\n    }\n}"), [4, 2]);
    }

    #[test]
    fn declarations_types_and_tests_are_left_out() {
        assert_eq!(found("trait A { fn a(); }\ntype F = fn(u8) -> u8;\nmod tests { fn t() {} }"), [0usize; 0]);
    }
}
