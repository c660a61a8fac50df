//! A small, typed, blocking rtnetlink client: links, addresses, routes, neighbours, classifier
//! filters, listening sockets, and a monitor.
//!
//! The other modules here only build messages ([`NetlinkRequest`]), which is pure and cheap;
//! [`Socket`] talks to the kernel and sends several requests in one datagram ([`Socket::run`]). A
//! socket belongs to the network namespace in which its thread was when it was opened.
//!
//! Written by hand, because the rtnetlink crate needs an async runtime, which would cost the plugin
//! a thread and a fork-safe process, and sends one request at a time. Messages are those of
//! netlink-packet-route. Removes only what the caller names.

mod address;
mod error;
mod fdb;
mod filter;
mod if_index;
mod link;
mod monitor;
mod neighbour;
mod nft_chain;
mod nsid;
mod request;
mod route;
mod shaper;
mod socket;
mod socket_diag;
#[cfg(test)]
mod tests;
mod vxlan;

pub use address::{InterfaceAddress, add_address, delete_address};
pub use error::NetlinkError;
pub use fdb::{FdbEntry, delete_fdb, replace_fdb};
pub use filter::{Direction, FILTER_HANDLE, FILTER_PRIORITY, Filter, add_clsact, delete_filter, replace_filter};
pub use if_index::IfIndex;
pub use link::{
    Link, Veth, create_veth, delete_group, delete_link, has_ipv6, quiet_link, quiet_tunnel, set_down, set_group,
    set_mac, set_mtu, set_up, without_arp,
};
pub use monitor::{Group, Monitor, NetlinkEvent};
pub use neighbour::{Neighbour, delete_neighbour, replace_neighbour};
pub use nft_chain::{NftChain, chains};
pub use request::NetlinkRequest;
pub use route::{Hop, PROTOCOL, Route, add_route, delete_route, replace_route};
pub use shaper::{Rate, set_rate};
pub use socket::Socket;
pub use socket_diag::listening_addresses;
pub use vxlan::{Vxlan, create_vxlan};
