//! What the kernel counts for people: why packets were dropped, what the programs did.

macro_rules! counted {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every variant, in the order of the map's index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word for it in metrics and on the command line.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

counted! {
    /// Why a packet was dropped: index into the per-CPU array `drops` (u64 packets).
    DropReason {
        /// A header that contradicts itself or is cut off.
        Malformed = "malformed",
        /// A pod sent with an address that is not its own.
        Spoofed = "spoofed",
        /// From an interface that belongs to no pod (any longer).
        UnknownPod = "unknown_pod",
        /// The Service has no backend for this client.
        NoBackend = "no_backend",
        /// A port of a Service's address on which the Service does not listen.
        NoFrontend = "no_frontend",
        /// In the middle of a TCP connection to a Service that the flow table does not know.
        NoFlow = "no_flow",
        /// The flow table took no entry.
        FlowTableFull = "flow_table_full",
        /// No free port for source translation.
        SnatPortsExhausted = "snat_ports_exhausted",
        /// A later fragment whose first one was not seen.
        UnknownFragment = "unknown_fragment",
        /// The kernel refused a write to the packet.
        Rewrite = "rewrite",
        /// Router or neighbour discovery, redirects, ARP answers: a pod has no business with them.
        ForbiddenControl = "forbidden_control",
        /// A load-balancer address that this client may not use (`loadBalancerSourceRanges`).
        SourceRange = "source_range",
        /// An address of a `ServiceCIDR` that no Service has.
        UnallocatedAddress = "unallocated_address",
        /// Larger than the MTU of the way out.
        TooBig = "too_big",
        /// Leaves the cluster, and has nothing by which its reply would be known.
        NotTranslatable = "not_translatable",
        /// A fragment of an SCTP packet whose ports change: its checksum is that of the whole packet.
        SctpFragment = "sctp_fragment",
        /// The program that goes on with such packets is not in place.
        NoStage = "no_stage",
    }
}

counted! {
    /// What the programs did: index into the per-CPU array `counters` (u64).
    Counter {
        /// A new flow through a frontend, on the packet path.
        PacketNewFlow = "packet_new_flow",
        /// A connect or sendmsg that a socket hook led to a backend.
        SocketTranslated = "socket_translated",
        /// A connect or sendmsg that a socket hook refused: no backend.
        SocketRejected = "socket_rejected",
        /// A packet that was answered with a TCP reset or an ICMP error; it is counted as dropped as well.
        PacketRejected = "packet_rejected",
        /// A new flow of a pod out of the cluster, with the node's address.
        Masqueraded = "masqueraded",
        /// A new flow to a host port, on the packet path.
        HostPort = "host_port",
    }
}

/// Why a packet can't be classified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// Cut off in the middle of a header.
    Truncated,
    /// A header that contradicts itself.
    BadHeader,
    /// A fragment whose first one was not seen.
    UnknownFragment,
}

impl From<ParseError> for DropReason {
    fn from(reject: ParseError) -> Self {
        match reject {
            ParseError::Truncated | ParseError::BadHeader => Self::Malformed,
            ParseError::UnknownFragment => Self::UnknownFragment,
        }
    }
}
