//! DEL: blocks the pod's traffic, marks its addresses as being released, and answers; a child does
//! the rest.
//!
//! Succeeds if there is nothing left to remove: no namespace, no pins, no record, no store. Fails
//! before it removes anything if the maps exist and can't be opened.

use std::time::Instant;

use dataplane_host::netlink::Socket;
use dataplane_host::store::{AddressStore, Attachment, AttachmentClaim, LOCK_DEADLINE};

use crate::config::NetworkConfig;
use crate::dataplane::PodMaps;
use crate::env::Invocation;
use crate::error::CniError;
use crate::log::log;
use crate::rollback;

pub(crate) fn run(invocation: &Invocation, config: &NetworkConfig) -> Result<(), CniError> {
    let maps = PodMaps::open_existing(&config.pin_root)?;
    let mut socket = Socket::open()?;
    let Some(store) = AddressStore::open_existing(&config.state_dir)? else {
        return remove_unrecorded(invocation, &mut socket, maps.as_ref());
    };
    let (mine, mut going) = mark(&store, invocation)?;
    match mine {
        DelTarget::Marked(attachment) => {
            store.sync_marks()?;
            rollback::block(&mut socket, &attachment.record, maps.as_ref())?;
            going.insert(0, attachment);
        }
        DelTarget::InProgress => {} // An earlier DEL is still removing it.
        DelTarget::NoRecord => remove_unrecorded(invocation, &mut socket, maps.as_ref())?,
    }
    rollback::release_in_background(&store, &going, maps.as_ref())
}

/// The state of the attachment in the store.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
enum DelTarget {
    Marked(Attachment),
    InProgress,
    NoRecord,
}

/// Marks the attachment as being released. Returns it with other releases that were left half done.
fn mark(store: &AddressStore, invocation: &Invocation) -> Result<(DelTarget, Vec<Attachment>), CniError> {
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        let mut locked = store.lock(LOCK_DEADLINE)?;
        let claim = locked.claim(&invocation.id)?;
        let mine = match claim {
            AttachmentClaim::Absent => DelTarget::NoRecord,
            AttachmentClaim::Busy { releasing: true } => DelTarget::InProgress,
            AttachmentClaim::Owned(mut attachment) => {
                locked.mark(&mut attachment)?;
                DelTarget::Marked(attachment)
            }
            // An ADD that the runtime no longer waits for.
            AttachmentClaim::Busy { .. } if Instant::now() > deadline => return Err(super::still_busy(&invocation.id)),
            AttachmentClaim::Busy { .. } => {
                super::poll_again(locked);
                continue;
            }
        };
        let abandoned = locked.abandoned_releases()?;
        locked.findings().iter().for_each(|finding| log(finding));
        return Ok((mine, abandoned));
    }
}

/// Removes a veth with our name that has no record in the store, and its map entries.
fn remove_unrecorded(invocation: &Invocation, socket: &mut Socket, maps: Option<&PodMaps>) -> Result<(), CniError> {
    let name = invocation.id.host_ifname();
    let Some(link) = socket.link_by_name(&name)?.filter(|l| l.kind.as_deref() == Some("veth")) else { return Ok(()) };
    if let Some(maps) = maps {
        maps.remove_unrecorded(&maps.addresses_of(link.index)?, Some(link.index))?;
    }
    rollback::remove_device(socket, Some(link.index))
}
