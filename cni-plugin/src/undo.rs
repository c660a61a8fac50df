//! Takes an attachment back from whatever state it is in: a failed ADD, a repeated ADD, DEL, the remains of a killed process.

use std::io;

use dataplane_host::netlink::{Socket, delete_link};
use dataplane_host::store::{Attachment, Record, Store};

use crate::dataplane::Maps;
use crate::error::CniError;
use crate::log;
use crate::sys::{self, Side};

/// Stops the pod's traffic: takes it out of the maps. Says which index its device has, if there is one.
pub(crate) fn block(socket: &mut Socket, record: &Record, maps: Option<&Maps>) -> Result<Option<u32>, CniError> {
    let index = socket.link_by_name(&record.host_ifname)?.map(|link| link.index);
    if let Some(maps) = maps {
        maps.remove(record, index)?;
    }
    Ok(index)
}

/// Removes the device, and with it all that hangs on it. The kernel takes its time: tens of milliseconds.
pub(crate) fn remove_device(socket: &mut Socket, index: Option<u32>) -> Result<(), CniError> {
    let Some(index) = index else { return Ok(()) };
    match socket.run(&[delete_link(index)]) {
        Err(e) if !e.is_missing() => Err(e.into()),
        _ => Ok(()),
    }
}

/// All of the kernel's part at once.
pub(crate) fn detach(socket: &mut Socket, record: &Record, maps: Option<&Maps>) -> Result<(), CniError> {
    let index = block(socket, record, maps)?;
    remove_device(socket, index)
}

/// Detaches and frees the addresses, all in this process.
pub(crate) fn release(
    socket: &mut Socket,
    store: &Store,
    attachment: &Attachment,
    maps: Option<&Maps>,
) -> Result<(), CniError> {
    detach(socket, &attachment.record, maps)?;
    Ok(store.finish_release(attachment)?)
}

/// Releases attachments in a process of its own, so that the runtime need not wait for the kernel; in this one where
/// that can't be had. What stays undone, the next process that takes the lock does.
pub(crate) fn release_in_background(store: &Store, going: &[Attachment], maps: Option<&Maps>) -> Result<(), CniError> {
    if going.is_empty() {
        return Ok(());
    }
    let everything = || {
        let mut socket = Socket::open()?;
        // One that fails does not keep the others; it stays marked for the next process.
        let results: Vec<_> = going.iter().map(|attachment| release(&mut socket, store, attachment, maps)).collect();
        results.into_iter().collect()
    };
    match detach_standard_streams().and_then(|()| sys::fork()) {
        Ok(Side::Parent) => Ok(()),
        Ok(Side::Child) => {
            let left = leave_session().map_err(|e| CniError::io("leave the session", e));
            std::process::exit(i32::from(left.and_then(|()| everything()).is_err()));
        }
        Err(e) => {
            log(&format!("no process of its own for the release: {e}"));
            everything()
        }
    }
}

/// The runtime waits until nobody has its pipes open any more, so the child must never have them.
fn detach_standard_streams() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

/// Signals to the runtime's process group are not for us, and its directory is not held by us.
fn leave_session() -> io::Result<()> {
    rustix::process::setsid()?;
    std::env::set_current_dir("/")
}
