//! One request to the kernel: the message, its flags, and words for the error text.
//!
//! Built by the other modules, sent by [`super::Socket`].

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;

/// A message for [`super::Socket::run`].
#[derive(Clone, Debug)]
pub struct NetlinkRequest {
    pub(super) message: RouteNetlinkMessage,
    pub(super) flags: u16,
    pub(super) attempt: String,
}

impl NetlinkRequest {
    fn new(message: RouteNetlinkMessage, flags: u16, attempt: String) -> Self {
        Self { message, flags: NLM_F_REQUEST | flags, attempt }
    }

    /// Asks the kernel to create an object that must not exist yet (`NLM_F_EXCL`).
    pub(super) fn create(message: RouteNetlinkMessage, attempt: String) -> Self {
        Self::new(message, NLM_F_CREATE | NLM_F_EXCL, attempt)
    }

    /// Asks the kernel to create an object, or to leave an existing one unchanged.
    pub(super) fn ensure(message: RouteNetlinkMessage, attempt: String) -> Self {
        Self::new(message, NLM_F_CREATE, attempt)
    }

    /// Asks the kernel to create an object, or to replace one with the same key (`NLM_F_REPLACE`).
    pub(super) fn replace(message: RouteNetlinkMessage, attempt: String) -> Self {
        Self::new(message, NLM_F_CREATE | NLM_F_REPLACE, attempt)
    }

    /// Asks the kernel to change or remove an object.
    pub(super) fn change(message: RouteNetlinkMessage, attempt: String) -> Self {
        Self::new(message, 0, attempt)
    }

    /// Asks the kernel for all objects of a table (`NLM_F_DUMP`).
    pub(super) fn dump(message: RouteNetlinkMessage, attempt: &str) -> Self {
        Self::new(message, NLM_F_DUMP, attempt.into())
    }

    /// Returns the attempt, for the error text.
    #[must_use]
    pub fn attempt(&self) -> &str {
        &self.attempt
    }

    /// Appends the message in the form of the wire.
    pub(super) fn write(&self, sequence: u32, acknowledge: bool, to: &mut Vec<u8>) {
        let mut header = NetlinkHeader::default();
        header.sequence_number = sequence;
        header.flags = if acknowledge { self.flags | NLM_F_ACK } else { self.flags };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(self.message.clone()));
        message.finalize();
        let start = to.len();
        to.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut to[start..]);
    }
}
