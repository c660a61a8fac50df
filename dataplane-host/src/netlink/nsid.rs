//! Network namespace ids (`NETNSA_NSID`): the numbers by which one namespace refers to others.
//!
//! The plugin finds the namespace of a veth's peer with them.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use super::{NetlinkError, NetlinkRequest, Socket};

impl Socket {
    /// Returns the id by which the socket's namespace refers to `other`, as in
    /// [`super::Link::peer_netns`]. `None`: it has no id.
    ///
    /// # Errors
    /// The kernel refused: the descriptor is not a network namespace.
    pub fn netns_number(&mut self, netns: BorrowedFd<'_>) -> Result<Option<i32>, NetlinkError> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(netns.as_raw_fd().unsigned_abs()));
        let request =
            NetlinkRequest::change(RouteNetlinkMessage::GetNsId(message), "ask for a namespace's number".into());
        let Some(RouteNetlinkMessage::NewNsId(answer)) = self.get(&request)? else { return Ok(None) };
        Ok(answer.attributes.iter().find_map(|a| match a {
            // NETNSA_NSID_NOT_ASSIGNED is -1.
            NsidAttribute::Id(number) if *number >= 0 => Some(*number),
            _ => None,
        }))
    }
}
