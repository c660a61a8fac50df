//! The entry points of the steps, which both objects have: a tail call is part of what a packet costs.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::programs;

packet_program! {
    /// Goes on where `from_pod` or `from_uplink` ends: a packet that may open a flow.
    step_open4;
    /// As `step_open4`.
    step_open6;
    /// Goes on where `step_open4` ends: a packet that opens a flow to the backend with the fewest connections.
    step_weigh4;
    /// As `step_weigh4`.
    step_weigh6;
    /// Goes on where `from_pod` or `from_uplink` ends: a packet that opens a connection with the ports of an old flow.
    step_again4;
    /// As `step_again4`.
    step_again6;
    /// Goes on where another program ends: an ICMP error.
    step_report4;
    /// As `step_report4`.
    step_report6;
    /// Goes on where another program ends: a packet whose sender is told that it goes nowhere.
    step_refuse4;
    /// As `step_refuse4`.
    step_refuse6;
    /// Goes on where another program ends: an SCTP packet that is translated.
    step_sctp4;
    /// As `step_sctp4`.
    step_sctp6;
    /// Goes on where `to_uplink` or `to_pod` ends: a datagram of a socket of the node whose backend has ended.
    step_follow4;
    /// As `step_follow4`.
    step_follow6;
}
