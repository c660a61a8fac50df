//! Checks the dependencies between the crates: common <- host <- user and plugin, never sideways.
//!
//! Compares a table with cargo's metadata. `rooms.rs` checks the layers inside a crate.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths::Paths;
use crate::shell;

/// Each crate, and the crates of this checkout that it may use. Tests and xtask may use all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("dataplane-common", &[]),
    ("dataplane-ebpf", &["dataplane-common"]),
    ("dataplane-host", &["dataplane-common"]),
    ("dataplane-user", &["dataplane-common", "dataplane-host"]),
    ("cni-plugin", &["dataplane-common", "dataplane-host"]),
];

/// Compares the manifests with the table above.
pub(super) fn check(paths: &Paths) -> Result<()> {
    let mut wrong = Vec::new();
    for directory in [&paths.root, &paths.ebpf_crate()] {
        let mut cargo = shell::cargo(directory);
        let text = shell::output(cargo.args(["metadata", "--no-deps", "--format-version", "1"]))?;
        wrong.extend(forbidden(&serde_json::from_str(&text)?)?);
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}

/// Returns the dependencies in cargo's metadata that the table does not allow.
fn forbidden(metadata: &Value) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().context("the output of cargo metadata has no list `packages`")? {
        let name = package["name"].as_str().context("a package in the output of cargo metadata has no `name`")?;
        let Some((_, allowed)) = MAY_USE.iter().find(|(of, _)| *of == name) else { continue };
        for dependency in package["dependencies"]
            .as_array()
            .context("a package in the output of cargo metadata has no list `dependencies`")?
        {
            let on = dependency["name"].as_str().unwrap_or_default();
            let ours = dependency["path"].is_string();
            let for_tests_only = dependency["kind"] == "dev";
            if ours && !for_tests_only && !allowed.contains(&on) {
                wrong.push(format!("{name} must not depend on {on}"));
            }
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, on: &str, kind: &Value) -> Value {
        json!({"packages": [{"name": name, "dependencies": [{"name": on, "path": "/x", "kind": kind}]}]})
    }

    #[test]
    fn sideways_and_upwards_are_forbidden() {
        assert_eq!(forbidden(&package("cni-plugin", "dataplane-user", &Value::Null)).unwrap().len(), 1);
        assert_eq!(forbidden(&package("dataplane-common", "dataplane-host", &Value::Null)).unwrap().len(), 1);
    }

    #[test]
    fn downwards_and_tests_are_free() {
        assert!(forbidden(&package("cni-plugin", "dataplane-host", &Value::Null)).unwrap().is_empty());
        assert!(forbidden(&package("cni-plugin", "ropeway-tests", &json!("dev"))).unwrap().is_empty());
        assert!(forbidden(&package("xtask", "dataplane-user", &Value::Null)).unwrap().is_empty());
    }
}
