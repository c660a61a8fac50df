//! Enters a network that `cargo xtask demo --keep` left, and explains how.

use anyhow::{Context, Result, bail};
use ropeway_tests::machine::Machine;
use ropeway_tests::run;

use super::NAME;

/// Prints commands for looking around in the kept network.
pub(super) fn explain_kept() {
    println!(
        "
The network is still up. To look around:
  cargo xtask demo --enter n1                                   a shell on a node; n2, n3, client, or a pod: n1/shell
  cargo xtask demo --enter n1 -- ropeway service list           frontends, backends, who got how many connections
  cargo xtask demo --enter n1 -- ropeway status                 programs, links and maps
  cargo xtask demo --enter n1 -- sh -c 'bpftool map dump pinned /sys/fs/bpf/ropeway/*/maps/frontends4'
  cargo xtask demo --enter n1/shell -- curl http://10.96.0.80   a pod asks the Service
  cargo xtask demo --enter client -- curl http://192.168.50.12:30080
  ls /tmp/{NAME}/manifests                                edit the Service, and see it change
To remove it:
  cargo xtask demo --down
"
    );
}

/// Runs a command, or a shell, in a kept network.
pub(super) fn enter(place: &str, words: &[String]) -> Result<()> {
    let Some(directories) = run::kept(NAME)? else {
        bail!("no network is up; `cargo xtask demo --keep` leaves one up")
    };
    let (machine, pod) = place.split_once('/').map_or((place, None), |(machine, pod)| (machine, Some(pod)));
    let machine = Machine::find(&directories, machine)?;
    let default = ["bash".to_owned()];
    let (program, arguments) =
        if words.is_empty() { &default[..] } else { words }.split_first().context("no command to run is named")?;
    let program =
        ropeway_tests::binaries::find(program).map_or_else(|_| program.into(), std::path::PathBuf::into_os_string);
    let mut command = match pod {
        Some(pod) => machine.command_in(&format!("pods/{pod}"), Some(&format!("/run/netns/{pod}")), program)?,
        None => machine.command(program)?,
    };
    let status = command.args(arguments).status()?;
    if !status.success() {
        bail!("the command ended with {status}");
    }
    Ok(())
}
