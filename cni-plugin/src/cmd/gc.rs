//! GC: removes what is left of attachments that the runtime doesn't know any more. Goes on after an error and reports all.

use std::collections::HashSet;

use dataplane_host::netlink::Socket;
use dataplane_host::store::{Attachment, AttachmentId, Claim, Store};

use super::LOCK_DEADLINE;
use crate::config::Config;
use crate::dataplane::Maps;
use crate::error::CniError;
use crate::{log, undo};

pub(crate) fn run(config: &Config) -> Result<(), CniError> {
    config.require("GC", "1.1.0")?;
    let valid = config.valid.as_ref().map(|list| list.iter().collect());
    let maps = Maps::open(&config.pin_root).map_err(|e| log(&format!("no maps to clean: {e}"))).ok();
    let mut socket = Socket::open()?;
    let mut errors = Vec::new();
    let mut all = 0;
    if config.state_dir.join("addresses").is_dir() {
        let store = Store::open(&config.state_dir)?;
        let garbage = mark(&store, config, valid.as_ref())?;
        all = garbage.len();
        for attachment in &garbage {
            if let Err(error) = undo::release(&mut socket, &store, attachment, maps.as_ref()) {
                errors.push(format!("container {}: {error}", attachment.record.id.container));
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(CniError::Incomplete { all, errors }) }
}

/// Marks what is not in the list, of this network only, and adds what others have left half done. What somebody works on
/// is no garbage.
///
/// Without a list (libcni gives none when its caller gave none) nothing is known to be dead.
fn mark(store: &Store, config: &Config, valid: Option<&HashSet<&AttachmentId>>) -> Result<Vec<Attachment>, CniError> {
    let mut locked = store.lock(LOCK_DEADLINE)?;
    let mut garbage = Vec::new();
    for record in locked.attachments()? {
        if record.network != config.name || valid.is_none_or(|list| list.contains(&record.id)) {
            continue;
        }
        if let Claim::Mine(mut attachment) = locked.claim(&record.id)? {
            locked.mark(&mut attachment)?;
            garbage.push(attachment);
        }
    }
    garbage.extend(locked.orphans()?);
    locked.findings().iter().for_each(|finding| log(finding));
    drop(locked);
    store.sync_marks()?;
    Ok(garbage)
}
