//! Checks the length of every source file, its header, and that unsafe code stays behind the doors.
//!
//! Reads the text and the tokens of a file, never its meaning: rustc and clippy check that. A
//! header should have 3 to 10 lines, which `lint --figures` counts and this check does not
//! enforce.

use anyhow::{Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::files;
use crate::paths::Paths;

/// The largest number of lines of a file.
const LONGEST: usize = 500;

/// The only files and folders with unsafe code.
const DOORS: &[&str] = &[
    "dataplane-host/src/sys.rs",
    "dataplane-host/src/sys/",
    "cni-plugin/src/sys.rs",
    "dataplane-common/src/types/plain.rs",
    "dataplane-ebpf/src/kernel/",
    "dataplane-ebpf/src/kernel.rs",
];

/// The folders with source files.
const FOLDERS: &[&str] =
    &["dataplane-common", "dataplane-ebpf", "dataplane-host", "dataplane-user", "cni-plugin", "tests", "xtask"];

/// Checks every source file of the checkout.
pub(super) fn check(paths: &Paths) -> Result<()> {
    let mut count = 0;
    let mut wrong = Vec::new();
    for folder in FOLDERS {
        for file in files::below(paths, folder, &["rs"])? {
            count += 1;
            wrong.extend(violations(&file.name, &file.text)?);
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("{count} files");
    Ok(())
}

/// Returns the faults of one file.
fn violations(name: &str, text: &str) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST {
        wrong.push(format!("{name}: {lines} lines; {LONGEST} is the limit"));
    }
    if !text.starts_with("//!") {
        wrong.push(format!("{name}: no header: start with `//!` and what this file owns"));
    }
    if !DOORS.iter().any(|door| name == *door || (door.ends_with('/') && name.starts_with(door))) {
        let tokens: TokenStream = text.parse().map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
        for line in unsafe_lines(tokens) {
            wrong.push(format!("{name}:{line}: unsafe code outside the doors"));
        }
    }
    Ok(wrong)
}

/// Returns the lines with the keyword `unsafe`. In an attribute (`#[unsafe(no_mangle)]`) it marks
/// the name of a symbol or section and is no unsafe code.
fn unsafe_lines(tokens: TokenStream) -> Vec<usize> {
    let mut lines = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(word) if word == "unsafe" => {
                let next = tokens.peek();
                let attribute = matches!(next, Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Parenthesis);
                if !attribute {
                    lines.push(word.span().start().line);
                }
            }
            TokenTree::Group(group) => lines.extend(unsafe_lines(group.stream())),
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_file_passes() {
        assert!(
            violations("tests/src/x.rs", "//! Header.\n// unsafe in a comment\nconst A: &str = \"unsafe\";\n")
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn unsafe_is_found_where_it_is() {
        let text = "//! Header.\nfn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(violations("tests/src/x.rs", text).unwrap(), ["tests/src/x.rs:3: unsafe code outside the doors"]);
        let attribute = "//! Header.\n#[unsafe(no_mangle)]\nstatic A: u8 = 0;\n";
        assert!(violations("tests/src/x.rs", attribute).unwrap().is_empty());
        assert!(violations("cni-plugin/src/sys.rs", text).unwrap().is_empty());
        assert!(violations("dataplane-ebpf/src/kernel/skb.rs", text).unwrap().is_empty());
    }

    #[test]
    fn long_file_and_missing_header_are_reported() {
        let long = "\n".repeat(501);
        assert_eq!(violations("x.rs", &long).unwrap().len(), 2);
    }
}
