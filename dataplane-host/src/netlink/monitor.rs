//! Reports changes of devices, addresses and routes in a network namespace.
//!
//! The agent listens to it and compares afterwards; an event is only a hint. Lost events are
//! reported as [`NetlinkEvent::Lost`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket as RawSocket, protocols::NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::socket::{messages, read};
use super::{InterfaceAddress, Link, NetlinkError, Route};

/// Groups of events (include/uapi/linux/rtnetlink.h, `enum rtnetlink_groups`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Group {
    /// Network devices (`RTNLGRP_LINK`).
    Link = 1,
    /// IPv4 addresses of devices (`RTNLGRP_IPV4_IFADDR`).
    Address4 = 5,
    /// IPv6 addresses of devices (`RTNLGRP_IPV6_IFADDR`).
    Address6 = 9,
    /// IPv4 routes of all tables (`RTNLGRP_IPV4_ROUTE`).
    Route4 = 7,
    /// IPv6 routes of all tables (`RTNLGRP_IPV6_ROUTE`).
    Route6 = 11,
}

impl Group {
    /// Devices, addresses and routes of both families.
    pub const ALL: [Self; 5] = [Self::Link, Self::Address4, Self::Address6, Self::Route4, Self::Route6];
}

/// A change, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetlinkEvent {
    /// A device is new or has changed.
    Link(Link),
    /// A device is gone.
    LinkGone(Link),
    /// An address is new or has changed.
    Address(InterfaceAddress),
    /// An address is gone.
    AddressGone(InterfaceAddress),
    /// A route of the main table is new or has changed.
    Route(Route),
    /// A route of the main table is gone.
    RouteGone(Route),
    /// Events were lost, or one was not understood: list the tables again.
    Lost,
}

/// A socket that receives events. It can be polled: [`AsFd`] gives its descriptor, which is
/// readable when events are queued.
#[derive(Debug)]
pub struct Monitor {
    socket: RawSocket,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Opens the socket in the network namespace of the calling thread and subscribes to `groups`.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open(groups: &[Group]) -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = RawSocket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            for group in groups {
                socket.add_membership(*group as u32)?;
            }
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|e| NetlinkError::socket("listen to changes", e))?;
        Ok(Self { socket, buffer: Vec::new() })
    }

    /// Returns the events that are queued, possibly none. Never waits.
    ///
    /// # Errors
    /// The socket failed. Lost events are no error but [`NetlinkEvent::Lost`].
    pub fn read(&mut self) -> Result<Vec<NetlinkEvent>, NetlinkError> {
        let mut events = Vec::new();
        loop {
            match read(&self.socket, &mut self.buffer, "listen to changes") {
                Ok(()) => events.extend(messages(&self.buffer).flat_map(|m| match m {
                    Ok(m) => changes(m.payload),
                    Err(_) => vec![NetlinkEvent::Lost],
                })),
                Err(NetlinkError::Socket { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(events);
                }
                Err(NetlinkError::Socket { source, .. }) if source.raw_os_error() == Some(libc::ENOBUFS) => {
                    events.push(NetlinkEvent::Lost);
                }
                Err(NetlinkError::Answer { .. }) => events.push(NetlinkEvent::Lost),
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until there are events, at most `timeout`.
    ///
    /// # Errors
    /// The socket failed.
    pub fn wait(&mut self, timeout: Duration) -> Result<Vec<NetlinkEvent>, NetlinkError> {
        let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => self.read(),
            Err(e) => Err(NetlinkError::socket("listen to changes", e.into())),
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// Returns the changes that a message reports: several for a route with several next hops.
fn changes(payload: NetlinkPayload<RouteNetlinkMessage>) -> Vec<NetlinkEvent> {
    let NetlinkPayload::InnerMessage(message) = payload else { return vec![] };
    let one = match message {
        RouteNetlinkMessage::NewRoute(m) => {
            return Route::from_message(&m).into_iter().map(NetlinkEvent::Route).collect();
        }
        RouteNetlinkMessage::DelRoute(m) => {
            return Route::from_message(&m).into_iter().map(NetlinkEvent::RouteGone).collect();
        }
        RouteNetlinkMessage::NewLink(m) => Some(NetlinkEvent::Link(Link::from_link(m))),
        RouteNetlinkMessage::DelLink(m) => Some(NetlinkEvent::LinkGone(Link::from_link(m))),
        RouteNetlinkMessage::NewAddress(m) => InterfaceAddress::from_message(&m).map(NetlinkEvent::Address),
        RouteNetlinkMessage::DelAddress(m) => InterfaceAddress::from_message(&m).map(NetlinkEvent::AddressGone),
        _ => None,
    };
    one.into_iter().collect()
}
