//! `cargo xtask bench WHAT`: builds, measures and prints a table, followed by one line for each
//! figure: `figure <name> <value> <unit>`.

#[allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "statistics of small numbers")]
mod cni;
mod packet;
mod store;
mod sync;

use anyhow::Result;
use clap::Subcommand;

use crate::build;
use crate::paths::Paths;
use crate::setup::{self, Need};

/// The benchmarks of the project.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Nanoseconds of the packet program for a hit, a new flow and a miss, against bare map
    /// operations (as root)
    Packet,
    /// 50,000 Services into the maps against a bare batch update, single changes, the agent's
    /// memory (as root)
    Sync,
    /// Durable allocation of an address, in an empty /16 and in one with 60,000 addresses in use
    Store,
    /// ADD and DEL of the CNI plugin against the reference plugins ptp and host-local (as root)
    Cni,
}

/// Builds and runs one benchmark.
pub(crate) fn run(paths: &Paths, what: &What) -> Result<()> {
    match what {
        What::Packet => packet::run(paths),
        What::Sync => sync::run(paths),
        What::Store => store::run(paths),
        What::Cni => {
            setup::packages(&[Need::ReferencePlugins])?;
            build::all(paths)?;
            cni::run(paths)
        }
    }
}
