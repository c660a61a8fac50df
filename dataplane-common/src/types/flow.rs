//! The flow tables: the tuple of one direction and its translation.
//!
//! A connection has two entries, one per direction, which are inserted and removed as a pair. The
//! packet path writes them; the agent counts and evicts them. The maps `fragments4/6` belong here
//! too: they give later fragments the ports of the first one.

use crate::types::address::Address;
use crate::types::pod::DEVICE_BITS;

/// The tuple of a packet before translation: key of `flows4` and `flows6`.
///
/// For ICMP echo both ports hold the identifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address before translation.
    pub src: A,
    /// Destination address before translation.
    pub dst: A,
    /// Source port, CPU order.
    pub sport: u16,
    /// Destination port, CPU order.
    pub dport: u16,
    /// IP protocol number ([`super::service::proto`]).
    pub proto: u8,
    /// Padding, always zero: the kernel hashes all bytes of a key.
    pub pad: [u8; 3],
}

impl<A: Copy> FlowKey<A> {
    /// Returns the key with source and destination swapped.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, proto: self.proto, pad: [0; 3] }
    }
}

/// The translation of one direction, and the state that decides about its validity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Flow<A> {
    /// Source address after translation.
    pub src: A,
    /// Destination address after translation.
    pub dst: A,
    /// Source port after translation, CPU order.
    pub sport: u16,
    /// Destination port after translation, CPU order.
    pub dport: u16,
    /// Interface by which packets must arrive (the anti-spoofing check of established flows), for a
    /// pod [`super::pod::Pod::device`]; 0: any that is not a pod's.
    pub iif: u32,
    /// Interface by which packets leave: an uplink, or [`super::pod::Pod::device`] of a pod
    /// ([`flow_flags::TO_POD`]); 0: the host's stack routes them.
    pub oif: u32,
    /// Backend id; 0 if the flow leads to no backend (host port, masquerading).
    pub backend: u32,
    /// [`crate::types::service::Backend::generation`] at insertion.
    pub generation: u32,
    /// Time of the last packet, in ticks ([`super::clock`]).
    pub last_seen: u32,
    /// [`super::pod::NodeConfig::policy_epoch`] at which network policy let the connection pass.
    pub epoch: u32,
    /// Progress of this direction, one of [`flow_state`].
    pub state: u8,
    /// Properties of this direction, bits of [`flow_flags`].
    pub flags: u8,
    /// TCP: upper half of the newest sequence number of this direction. It tells a RST or FIN of
    /// the sender from one with a guessed number.
    pub seq: u16,
}

impl<A: Address> Flow<A> {
    /// A flow without addresses, to be filled in.
    pub const EMPTY: Self = Self {
        src: A::UNSPECIFIED,
        dst: A::UNSPECIFIED,
        sport: 0,
        dport: 0,
        iif: 0,
        oif: 0,
        backend: 0,
        generation: 0,
        last_seen: 0,
        epoch: 0,
        state: flow_state::NEW,
        flags: 0,
        seq: 0,
    };
}

impl<A: Copy> Flow<A> {
    /// Returns the index of the interface by which packets leave; 0: the host's stack routes them.
    #[inline(always)]
    #[must_use]
    pub const fn egress_ifindex(&self) -> u32 {
        // No branch: the verifier would follow both sides.
        let shift = (self.flags & flow_flags::TO_POD) as u32 * (DEVICE_BITS / flow_flags::TO_POD as u32);
        self.oif << shift >> shift
    }

    /// Returns the key of the reverse direction: this direction's translated tuple with source and
    /// destination swapped. `key` is this direction's key.
    #[inline(always)]
    #[must_use]
    pub const fn reverse_key(&self, key: &FlowKey<A>) -> FlowKey<A> {
        let (sport, dport) = (self.sport, self.dport);
        FlowKey { src: self.src, dst: self.dst, sport, dport, proto: key.proto, pad: [0; 3] }.reversed()
    }

    /// Returns true if `key` is the key of this flow's reverse direction, for equal protocols. Two
    /// flows whose keys are each other's reverse are a pair.
    #[inline(always)]
    #[must_use]
    pub fn is_reverse_of(&self, key: &FlowKey<A>) -> bool
    where
        A: PartialEq,
    {
        self.sport == key.dport && self.dport == key.sport && self.src == key.dst && self.dst == key.src
    }
}

/// Values of [`Flow::state`]: the progress seen in this direction.
pub mod flow_state {
    /// TCP: SYN only. UDP: single datagrams (unreplied). Other protocols: always.
    pub const NEW: u8 = 0;
    /// TCP: segments after the SYN. UDP: datagrams in different ticks (assured).
    pub const ESTABLISHED: u8 = 1;
    /// TCP: a FIN was seen.
    pub const CLOSING: u8 = 2;
    /// TCP: a RST was seen.
    pub const RESET: u8 = 3;
}

/// Bits of [`Flow::flags`], set when the flow is inserted.
pub mod flow_flags {
    /// The direction from the backend to the client.
    pub const REPLY: u8 = 4;
    /// The client is outside the cluster.
    pub const EXTERNAL: u8 = 8;
    /// The outgoing device is a pod's host-side veth.
    pub const TO_POD: u8 = 16;
    /// With [`TO_POD`]: the veth has a queue that limits what the pod receives, so packets must
    /// not bypass it.
    pub const SHAPED: u8 = 32;
    /// Nothing is translated. Recorded so that network policy lets the replies pass.
    pub const UNTRANSLATED: u8 = 64;
    /// The node itself has opened the connection.
    pub const FROM_NODE: u8 = 128;
}

/// The datagram that a fragment belongs to: key of `fragments4` and `fragments6` (RFC 791;
/// RFC 8200, section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address of the fragment.
    pub src: A,
    /// Destination address of the fragment.
    pub dst: A,
    /// Identification field. IPv6: 32 bits as they stand in memory; IPv4: 16 bits, CPU order.
    pub id: u32,
    /// Interface by which the fragment arrived, as in [`Flow::iif`]: a pod's, which is below
    /// [`super::pod::POD_SLOTS`], or one of the small numbers that stand for others.
    pub iif: u16,
    /// IP protocol number ([`super::service::proto`]).
    pub proto: u8,
    /// Padding, always zero: the kernel hashes all bytes of a key.
    pub pad: u8,
}

/// The ports of a fragmented datagram, which only its first fragment carries. CPU order.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Ports {
    /// Source port, CPU order.
    pub src: u16,
    /// Destination port, CPU order.
    pub dst: u16,
}
