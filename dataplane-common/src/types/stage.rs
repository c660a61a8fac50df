//! The stages of the packet path, and the hook at which a packet was seen first.
//!
//! A packet program ends with a verdict or hands the packet to a stage by a tail call. Each stage
//! is one program per address family in the program array `stages`, which the agent fills.
//! [`Origin`] travels with the packet from stage to stage.
//! [`for_each_stage`](crate::for_each_stage) is the only list of stages: enum, program names, array
//! index, the loader's list and the tail calls of the programs all follow from it.

use crate::types::side::TrafficSide;

/// Calls a macro with the table of stages: name, number in a verdict, IPv4 and IPv6 program.
///
/// A program name has at most 15 characters (`BPF_OBJ_NAME_LEN` - 1).
#[macro_export]
macro_rules! for_each_stage {
    ($macro:ident) => {
        $macro! {
            /// A packet without a flow that may open one
            /// ([`crate::path::datapath::new_connection`]).
            NewConnection = 1, "stage_new4", "stage_new6";
            /// An ICMP error ([`crate::path::datapath::icmp_error`]).
            IcmpError = 2, "stage_icmp4", "stage_icmp6";
            /// A packet whose sender gets a TCP reset or an ICMP error
            /// ([`crate::path::reject::reject`]).
            Reject = 3, "stage_reject4", "stage_reject6";
            /// A translated SCTP packet ([`crate::path::sctp_ports::set_ports`]).
            SctpPorts = 4, "stage_sctp4", "stage_sctp6";
            /// A datagram of a connected socket of the node whose backend has ended
            /// ([`crate::path::udp_failover::fail_over`]).
            UdpFailover = 5, "stage_failover4", "stage_failover6";
            /// [`Self::NewConnection`] to a frontend whose scheduler compares connection counts.
            LeastConnections = 6, "stage_least4", "stage_least6";
            /// A packet that opens a connection for whose tuple, or whose answers, a flow exists
            /// ([`crate::path::port_reuse::port_reuse`]).
            PortReuse = 7, "stage_reuse4", "stage_reuse6";
            /// A node's datagram to the tunnel's port
            /// ([`crate::path::tunnel_source::check_inner_source`]).
            TunnelSource = 8, "stage_tunnel4", "stage_tunnel6";
            /// A packet of a connection that network policy decides about, and that has no flow
            /// ([`crate::path::judge::judge`]).
            Judge = 9, "stage_judge4", "stage_judge6";
            /// A packet of the host's stack to a pod with rules
            /// ([`crate::path::deliver::deliver`]).
            Deliver = 10, "stage_deliver4", "stage_deliver6";
            /// A packet of a flow that network policy has to decide about again
            /// ([`crate::path::recheck::recheck`]).
            Recheck = 11, "stage_recheck4", "stage_recheck6";
        }
    };
}

macro_rules! declare_stages {
    ($($(#[$doc:meta])* $stage:ident = $number:literal, $v4:literal, $v6:literal;)*) => {
        /// A program that another one hands a packet to by a tail call. Each has the verifier's
        /// instruction budget and 512 bytes of stack for itself.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum Stage { $($(#[$doc])* $stage = $number,)* }

        impl Stage {
            /// All stages, in the order of [`Self::index`].
            pub const ALL: [Self; [$($number,)*].len()] = [$(Self::$stage,)*];

            /// Returns the stage with this number; `None` for 0 and unknown numbers.
            #[inline(always)]
            #[must_use]
            pub const fn from_number(n: u64) -> Option<Self> {
                match n {
                    $($number => Some(Self::$stage),)*
                    _ => None,
                }
            }
        }

        /// The index in the array `stages` and the name of every stage program.
        pub const STAGE_PROGRAMS: [(u32, &str); Stage::ALL.len() * 2] = {
            let names = [$([$v4, $v6],)*];
            let mut all = [(0, ""); Stage::ALL.len() * 2];
            let mut i = 0;
            while i < names.len() {
                all[i * 2] = (Stage::ALL[i].index(false), names[i][0]);
                all[i * 2 + 1] = (Stage::ALL[i].index(true), names[i][1]);
                i += 1;
            }
            all
        };
    };
}

for_each_stage!(declare_stages);

impl Stage {
    /// Returns the index of the stage's program in the array `stages`.
    #[inline(always)]
    #[must_use]
    pub const fn index(self, v6: bool) -> u32 {
        (self as u32 - 1) * 2 + v6 as u32
    }
}

/// Interface index of `lo` in every network namespace (`LOOPBACK_IFINDEX` in
/// include/linux/netdevice.h), which stands for the host's stack.
const LOOPBACK: u32 = 1;

/// The hook at which a packet was seen first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Origin {
    /// Ingress of a pod's host-side veth: the packet comes from a pod.
    Pod = 1,
    /// Ingress of an uplink or the tunnel: the packet comes from outside the node.
    Uplink = 2,
    /// Egress of a pod's veth or of an uplink: the packet comes from the host's stack.
    Host = 3,
}

impl Origin {
    /// Returns the origin with this number; unknown numbers are [`Self::Host`].
    #[inline(always)]
    #[must_use]
    pub const fn from_number(n: u32) -> Self {
        match n {
            1 => Self::Pod,
            2 => Self::Uplink,
            _ => Self::Host,
        }
    }

    /// Returns the side of the cluster on which the sender is.
    #[inline(always)]
    #[must_use]
    pub const fn side(self) -> TrafficSide {
        if matches!(self, Self::Pod) { TrafficSide::Internal } else { TrafficSide::External }
    }

    /// Returns [`crate::types::flow::Flow::iif`] for a packet that arrives here.
    #[inline(always)]
    #[must_use]
    pub const fn iif(self, ifindex: u32) -> u32 {
        match self {
            Self::Pod => ifindex,
            // Replies from outside may return by another uplink.
            Self::Uplink => 0,
            // Not 0: a packet from outside with the node's address must not match a flow of the
            // node.
            Self::Host => LOOPBACK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{STAGE_PROGRAMS, Stage};

    #[test]
    fn stages_fill_the_program_array_without_gaps() {
        for (i, (index, name)) in STAGE_PROGRAMS.iter().enumerate() {
            assert_eq!(*index as usize, i, "{name}");
            assert!(name.len() <= 15, "{name}");
        }
        for stage in Stage::ALL {
            assert_eq!(Stage::from_number(stage as u64), Some(stage));
        }
        assert_eq!(Stage::from_number(0), None);
    }
}
