//! `cargo xtask bench WHAT`: builds, measures and prints a table, followed by one line for each
//! figure: `figure <name> <value> <unit> (<min> to <max>)`.
//!
//! With `--record` the figures replace those in docs/figures.json, from which the documents have
//! theirs. Benchmarks are built for [`build::HOST`], whose folder is not that of the binaries in
//! `target/release`.

#[allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "statistics of small numbers")]
mod cni;
mod packet;
pub(crate) mod record;
mod store;
mod sync;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::build;
use crate::paths::Paths;
use crate::setup::{self, Need};

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
    /// Write the figures to docs/figures.json
    #[arg(long, global = true)]
    record: bool,
}

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
pub(crate) fn run(paths: &Paths, options: &Options) -> Result<()> {
    let (name, figures) = match options.what {
        What::Packet => ("packet", packet::run(paths)?),
        What::Sync => ("sync", sync::run(paths)?),
        What::Store => ("store", store::run(paths)?),
        What::Cni => {
            setup::packages(&[Need::ReferencePlugins])?;
            build::all(paths)?;
            ("cni", cni::run(paths)?)
        }
    };
    record::report(paths, name, &figures, options.record)
}
