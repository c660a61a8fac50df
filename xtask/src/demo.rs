//! `cargo xtask demo`: shows three nodes, a Service and its documented behaviour.
//!
//! Each step prints its action and the result, and fails if the result is not the documented one.
//! The network is always removed at the end, except with `--keep`.

mod look;
mod show;
mod stage;
mod story;

use anyhow::{Result, bail};
use clap::Args;
use ropeway_tests::cluster::{Cluster, Shape};
use ropeway_tests::run::{self, Run};

use crate::paths::Paths;
use crate::setup::{self, Need};
use crate::{build, shell};

/// A kept network is found by this name.
const NAME: &str = "ropeway-demo";

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave the network up at the end, for a look
    #[arg(long)]
    keep: bool,
    /// Remove a network that was kept
    #[arg(long, conflicts_with = "keep")]
    down: bool,
    /// Run a shell, or the given command, in a kept network: `client`, a node, or a pod as
    /// `n1/shell`
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["keep", "down"])]
    enter: Option<String>,
    /// The command for --enter
    #[arg(last = true, requires = "enter")]
    command: Vec<String>,
}

/// Runs the demo, or enters or removes a kept network.
pub(crate) fn run(paths: &Paths, options: &Options) -> Result<()> {
    shell::require_root("cargo xtask demo")?;
    if let Some(place) = &options.enter {
        build::name_binaries(paths);
        return look::enter(place, &options.command);
    }
    if options.down {
        let was_there = run::remove_kept(NAME)?;
        println!(
            "{}",
            if was_there { "the network of the demo is removed" } else { "there is no network of the demo" }
        );
        return Ok(());
    }
    if run::kept(NAME)?.is_some() {
        bail!("the network of an earlier demo is still up; `cargo xtask demo --down` removes it");
    }
    setup::packages(&[Need::Network])?;
    // Named binaries are used as they are, without a build.
    if std::env::var_os(ropeway_tests::binaries::VARIABLE).is_none() {
        build::for_tests(paths)?;
        build::name_binaries(paths);
    }
    shell::step("making three nodes and a client outside, on one link");
    let run = if options.keep { Run::start_kept(NAME)? } else { Run::start()? };
    let cluster = Cluster::network_in(run, Shape { nodes: 3, mtu: 1500 }, options.keep)?;
    let mut stage = stage::Stage::new(paths, cluster);
    let outcome = story::tell(&mut stage);
    if options.keep {
        stage.keep_running();
        look::explain_kept();
        outcome?;
    } else {
        let cleaned = stage.end();
        outcome?;
        cleaned?;
        println!("everything is removed again; `cargo xtask demo --keep` leaves it up for a look");
    }
    println!("demo: every step showed the documented behaviour");
    Ok(())
}
