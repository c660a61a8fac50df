//! DEL: block the pod's traffic, mark its addresses, answer; a child then removes the device and frees the addresses.
//!
//! Succeeds when there is nothing left to do: no namespace, no pins, no record, no store.

use std::path::Path;

use dataplane_host::netlink::Socket;
use dataplane_host::store::{Releasing, Store};

use super::LOCK_DEADLINE;
use crate::config::Config;
use crate::dataplane::Maps;
use crate::env::Invocation;
use crate::error::CniError;
use crate::{log, undo};

pub(crate) fn run(invocation: &Invocation, config: &Config) -> Result<(), CniError> {
    let maps = Maps::open(&config.pin_root).map_err(|e| log(&format!("no maps to clean: {e}"))).ok();
    let mut socket = Socket::open()?;
    let Some(store) = open_store(&config.state_dir)? else {
        return remove_unrecorded(invocation, &mut socket, maps.as_ref());
    };
    let mut locked = store.lock(LOCK_DEADLINE)?;
    let mine = locked.begin_release(&invocation.id)?;
    let elsewhere = mine.is_none() && locked.is_releasing(&invocation.id)?;
    let mut going = locked.orphans()?;
    locked.findings().iter().for_each(|finding| log(finding));
    drop(locked);
    match mine {
        Some(mine) => {
            block(&mut socket, &mine, maps.as_ref())?;
            going.insert(0, mine);
        }
        None if elsewhere => {} // An earlier DEL has blocked it and is still at work.
        None => remove_unrecorded(invocation, &mut socket, maps.as_ref())?,
    }
    undo::release_in_background(&store, &going, maps.as_ref())
}

/// The store, unless there never was one.
fn open_store(state_dir: &Path) -> Result<Option<Store>, CniError> {
    if state_dir.join("addresses").is_dir() { Ok(Some(Store::open(state_dir)?)) } else { Ok(None) }
}

fn block(socket: &mut Socket, releasing: &Releasing, maps: Option<&Maps>) -> Result<(), CniError> {
    let record = &releasing.record;
    undo::block(socket, &record.host_ifname, &record.addresses, maps).map(drop)
}

/// A device that has the name of ours though the store knows of none.
fn remove_unrecorded(invocation: &Invocation, socket: &mut Socket, maps: Option<&Maps>) -> Result<(), CniError> {
    let name = invocation.id.host_ifname();
    let Some(link) = socket.link_by_name(&name)?.filter(|l| l.kind.as_deref() == Some("veth")) else { return Ok(()) };
    let addresses = maps.map_or(Ok(Vec::new()), |m| m.addresses_of(link.index))?;
    let index = undo::block(socket, &name, &addresses, maps)?;
    undo::remove_device(socket, index)
}
