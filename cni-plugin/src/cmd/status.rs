//! STATUS: reports whether an ADD would succeed now: pins, ranges, store, a free address per
//! family.
//!
//! The agent need not run.

use dataplane_host::store::{AddressStore, LOCK_DEADLINE};

use crate::config::NetworkConfig;
use crate::dataplane::{PodMaps, PodPrograms};
use crate::error::CniError;
use crate::ranges::{self, PodRequest};

pub(crate) fn run(config: &NetworkConfig) -> Result<(), CniError> {
    config.require("STATUS", "1.1.0")?;
    let Err(reason) = check(config) else { return Ok(()) };
    let reason = Box::new(reason);
    if has_pods(config) { Err(CniError::Degraded { reason }) } else { Err(CniError::NotReady { reason }) }
}

fn check(config: &NetworkConfig) -> Result<(), CniError> {
    PodMaps::open(&config.pin_root)?;
    PodPrograms::open(&config.pin_root)?;
    let ranges = ranges::resolve(config, config.node_defaults()?.as_ref(), PodRequest::default())?;
    let store = AddressStore::open(&config.state_dir)?;
    let mut locked = store.lock(LOCK_DEADLINE)?;
    for choice in &ranges.choices()? {
        if !locked.has_free(choice)? {
            return Err(CniError::NoneFree { ranges: choice.ranges.iter().map(ToString::to_string).collect() });
        }
    }
    Ok(())
}

/// Returns whether there are pods whose programs or maps are missing: they may lose their network.
/// Exhausted ranges do not affect running pods.
fn has_pods(config: &NetworkConfig) -> bool {
    if PodMaps::open(&config.pin_root).is_ok() && PodPrograms::open(&config.pin_root).is_ok() {
        return false;
    }
    let attachments = || match AddressStore::open_existing(&config.state_dir)? {
        Some(store) => store.lock(LOCK_DEADLINE)?.attachments(),
        None => Ok(Vec::new()),
    };
    attachments().is_ok_and(|all| !all.is_empty())
}
