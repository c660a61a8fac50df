//! Sysctls of the whole machine: saves their values before the first cluster, so that `down` can
//! restore them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::layout::Layout;
use super::settings::{MACHINE_SYSCTLS, RAISED_SYSCTLS};

fn saved(layout: &Layout) -> PathBuf {
    layout.run().join("sysctls.json")
}

fn path(sysctl: &str) -> PathBuf {
    Path::new("/proc/sys").join(sysctl)
}

/// Saves the present values, unless they are saved already, and raises those that are too small.
pub(super) fn prepare(layout: &Layout) -> Result<()> {
    if !saved(layout).exists() {
        let mut values = BTreeMap::new();
        for sysctl in MACHINE_SYSCTLS {
            values.insert(
                *sysctl,
                fs::read_to_string(path(sysctl)).with_context(|| format!("cannot read sysctl {sysctl}"))?,
            );
        }
        fs::write(saved(layout), serde_json::to_vec_pretty(&values)?)?;
    }
    for (sysctl, least) in RAISED_SYSCTLS {
        let present: u64 = fs::read_to_string(path(sysctl))?
            .trim()
            .parse()
            .with_context(|| format!("sysctl {sysctl} is not a number"))?;
        if present < least.parse()? {
            fs::write(path(sysctl), least).with_context(|| format!("cannot set sysctl {sysctl}"))?;
        }
    }
    Ok(())
}

/// Restores the saved values.
pub(super) fn restore(layout: &Layout) -> Result<()> {
    let text = match fs::read(saved(layout)) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let values: BTreeMap<String, String> = serde_json::from_slice(&text)?;
    for (sysctl, value) in values {
        if fs::read_to_string(path(&sysctl))? != value {
            fs::write(path(&sysctl), value.trim()).with_context(|| format!("cannot restore sysctl {sysctl}"))?;
        }
    }
    Ok(())
}
