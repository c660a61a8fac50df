//! Errors of the netlink client. Each one names what was attempted.
//!
//! The kernel's extended acknowledgement is part of the text.

use std::io;

use netlink_packet_core::{ErrorMessage, NlasIterator};

/// The reason why a request failed. Each variant names what was attempted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are named in the messages")]
pub enum NetlinkError {
    /// The kernel refused the request.
    #[error("{attempt}: {source}{}{text}", if text.is_empty() { "" } else { ": " })]
    Refused {
        /// The attempt, for the error text.
        attempt: String,
        /// The kernel's explanation (extended acknowledgement); often empty.
        text: String,
        source: io::Error,
    },
    /// The socket itself failed.
    #[error("{attempt}: netlink socket: {source}")]
    Socket {
        /// The attempt, for the error text.
        attempt: String,
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("{attempt}: answer of the kernel not understood: {reason}")]
    Answer {
        /// The attempt, for the error text.
        attempt: String,
        reason: String,
    },
    /// The table changed during each of several attempts to list it.
    #[error("{attempt}: the table changes faster than it can be listed")]
    Interrupted {
        /// The attempt, for the error text.
        attempt: String,
    },
}

impl NetlinkError {
    pub(super) fn socket(attempt: &str, source: io::Error) -> Self {
        Self::Socket { attempt: attempt.into(), source }
    }

    pub(super) fn answer(attempt: &str, reason: impl Into<String>) -> Self {
        Self::Answer { attempt: attempt.into(), reason: reason.into() }
    }

    pub(super) fn refused(attempt: &str, message: &ErrorMessage) -> Self {
        Self::Refused { attempt: attempt.into(), text: explanation(&message.header), source: message.to_io() }
    }

    /// Returns the error number (`EEXIST`, `ENODEV`, ...) if the kernel refused the request.
    #[must_use]
    pub fn refusal(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Returns whether the kernel reported that the object does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self.refusal(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL))
    }
}

/// Returns the text of an extended acknowledgement: attributes that follow the header of the
/// refused message (include/uapi/linux/netlink.h, `enum nlmsgerr_attrs`).
fn explanation(payload: &[u8]) -> String {
    const HEADER: usize = 16;
    const TEXT: u16 = 1;
    let Some(attributes) = payload.get(HEADER..) else { return String::new() };
    let text = NlasIterator::new(attributes).flatten().find(|a| a.kind() == TEXT);
    text.map(|a| String::from_utf8_lossy(a.value()).trim_end_matches('\0').to_owned()).unwrap_or_default()
}
