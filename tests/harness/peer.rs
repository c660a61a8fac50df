//! Servers and clients for tests: plain blocking sockets, one thread for each connection, answers
//! in JSON.
//!
//! The protocol: a line of text is answered by a line with the server's name and the client's
//! address as the server saw it; a line that starts like an HTTP request is answered in HTTP;
//! `take` and `give` move a checked pattern. A datagram is answered by a datagram with the same
//! line, padded to the size of the question.

mod apiserver;
mod ask;
mod echo;
mod fetch;
mod frames;
mod hold;
mod pattern;
mod report;
mod serve;
mod socket;
mod stay;
mod transfer;

pub use apiserver::{ApiOptions, run as apiserver};
pub use ask::{AskOptions, run as ask};
pub use echo::{EchoOptions, run as echo};
pub use fetch::{FetchOptions, run as fetch};
pub use frames::{Seen, SendOptions, WatchOptions, hex, send, watch};
pub use hold::{HoldOptions, HoldReport, run as hold};
pub use report::Report;
pub use serve::{ServeOptions, run as serve};
pub use stay::{StayOptions, run as stay};
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
    /// The value on the command line.
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
