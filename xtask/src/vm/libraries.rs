//! Finds the shared libraries of a program of this system, to copy them into the machine's file
//! system.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::shell;

/// Returns the paths of the program, its libraries and its loader.
pub(crate) fn with_needed(program: &Path) -> Result<Vec<PathBuf>> {
    let text = shell::output(Command::new("ldd").arg(program))?;
    Ok(std::iter::once(program.to_owned()).chain(paths(&text)).collect())
}

/// Parses the output of `ldd`: `name => path (address)` or `path (address)`.
fn paths(text: &str) -> Vec<PathBuf> {
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux.so.2 (0x3)\n";
        assert_eq!(paths(text), [PathBuf::from("/lib/libc.so.6"), PathBuf::from("/lib64/ld-linux.so.2")]);
    }
}
