//! The types of the flow table: one direction's key to its translation.

use crate::types::address::Address;

/// Which packets: map `flows4` or `flows6`. Ports in CPU order; ICMP echo has its identifier in both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, CPU order.
    pub sport: u16,
    /// Destination port, CPU order.
    pub dport: u16,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl<A: Copy> FlowKey<A> {
    /// The other direction.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, proto: self.proto, pad: [0; 3] }
    }
}

/// What happens to these packets. Created in pairs, one for each direction.
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
    /// The interface these packets come in by, which is the anti-spoof check of a hit; 0: not from a pod.
    pub iif: u32,
    /// The interface they leave by: a pod's veth or the uplink; 0: the host stack.
    pub oif: u32,
    /// Backend id.
    pub backend: u32,
    /// [`crate::types::service::Backend::generation`] when the flow was made.
    pub generation: u32,
    /// Clock tick of the last packet ([`super::clock`]).
    pub last_seen: u32,
    /// One of [`flow_state`].
    pub state: u8,
    /// Bits of [`flow_flags`].
    pub flags: u8,
    /// Zero.
    pub pad: u16,
}

impl<A: Address> Flow<A> {
    /// Nothing yet.
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
        state: flow_state::NEW,
        flags: 0,
        pad: 0,
    };
}

impl<A: Copy> Flow<A> {
    /// The key of the other direction, where `key` is this one's: its packets are those that this direction's look like once they are translated, turned round.
    #[inline(always)]
    #[must_use]
    pub const fn reverse_key(&self, key: &FlowKey<A>) -> FlowKey<A> {
        let (sport, dport) = (self.sport, self.dport);
        FlowKey { src: self.src, dst: self.dst, sport, dport, proto: key.proto, pad: [0; 3] }.reversed()
    }
}

/// [`Flow::state`]: what this direction has shown.
pub mod flow_state {
    /// First packet only. UDP: questions, as far as can be seen. Others: always.
    pub const NEW: u8 = 0;
    /// TCP: more than the first packet. UDP: datagrams some seconds apart.
    pub const ESTABLISHED: u8 = 1;
    /// TCP: a FIN.
    pub const CLOSING: u8 = 2;
    /// TCP: a RST.
    pub const RESET: u8 = 3;
}

/// Bits of [`Flow::flags`].
pub mod flow_flags {
    /// From the backend to the client.
    pub const REPLY: u8 = 4;
    /// The client is outside the cluster.
    pub const EXTERNAL: u8 = 8;
    /// The outgoing device is a pod's veth.
    pub const TO_POD: u8 = 16;
    /// With [`TO_POD`]: through the queue of that device, which limits what the pod receives.
    pub const SHAPED: u8 = 32;
}

/// Which datagram a later fragment belongs to: map `fragments4` or `fragments6` (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification as it stands in memory.
    pub id: u32,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// The ports that only the first fragment carries. CPU order.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Ports {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
}
