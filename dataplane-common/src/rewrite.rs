//! Carrying out a translation: addresses, ports, checksums, and the hop that every router counts.

use crate::addr::{Address, Be16, Be32, V4, V6};
use crate::checksum::{self, Change};
use crate::packet::{L3, Packet};
use crate::parse::{Header, Layer4, Parsed};

/// An address family's way to write its header.
pub trait Rewrite: Header {
    /// The kind of checksum change that an address causes.
    const CHANGE: Change;

    /// Writes an address; returns the checksum difference.
    fn store_source<P: Packet>(packet: &mut P, from: Self, to: Self) -> Option<u32>;
    /// Writes an address; returns the checksum difference.
    fn store_destination<P: Packet>(packet: &mut P, from: Self, to: Self) -> Option<u32>;
    /// Counts the hop. `Some(false)`: the packet has none left, and is unchanged.
    fn count_hop<P: Packet>(packet: &mut P) -> Option<bool>;
}

/// Makes the packet's source that of `to`.
#[inline(always)]
#[must_use]
pub fn source<A: Rewrite, P: Packet>(packet: &mut P, parsed: &Parsed<A>, addr: A, port: u16) -> Option<()> {
    let difference = A::store_source(packet, parsed.key.src, addr)?;
    layer4(packet, parsed, difference, 0, parsed.key.sport, port)
}

/// Makes the packet's destination that of `to`.
#[inline(always)]
#[must_use]
pub fn destination<A: Rewrite, P: Packet>(packet: &mut P, parsed: &Parsed<A>, addr: A, port: u16) -> Option<()> {
    let difference = A::store_destination(packet, parsed.key.dst, addr)?;
    layer4(packet, parsed, difference, 2, parsed.key.dport, port)
}

#[inline(always)]
fn layer4<A: Rewrite, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    difference: u32,
    port_offset: usize,
    from: u16,
    to: u16,
) -> Option<()> {
    let (at, udp) = match parsed.layer4 {
        Layer4::Tcp => (parsed.l4 + 16, false),
        Layer4::Udp => (parsed.l4 + 6, true),
        Layer4::Icmp | Layer4::IcmpError if A::V6 => {
            return packet.l4_checksum(parsed.l4 + 2, difference, A::CHANGE, false);
        }
        _ => return Some(()),
    };
    packet.l4_checksum(at, difference, A::CHANGE, udp)?;
    if from == to {
        return Some(());
    }
    packet.store_half_at(parsed.l4 + port_offset, L3 + A::HEADER + port_offset, Be16::new(to))?;
    let difference = checksum::difference(Be16::new(from).0 as u32, Be16::new(to).0 as u32);
    packet.l4_checksum(at, difference, Change::Header, udp)
}

impl Rewrite for V4 {
    const CHANGE: Change = Change::Pseudo4;

    #[inline(always)]
    fn store_source<P: Packet>(packet: &mut P, from: Self, to: Self) -> Option<u32> {
        store4(packet, L3 + 12, from, to)
    }

    #[inline(always)]
    fn store_destination<P: Packet>(packet: &mut P, from: Self, to: Self) -> Option<u32> {
        store4(packet, L3 + 16, from, to)
    }

    #[inline(always)]
    fn count_hop<P: Packet>(packet: &mut P) -> Option<bool> {
        let ttl_and_protocol = packet.half(L3 + 8)?.get();
        if ttl_and_protocol < 0x0200 {
            return Some(false);
        }
        let after = Be16::new(ttl_and_protocol - 0x0100);
        let difference = checksum::difference(Be16::new(ttl_and_protocol).0 as u32, after.0 as u32);
        let sum = packet.half(L3 + 10)?;
        packet.store_half(L3 + 8, after)?;
        packet.store_half(L3 + 10, checksum::apply(sum, difference))?;
        Some(true)
    }
}

