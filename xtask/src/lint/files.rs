//! Lists the files of the checkout that the checks of this folder read.
//!
//! Paths are relative to the root of the checkout and sorted. Build directories and hidden folders
//! are left out. Reads directories and files, changes nothing.

use std::path::Path;

use anyhow::{Context, Result};

use crate::paths::Paths;

/// Folders without source files of this project: build output, downloaded tools and running
/// clusters.
const FOREIGN: &[&str] = &["target", "cache", "run"];

/// A text file of the checkout.
pub(super) struct File {
    /// Path relative to the root of the checkout, with `/` between the parts.
    pub(super) name: String,
    /// The file's content.
    pub(super) text: String,
}

/// Returns every file below `folder` whose name ends in one of `extensions` (without the dot).
pub(super) fn below(paths: &Paths, folder: &str, extensions: &[&str]) -> Result<Vec<File>> {
    let mut names = Vec::new();
    collect(&paths.root, folder, extensions, &mut names)?;
    names.sort();
    let read = |name: String| {
        let text = std::fs::read_to_string(paths.root.join(&name)).with_context(|| format!("cannot read {name}"))?;
        Ok(File { name, text })
    };
    names.into_iter().map(read).collect()
}

fn collect(root: &Path, folder: &str, extensions: &[&str], names: &mut Vec<String>) -> Result<()> {
    let entries = std::fs::read_dir(root.join(folder)).with_context(|| format!("cannot list {folder}"))?;
    for entry in entries {
        let entry = entry?;
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let name = if folder.is_empty() { file_name.clone() } else { format!("{folder}/{file_name}") };
        if entry.file_type()?.is_dir() {
            if !file_name.starts_with('.') && !FOREIGN.contains(&file_name.as_str()) {
                collect(root, &name, extensions, names)?;
            }
        } else if file_name.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension)) {
            names.push(name);
        }
    }
    Ok(())
}
