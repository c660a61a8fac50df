//! Finds the paths in a source file that lead into another room of the same crate.
//!
//! Reads tokens, so that comments and strings do not count. Follows `crate::`, `super::`, `self::`
//! and the groups of `use`. Leaves out what `#[cfg(test)]` is written on and modules named `tests`.
//! Does not see a room that is reached through a name which the crate's root exports again.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};

use crate::lint::files::File;

/// A use of one room by another: a path in the source, such as `crate::wire::checksum`.
#[derive(Debug)]
pub(super) struct Arrow {
    /// The room of the file.
    pub(super) from: String,
    /// The first name below the crate's root in the path.
    pub(super) to: String,
    /// File and line of the path.
    pub(super) place: String,
}

/// Returns the arrows in a source file; `module` is its module path.
pub(super) fn of(file: &File, module: &[String]) -> Result<Vec<Arrow>> {
    let tokens: TokenStream = file.text.parse().map_err(|error| anyhow!("{}: {error}", file.name))?;
    let mut walk = Walk { module: module.to_vec(), found: Vec::new() };
    walk.tokens(tokens);
    let arrow = |(line, to)| Arrow { from: module[0].clone(), to, place: format!("{}:{line}", file.name) };
    Ok(walk.found.into_iter().map(arrow).collect())
}

struct Walk {
    /// The module that the tokens are in.
    module: Vec<String>,
    /// The paths found: line, and first name below the crate's root.
    found: Vec<(usize, String)>,
}

impl Walk {
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let rest = &tokens[at..];
            at += match &rest[0] {
                TokenTree::Punct(mark) if mark.as_char() == '#' && for_tests(rest) => item_length(rest),
                TokenTree::Ident(word) if word == "mod" => self.inline_module(rest),
                TokenTree::Ident(word) if is_separator(rest, 1) && !(at > 0 && is_colon(&tokens[at - 1])) => {
                    self.path(word, &rest[3..]);
                    3
                }
                TokenTree::Group(group) => {
                    self.tokens(group.stream());
                    1
                }
                _ => 1,
            };
        }
    }

    /// Walks `mod name { .. }` unless it is `tests`; returns the number of tokens that are done.
    fn inline_module(&mut self, tokens: &[TokenTree]) -> usize {
        let [_, TokenTree::Ident(name), TokenTree::Group(body), ..] = tokens else { return 1 };
        if name != "tests" {
            self.module.push(name.to_string());
            self.tokens(body.stream());
            self.module.pop();
        }
        3
    }

    /// Follows a path that begins with `first`; `rest` are the tokens after its `::`.
    fn path(&mut self, first: &Ident, rest: &[TokenTree]) {
        let mut base = if first == "crate" { Vec::new() } else { self.module.clone() };
        if first == "super" {
            base.pop();
        } else if first != "crate" && first != "self" {
            return;
        }
        self.tail(base, rest);
    }

    /// Follows the rest of a path from the module `base`.
    fn tail(&mut self, mut base: Vec<String>, rest: &[TokenTree]) {
        match rest.first() {
            Some(TokenTree::Ident(word)) if word == "super" => {
                base.pop();
                if is_separator(rest, 1) {
                    self.tail(base, &rest[3..]);
                }
            }
            Some(TokenTree::Ident(word)) if base.is_empty() && word != "self" => {
                self.found.push((word.span().start().line, word.to_string()));
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => self.group(&base, group),
            _ => {}
        }
    }

    /// Follows each path of `{a::b, c}` from the module `base`.
    fn group(&mut self, base: &[String], group: &Group) {
        let tokens: Vec<_> = group.stream().into_iter().collect();
        for path in tokens.split(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',')) {
            self.tail(base.to_vec(), path);
        }
    }
}

fn is_colon(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(mark) if mark.as_char() == ':')
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    tokens.get(at).is_some_and(is_colon) && tokens.get(at + 1).is_some_and(is_colon)
}

/// Returns true if the tokens begin with `#[cfg(test)]`.
fn for_tests(tokens: &[TokenTree]) -> bool {
    let text = |group: &Group| group.stream().to_string().replace(' ', "");
    matches!(tokens.get(1), Some(TokenTree::Group(group)) if text(group) == "cfg(test)")
}

/// Returns the number of tokens of an item: up to its `;` or its block.
fn item_length(tokens: &[TokenTree]) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Punct(mark) => mark.as_char() == ';',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        _ => false,
    };
    tokens.iter().position(ends).map_or(tokens.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(module: &[&str], text: &str) -> Vec<String> {
        let module: Vec<_> = module.iter().map(|part| (*part).to_owned()).collect();
        let file = File { name: "x.rs".into(), text: text.into() };
        of(&file, &module).unwrap().into_iter().map(|arrow| arrow.to).collect()
    }

    #[test]
    fn uses_and_paths_from_the_root_are_found() {
        assert_eq!(found(&["path"], "use crate::wire::Be16;\nfn f() { crate::types::g(); }"), ["wire", "types"]);
        assert_eq!(found(&["path"], "use crate::{wire::{a, b}, maps, types::*};"), ["wire", "maps", "types"]);
        assert_eq!(found(&["path"], "fn f() -> $crate::wire::Be16 {}"), ["wire"]);
    }

    #[test]
    fn super_is_counted_from_the_module() {
        assert_eq!(found(&["path"], "use super::wire::Be16;"), ["wire"]);
        assert_eq!(found(&["path", "entry"], "use super::wire; use super::super::maps;"), ["maps"]);
        assert_eq!(found(&["path", "entry"], "use super::{super::maps, wire};"), ["maps"]);
        assert_eq!(found(&["path"], "mod inner { use super::wire; use super::super::maps; }"), ["maps"]);
    }

    #[test]
    fn visibility_comments_strings_and_other_crates_are_no_arrows() {
        let text = "//! crate::wire\n/// [`crate::wire`]\npub(crate) fn f() { std::mem::drop(\"crate::wire\"); }";
        assert_eq!(found(&["path"], text), [""; 0]);
    }

    #[test]
    fn tests_may_use_every_room() {
        let text = "#[cfg(test)]\nuse crate::wire;\n#[cfg(test)]\nmod tests { use crate::maps; }\nuse crate::types;";
        assert_eq!(found(&["path"], text), ["types"]);
        assert_eq!(found(&["path"], "#[cfg(test)] fn f() { crate::wire::f() } fn g() { crate::maps::f() }"), ["maps"]);
    }

    #[test]
    fn arrow_names_its_line() {
        let file = File { name: "x.rs".into(), text: "//! X.\n\nuse crate::wire;\n".into() };
        let arrows = of(&file, &["path".to_owned()]).unwrap();
        assert_eq!((arrows[0].from.as_str(), arrows[0].place.as_str()), ("path", "x.rs:3"));
    }
}
