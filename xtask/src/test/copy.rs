//! A copy of the checkout in which sources are changed.
//!
//! It stays in the target directory, so that builds in it are incremental from one run to the next.
//! The checkout itself is never changed. The copy has a target directory of its own: cargo knows a
//! package by its path below the workspace, so a changed build of the copy would pass for one of
//! the checkout.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::shell;

/// Name of folders with build output, in the copy as in the checkout.
const TARGET: &str = "target";

/// Makes the copy `name` equal to the checkout: to its tracked files, as they are now, and to new
/// ones that git does not ignore. Returns the paths of the copy.
pub(super) fn make(paths: &Paths, name: &str) -> Result<Paths> {
    let root = paths.target.join(name);
    let copy = Paths { target: root.join(TARGET), root };
    let mut git = Command::new("git");
    git.current_dir(&paths.root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = shell::output(&mut git)?;
    // A deleted file is listed until its removal is staged.
    let is_present = |name: &&str| !name.is_empty() && paths.root.join(name).is_file();
    let names: BTreeSet<_> = listed.split('\0').filter(is_present).map(PathBuf::from).collect();
    for name in &names {
        copy_changed(&paths.root.join(name), &copy.root.join(name))
            .with_context(|| format!("cannot copy {}", name.display()))?;
    }
    remove_others(&copy.root, Path::new(""), &names)?;
    fs::create_dir_all(&copy.target).with_context(|| format!("cannot create {}", copy.target.display()))?;
    Ok(copy)
}

/// Copies a file unless the copy is equal: a new modification time would have cargo build it again.
fn copy_changed(from: &Path, to: &Path) -> Result<()> {
    if fs::read(to).is_ok_and(|old| fs::read(from).is_ok_and(|new| old == new)) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to)?;
    Ok(())
}

/// Removes the files of the copy that the checkout does not have.
fn remove_others(root: &Path, folder: &Path, names: &BTreeSet<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(root.join(folder)).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = folder.join(entry.file_name());
        if entry.file_name() == TARGET {
            continue;
        }
        if entry.file_type()?.is_dir() {
            remove_others(root, &name, names)?;
        } else if !names.contains(&name) {
            fs::remove_file(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_follows_the_checkout() {
        let root = std::env::temp_dir().join(format!("ropeway-copy-{}", std::process::id()));
        let paths = Paths { root: root.clone(), target: root.join("target") };
        fs::create_dir_all(root.join("src")).unwrap();
        for (name, content) in [(".gitignore", "target/\n"), ("src/a.rs", "1"), ("src/b.rs", "2")] {
            fs::write(root.join(name), content).unwrap();
        }
        let git = |arguments: &[&str]| {
            shell::output(Command::new("git").current_dir(&root).args(arguments)).unwrap();
        };
        git(&["init", "--quiet"]);
        git(&["add", "src/a.rs"]);
        let copy = make(&paths, "copy").unwrap();
        let read = |name: &str| fs::read_to_string(copy.root.join(name)).ok();
        assert_eq!((read("src/a.rs").as_deref(), read("src/b.rs").as_deref()), (Some("1"), Some("2")));

        let time = || fs::metadata(copy.root.join("src/b.rs")).unwrap().modified().unwrap();
        let before = time();
        fs::write(copy.root.join("src/a.rs"), "a mutant that was not taken back").unwrap();
        fs::write(copy.root.join("src/regressions.txt"), "3").unwrap();
        fs::remove_file(root.join("src/a.rs")).unwrap();
        make(&paths, "copy").unwrap();
        assert_eq!((read("src/a.rs"), read("src/regressions.txt")), (None, None));
        assert_eq!(time(), before, "what is equal keeps its time");
        fs::write(copy.target.join("output"), "4").unwrap();
        make(&paths, "copy").unwrap();
        assert!(copy.target.join("output").exists(), "build output stays");
        fs::remove_dir_all(&root).unwrap();
    }
}
