//! The counted events of the packet path: drop reasons, counters, parse errors.
//!
//! The programs count by the variant's number in per-CPU arrays. Metrics, `ropeway status` and the
//! documentation use the labels. Numbers and labels are part of the ABI hash, so agent and programs
//! never disagree about an index.

macro_rules! counted {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All variants, in the order of the map's index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the name used in metrics and on the command line.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

counted! {
    /// The reason for which a packet was dropped: index into the per-CPU array `drops` (u64
    /// packets).
    DropReason {
        /// A header is truncated or contradicts itself.
        Malformed = "malformed",
        /// A pod sent with a source address or MAC that is not its own, or a packet from elsewhere
        /// has the tuple of a pod's connection.
        Spoofed = "spoofed",
        /// The packet came by an interface that has no pod, or whose pod is being deleted.
        UnknownPod = "unknown_pod",
        /// The Service has no backend for this client.
        NoBackend = "no_backend",
        /// The destination is a cluster IP, and its Service does not define this port.
        NoFrontend = "no_frontend",
        /// A TCP segment that is not a SYN went to a Service, and no flow matches it.
        NoFlow = "no_flow",
        /// The kernel refused to insert the flow.
        FlowTableFull = "flow_table_full",
        /// Source translation found no free port.
        SnatPortsExhausted = "snat_ports_exhausted",
        /// A later fragment arrived whose first fragment was not seen.
        UnknownFragment = "unknown_fragment",
        /// The kernel refused a write to the packet.
        Rewrite = "rewrite",
        /// A frame that its sender has no reason to send. From a pod: router or neighbour
        /// discovery, redirects, ARP and everything else that is not IP. From outside: two tags, of
        /// which the outer one names no VLAN.
        ForbiddenControl = "forbidden_control",
        /// The client is not in the `loadBalancerSourceRanges` of the load-balancer address.
        SourceRange = "source_range",
        /// The destination is in a range of Services or pods, and no Service or pod has it.
        UnallocatedAddress = "unallocated_address",
        /// The packet is larger than the MTU of its egress device.
        TooBig = "too_big",
        /// A packet to be masqueraded has neither ports nor an echo identifier, so its reply could
        /// not be recognized.
        NotTranslatable = "not_translatable",
        /// An SCTP fragment whose ports would change: the CRC covers the whole packet, which a
        /// fragment does not contain.
        SctpFragment = "sctp_fragment",
        /// The program array `stages` has no program for the packet's stage.
        NoStage = "no_stage",
        /// The packet has an address that it cannot have where it arrived (RFC 1812, section
        /// 5.3.7): from outside, a source of this node, its pods or its Services; in the tunnel,
        /// one that is not of the sending node or its pods; from outside or from a pod, a loopback
        /// destination.
        Martian = "martian",
        /// A datagram to the tunnel's port of a sender that is no node: a pod, a client of a
        /// Service, or a machine outside the cluster. Also one of a node that holds no IP packet.
        TunnelSender = "tunnel_sender",
        /// Network policy isolates the pod that opens the connection, and no rule allows it.
        PolicyEgress = "policy_egress",
        /// Network policy isolates the pod that the connection leads to, and no rule allows it.
        PolicyIngress = "policy_ingress",
    }
}

counted! {
    /// An action of the programs: index into the per-CPU array `counters` (u64).
    Counter {
        /// The packet path opened a flow to a backend.
        PacketNewFlow = "packet_new_flow",
        /// A socket hook replaced a destination: connect(2) or sendmsg(2).
        SocketTranslated = "socket_translated",
        /// A socket hook returned ECONNREFUSED.
        SocketRejected = "socket_rejected",
        /// A packet was answered with a TCP reset or an ICMP error. It is counted as dropped too.
        PacketRejected = "packet_rejected",
        /// A pod opened a flow to a destination outside the cluster with the node's address.
        Masqueraded = "masqueraded",
        /// The packet path opened a flow to a host port.
        HostPort = "host_port",
        /// The packet path opened a flow beyond the budget of its sender.
        SurplusFlow = "surplus_flow",
    }
}

/// The reason for which a packet cannot be parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// The frame ends inside a header.
    Truncated,
    /// A header field has an impossible value.
    BadHeader,
    /// A later fragment without a known first fragment.
    UnknownFragment,
    /// A first fragment whose sender is not believed, so that its ports must not be recorded.
    ForgedFragment,
}

impl From<ParseError> for DropReason {
    fn from(reject: ParseError) -> Self {
        match reject {
            ParseError::Truncated | ParseError::BadHeader => Self::Malformed,
            ParseError::UnknownFragment => Self::UnknownFragment,
            ParseError::ForgedFragment => Self::Spoofed,
        }
    }
}
