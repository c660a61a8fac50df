//! Removes an attachment from any state: after a failed or repeated ADD, for DEL, after a killed
//! process.
//!
//! Each function can be repeated. Kernel objects go first, addresses last.

use dataplane_host::netlink::{IfIndex, Socket, delete_link};
use dataplane_host::store::{AddressStore, Attachment, AttachmentRecord};

use crate::background;
use crate::dataplane::PodMaps;
use crate::error::CniError;

/// Stops the pod's traffic: takes it out of the maps. Returns the index of its device, if it has
/// one.
pub(crate) fn block(
    socket: &mut Socket,
    record: &AttachmentRecord,
    maps: Option<&PodMaps>,
) -> Result<Option<IfIndex>, CniError> {
    let index = socket.link_by_name(&record.host_ifname)?.map(|link| link.index);
    if let Some(maps) = maps {
        maps.remove(record, index)?;
    }
    Ok(index)
}

/// Removes the device and with it addresses, routes and filters. The kernel needs tens of
/// milliseconds.
pub(crate) fn remove_device(socket: &mut Socket, index: Option<IfIndex>) -> Result<(), CniError> {
    let Some(index) = index else { return Ok(()) };
    match socket.run(&[delete_link(index)]) {
        Err(e) if !e.is_missing() => Err(e.into()),
        _ => Ok(()),
    }
}

/// Removes map entries and device.
pub(crate) fn detach(socket: &mut Socket, record: &AttachmentRecord, maps: Option<&PodMaps>) -> Result<(), CniError> {
    let index = block(socket, record, maps)?;
    remove_device(socket, index)
}

/// Detaches and frees the addresses, all in this process.
pub(crate) fn release(
    socket: &mut Socket,
    store: &AddressStore,
    attachment: &Attachment,
    maps: Option<&PodMaps>,
) -> Result<(), CniError> {
    detach(socket, &attachment.record, maps)?;
    Ok(store.finish_release(attachment)?)
}

/// Releases attachments in the background. The next process that takes the lock does what fails
/// here.
pub(crate) fn release_in_background(
    store: &AddressStore,
    going: &[Attachment],
    maps: Option<&PodMaps>,
) -> Result<(), CniError> {
    if going.is_empty() {
        return Ok(());
    }
    background::run("release", || {
        let mut socket = Socket::open()?;
        // An attachment that fails does not delay the others; it stays marked for the next process.
        let results: Vec<_> = going.iter().map(|attachment| release(&mut socket, store, attachment, maps)).collect();
        results.into_iter().collect()
    })
}
