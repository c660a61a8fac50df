//! Servers and clients for tests: plain blocking sockets, one thread for each connection, answers
//! in JSON.
//!
//! The protocol: a line of text is answered by a line with the server's name and the client's
//! address as the server saw it; a line that starts like an HTTP request is answered in HTTP;
//! `take` and `give` move a checked pattern. A datagram is answered by a datagram with the same
//! line, padded to the size of the request.

mod apiserver;
mod echo;
mod fetch;
mod frames;
mod pattern;
mod persistent_load;
mod report;
mod request_load;
mod serve;
mod session;
mod socket;
mod sticky_udp;
mod transfer;

pub use apiserver::{ApiOptions, run as apiserver};
pub use echo::{EchoOptions, run as echo};
pub use fetch::{FetchOptions, run as fetch};
pub use frames::{Seen, SendOptions, WatchOptions, hex, send, watch};
pub use persistent_load::{PersistentLoadOptions, PersistentLoadReport, run as persistent_load};
pub use report::{Report, SPREAD};
pub use request_load::{RequestLoadOptions, run as request_load};
pub use serve::{ServeOptions, run as serve};
pub use session::{Reply, SessionOptions, run as session};
pub use sticky_udp::{StickyUdpOptions, run as sticky_udp};
pub use transfer::{TransferOptions, TransferReport, run as transfer};

/// The protocol of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Protocol {
    /// One line over a new TCP connection.
    Tcp,
    /// One datagram from a socket that is not connected.
    Udp,
    /// One datagram from a connected socket.
    UdpConnected,
    /// One request over a new TCP connection.
    Http,
}

impl Protocol {
    /// Returns the value on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpConnected => "udp-connected",
            Self::Http => "http",
        }
    }
}