#[inline(always)]
fn store4<P: Packet>(packet: &mut P, at: usize, from: V4, to: V4) -> Option<u32> {
    let difference = checksum::difference(from.word(), to.word());
    let sum = packet.half(L3 + 10)?;
    packet.store_half(L3 + 10, checksum::apply(sum, difference))?;
    packet.store_words(at, &[Be32(to.word())])?;
    Some(difference)
}

impl Rewrite for V6 {
    const CHANGE: Change = Change::Pseudo6;

    #[inline(always)]
    fn store_source<P: Packet>(packet: &mut P, from: Self, to: Self) -> Option<u32> {
        store6(packet, L3 + 8, from, to)
    }

    #[inline(always)]
    fn store_destination<P: Packet>(packet: &mut P, from: Self, to: Self) -> Option<u32> {
        store6(packet, L3 + 24, from, to)
    }

    #[inline(always)]
    fn count_hop<P: Packet>(packet: &mut P) -> Option<bool> {
        let next_and_limit = packet.half(L3 + 6)?.get();
        if next_and_limit & 0xff < 2 {
            return Some(false);
        }
        packet.store_half(L3 + 6, Be16::new(next_and_limit - 1))?;
        Some(true)
    }
}

#[inline(always)]
fn store6<P: Packet>(packet: &mut P, at: usize, from: V6, to: V6) -> Option<u32> {
    let (from, to) = (from.words(), to.words());
    packet.store_words(at, &[Be32(to[0]), Be32(to[1]), Be32(to[2]), Be32(to[3])])?;
    let low = checksum::add(checksum::difference(from[0], to[0]), checksum::difference(from[1], to[1]));
    let high = checksum::add(checksum::difference(from[2], to[2]), checksum::difference(from[3], to[3]));
    Some(checksum::add(low, high))
}

/// The all-families bound that the pipeline needs.
pub trait Family: Rewrite + Address {
    /// The pod's address of this family.
    fn of_pod(pod: &crate::pod::Pod) -> Self;
    /// The pod's address of this family.
    fn of_netns(pod: &crate::pod::PodNetns) -> Self;
    /// The node's address of this family.
    fn of_node(node: &crate::pod::NodeConfig) -> Self;
    /// Whether packets to it are never forwarded past the host stack: loopback, link-local, multicast, broadcast.
    fn is_host_only(self) -> bool;
    /// Whether it is a link-local or the unspecified address, as neighbour discovery has.
    fn is_link_local(self) -> bool;
}

impl Family for V4 {
    #[inline(always)]
    fn of_pod(pod: &crate::pod::Pod) -> Self {
        pod.addr4
    }
    #[inline(always)]
    fn of_netns(pod: &crate::pod::PodNetns) -> Self {
        pod.addr4
    }
    #[inline(always)]
    fn of_node(node: &crate::pod::NodeConfig) -> Self {
        node.node4
    }
    #[inline(always)]
    fn is_host_only(self) -> bool {
        let a = u32::from_be(self.word());
        a >> 24 >= 224 || a >> 24 == 127 || a >> 24 == 0 || self.is_link_local()
    }
    #[inline(always)]
    fn is_link_local(self) -> bool {
        u32::from_be(self.word()) >> 16 == 0xa9fe
    }
}

impl Family for V6 {
    #[inline(always)]
    fn of_pod(pod: &crate::pod::Pod) -> Self {
        pod.addr6
    }
    #[inline(always)]
    fn of_netns(pod: &crate::pod::PodNetns) -> Self {
        pod.addr6
    }
    #[inline(always)]
    fn of_node(node: &crate::pod::NodeConfig) -> Self {
        node.node6
    }
    #[inline(always)]
    fn is_host_only(self) -> bool {
        let w = self.words();
        u32::from_be(w[0]) >> 24 == 0xff || self.is_link_local() || ((w[0] | w[1] | w[2]) == 0)
    }
    #[inline(always)]
    fn is_link_local(self) -> bool {
        let w = self.words();
        u32::from_be(w[0]) >> 22 == 0xfe80 >> 6 || ((w[0] | w[1]) | (w[2] | w[3])) == 0
    }
}
