//! `down`: removes a cluster with its processes, mounts, namespaces and cgroups, and restores the
//! sysctls.
//!
//! Works from any half-built state. A failed removal does not stop the others; all failures are
//! listed at the end.

use std::fs;

use anyhow::{Result, bail};

use super::layout::Layout;
use super::step::Steps;
use super::{cgroups, daemon, machine, network};

/// Removes everything but the cache; the logs stay until the next `up` unless `purge`.
pub(super) fn run(layout: &Layout, steps: &Steps, purge: bool) -> Result<()> {
    let mut problems = Vec::new();
    let mut attempt = |what: &str, work: &dyn Fn() -> Result<()>| {
        if let Err(error) = steps.step(what, work) {
            problems.push(format!("{error:#}"));
        }
    };
    attempt("ending all processes", &|| processes(layout));
    attempt("removing the cgroups", &cgroups::remove);
    attempt("removing the network namespaces", &network::remove);
    attempt("putting the machine's sysctls back", &|| machine::restore(layout));
    attempt("removing the nodes' files", &|| files(layout, purge));
    if !problems.is_empty() {
        bail!("removal incomplete:\n  {}", problems.join("\n  "));
    }
    Ok(())
}

/// Removes nodes first: the end of their first process ends everything in them.
fn processes(layout: &Layout) -> Result<()> {
    let mut names = daemon::names(layout);
    names.sort_by_key(|name| !name.starts_with("node-"));
    for name in names {
        daemon::kill(layout, &name)?;
    }
    Ok(())
}

/// Removes all files of a cluster except its logs and results.
fn files(layout: &Layout, purge: bool) -> Result<()> {
    let run = layout.run();
    if !run.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&run)? {
        let entry = entry?;
        let keep = !purge && ["log", "results"].iter().any(|name| entry.file_name() == *name);
        if keep {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    if purge {
        fs::remove_dir(&run)?;
    }
    Ok(())
}
