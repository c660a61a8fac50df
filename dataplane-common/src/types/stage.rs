//! The tail calls of the packet path and the hook that a packet is at.
//!
//! A packet program ends with a verdict or hands the packet to a stage, which the agent puts into the program array
//! `steps`. [`Origin`] travels with the packet from stage to stage.

use crate::types::side::Side;

/// A program that goes on with a packet where another one ends: a tail call. Each has the verifier's budget and the stack for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Step {
    /// [`crate::path::datapath::open`]: a packet without a flow that may get one.
    Open = 1,
    /// [`crate::path::datapath::report`]: an ICMP error.
    Report = 2,
    /// [`crate::path::reject::refuse`]: a packet whose sender is told.
    Refuse = 3,
    /// [`crate::path::sctp_ports::set_ports`]: an SCTP packet that is translated.
    Sctp = 4,
    /// [`crate::path::udp_failover::follow`]: a datagram of a socket of the node whose backend has ended.
    Follow = 5,
    /// [`crate::path::datapath::open`] where backends are compared by their connections.
    Weigh = 6,
    /// [`crate::path::port_reuse::again`]: a packet that opens a connection with the ports of a flow that does not speak for it.
    Again = 7,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Open, Self::Report, Self::Refuse, Self::Sctp, Self::Follow, Self::Weigh, Self::Again];

    /// Its program's place in the array `steps`.
    #[inline(always)]
    #[must_use]
    pub const fn index(self, v6: bool) -> u32 {
        (self as u32 - 1) * 2 + v6 as u32
    }
}

/// The programs of the steps, and their places in the array `steps`.
pub const STEP_PROGRAMS: [(u32, &str); 14] = [
    (Step::Open.index(false), "step_open4"),
    (Step::Open.index(true), "step_open6"),
    (Step::Report.index(false), "step_report4"),
    (Step::Report.index(true), "step_report6"),
    (Step::Refuse.index(false), "step_refuse4"),
    (Step::Refuse.index(true), "step_refuse6"),
    (Step::Sctp.index(false), "step_sctp4"),
    (Step::Sctp.index(true), "step_sctp6"),
    (Step::Follow.index(false), "step_follow4"),
    (Step::Follow.index(true), "step_follow6"),
    (Step::Weigh.index(false), "step_weigh4"),
    (Step::Weigh.index(true), "step_weigh6"),
    (Step::Again.index(false), "step_again4"),
    (Step::Again.index(true), "step_again6"),
];

/// The hook that a packet is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Origin {
    /// It comes from a pod: ingress of the host-side veth.
    Pod = 1,
    /// It comes from outside: ingress of an uplink.
    Uplink = 2,
    /// It comes from the host's stack: egress of either.
    Host = 3,
}

impl Origin {
    /// From the number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(n: u32) -> Self {
        match n {
            1 => Self::Pod,
            2 => Self::Uplink,
            _ => Self::Host,
        }
    }

    /// On which side of a Service who sends here is.
    #[inline(always)]
    #[must_use]
    pub const fn side(self) -> Side {
        if matches!(self, Self::Pod) { Side::Internal } else { Side::External }
    }

    /// What [`crate::types::flow::Flow::iif`] says of packets that come in here.
    #[inline(always)]
    #[must_use]
    pub const fn iif(self, ifindex: u32) -> u32 {
        if matches!(self, Self::Pod) { ifindex } else { 0 }
    }
}
