//! Checks the layers inside a crate: which room uses which. Such a use is called an arrow.
//!
//! A room is a top-level module of a crate with everything below it. `table.rs` lists the rooms of
//! a crate from the bottom up and what each may use; only rooms further down can be listed, so a
//! table without a fault has no circle. The check compares the table with the paths in the source.
//! Code of tests may use every room.

mod arrows;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use self::arrows::Arrow;
use self::table::Crate;
use super::files;
use crate::paths::Paths;

/// Checks every crate that has a table.
pub(super) fn check(paths: &Paths) -> Result<()> {
    let mut faults = Vec::new();
    for of in table::CRATES {
        let source = format!("{}/src", of.name);
        let mut modules = BTreeSet::new();
        let mut found = Vec::new();
        for file in files::below(paths, &source, &["rs"])? {
            let Some(module) = module_of(file.name.trim_start_matches(&source)) else { continue };
            found.extend(arrows::of(&file, &module)?);
            modules.insert(module[0].clone());
        }
        faults.extend(violations(of, &modules, &found));
        println!("{}: {} rooms, {} arrows", of.name, of.rooms.len(), of.arrows());
    }
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("\n")) }
}

/// Returns the module path of a source file; `None` for roots of crates and for tests.
fn module_of(name: &str) -> Option<Vec<String>> {
    let mut module: Vec<_> = name.trim_matches('/').strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    module.pop_if(|last| last == "mod");
    let test = module.iter().any(|part| part == "tests");
    let root = matches!(module[0].as_str(), "lib" | "main" | "bin");
    (!test && !root).then_some(module)
}

/// Returns the faults of a table, and of the crate's source against it.
fn violations(of: &Crate, modules: &BTreeSet<String>, found: &[Arrow]) -> Vec<String> {
    let mut faults = of.faults();
    for module in modules.iter().filter(|module| of.room(module).is_none()) {
        faults.push(format!("{}/src/{module}: not a room; put it into one, or into rooms/table.rs", of.name));
    }
    for room in of.rooms.iter().filter(|room| !modules.contains(room.name)) {
        faults.push(format!("{}: room `{}` is in rooms/table.rs, but not in src/", of.name, room.name));
    }
    let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for arrow in found.iter().filter(|arrow| modules.contains(&arrow.to) && arrow.from != arrow.to) {
        used.entry(&arrow.from).or_default().insert(&arrow.to);
        if of.room(&arrow.from).is_some_and(|room| !room.uses.contains(&arrow.to.as_str())) {
            faults.push(format!("{}: room `{}` must not use `{}`", arrow.place, arrow.from, arrow.to));
        }
    }
    for room in of.rooms {
        for unused in room.uses.iter().filter(|to| !used.get(room.name).is_some_and(|used| used.contains(**to))) {
            faults.push(format!("{}: `{}` does not use `{unused}`; take it off the table", of.name, room.name));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::table::Room;
    use super::*;

    const HOUSE: Crate = Crate {
        name: "house",
        most_rooms: 3,
        most_arrows: 3,
        rooms: &[
            Room { name: "cellar", uses: &[] },
            Room { name: "kitchen", uses: &["cellar"] },
            Room { name: "attic", uses: &["cellar", "kitchen"] },
        ],
    };

    fn arrow(from: &str, to: &str) -> Arrow {
        Arrow { from: from.into(), to: to.into(), place: format!("{from}.rs:1") }
    }

    fn arrows() -> Vec<Arrow> {
        vec![arrow("kitchen", "cellar"), arrow("attic", "cellar"), arrow("attic", "kitchen"), arrow("attic", "attic")]
    }

    fn modules(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn source_that_follows_the_table_passes() {
        assert_eq!(violations(&HOUSE, &modules(&["attic", "cellar", "kitchen"]), &arrows()), [""; 0]);
    }

    #[test]
    fn arrow_outside_the_table_fails() {
        let mut arrows = arrows();
        arrows.push(arrow("cellar", "attic"));
        let faults = violations(&HOUSE, &modules(&["attic", "cellar", "kitchen"]), &arrows);
        assert_eq!(faults, ["cellar.rs:1: room `cellar` must not use `attic`"]);
    }

    #[test]
    fn arrow_of_the_table_that_no_source_has_fails() {
        let faults = violations(&HOUSE, &modules(&["attic", "cellar", "kitchen"]), &arrows()[..2]);
        assert_eq!(faults, ["house: `attic` does not use `kitchen`; take it off the table"]);
    }

    #[test]
    fn modules_and_rooms_must_match() {
        let mut arrows = arrows();
        arrows.push(arrow("attic", "std"));
        let faults = violations(&HOUSE, &modules(&["attic", "cellar", "kitchen", "shed"]), &arrows);
        assert!(faults.len() == 1 && faults[0].starts_with("house/src/shed: not a room"), "{faults:?}");
        let faults = violations(&HOUSE, &modules(&["attic", "kitchen"]), &[arrow("attic", "kitchen")]);
        assert!(
            faults.contains(&"house: room `cellar` is in rooms/table.rs, but not in src/".to_owned()),
            "{faults:?}"
        );
    }

    #[test]
    fn files_except_roots_and_tests_are_modules() {
        assert_eq!(module_of("/wire.rs").unwrap(), ["wire"]);
        assert_eq!(module_of("/wire/mod.rs").unwrap(), ["wire"]);
        assert_eq!(module_of("/path/entry.rs").unwrap(), ["path", "entry"]);
        for name in ["/lib.rs", "/main.rs", "/bin/ropeway.rs", "/wire/tests.rs", "/wire/tests/crc.rs"] {
            assert_eq!(module_of(name), None, "{name}");
        }
    }
}
