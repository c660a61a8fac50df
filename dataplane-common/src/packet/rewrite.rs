//! Carrying out a translation: addresses, ports, checksums, and the hop that every router counts.

use crate::packet::access::{L3, Packet};
use crate::packet::parse::{Header, Layer4, Parsed};
use crate::path::icmp_error::Inside;
use crate::types::address::{Be16, Be32, V4, V6};
use crate::types::flow::Flow;
use crate::types::service::proto;
use crate::verdict::{Step, Verdict};
use crate::wire::checksum::{self, Change};

/// An address family's way to write its header.
pub trait Rewrite: Header {
    /// The hop limit in the word that [`Parsed::hop`] keeps.
    fn hops(hop: Be32) -> u8;
    /// Counts a hop; the packet must have one left.
    #[must_use]
    fn store_hop<P: Packet>(packet: &mut P, parsed: &Parsed<Self>) -> Option<()>;
    /// Writes the addresses, and counts a hop if asked to; returns the checksum difference of the addresses.
    #[must_use]
    fn store<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, src: Self, dst: Self, count_hop: bool) -> Option<u32>;
}

/// Gives the packet the addresses and ports of its flow, and counts a hop if asked to; the packet must then have one left.
/// [`translated`] says what is left to be done. `OFTEN`: it is worth more instructions to be done sooner, for which IPv4 always has room.
#[inline(always)]
#[must_use]
pub fn translate<const OFTEN: bool, A: Rewrite, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    flow: &Flow<A>,
    count_hop: bool,
) -> Option<()> {
    let addresses = <A as Rewrite>::store(packet, parsed, flow.src, flow.dst, count_hop)?;
    let (from, to) = (ports(parsed.key.sport, parsed.key.dport), ports(flow.sport, flow.dport));
    let (at, udp) = match parsed.layer4 {
        Layer4::Tcp => (16, false),
        Layer4::Udp => (6, true),
        Layer4::Icmp => return translate_echo(packet, parsed, flow, addresses),
        Layer4::IcmpError if A::V6 => {
            let change = Change { addresses, ports: 0, v6: true, udp: false, pseudo: 0 };
            return packet.correct_checksum(parsed.l4 + 2, L3 + A::HEADER + 2, change);
        }
        _ => {
            if A::V6 {
                packet.balance(addresses);
            }
            packet.hand_on(from.0 ^ to.0);
            return Some(());
        }
    };
    let ports = checksum::difference(from.0, to.0);
    if from != to {
        packet.store_word_at(parsed.l4, L3 + A::HEADER, to)?;
    }
    let ports = if from == to { 0 } else { ports };
    let mut pseudo = 0;
    if (OFTEN || !A::V6)
        && let Some(bytes) = A::payload(packet)
    {
        let addresses = checksum::add(parsed.key.src.sum(), parsed.key.dst.sum());
        pseudo = checksum::fold(checksum::pseudo(addresses, parsed.key.proto, bytes));
    }
    let change = Change { addresses, ports, v6: A::V6, udp, pseudo };
    packet.correct_checksum(parsed.l4 + at, L3 + A::HEADER + at, change)
}

/// Where a translated packet goes: to its end, if it is one of SCTP by way of the step that writes its ports. Fragments, too.
#[inline(always)]
#[must_use]
pub fn translated<A>(parsed: &Parsed<A>, end: Verdict) -> Verdict {
    if parsed.key.proto == proto::SCTP { end.then(Step::Sctp) } else { end }
}

/// Gives an ICMP echo the identifier of its flow; only `ICMPv6` has a pseudo header in its checksum.
#[inline(always)]
fn translate_echo<A: Rewrite, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    flow: &Flow<A>,
    addresses: u32,
) -> Option<()> {
    let [word] = packet.words_far::<1>(parsed.l4 + 4)?;
    let after = Be32::new((flow.sport as u32) << 16 | word.get() & 0xffff);
    if after != word {
        packet.store_word_far(parsed.l4 + 4, after)?;
    }
    let addresses = if A::V6 { addresses } else { 0 };
    let change = Change { addresses, ports: checksum::difference(word.0, after.0), v6: A::V6, udp: false, pseudo: 0 };
    packet.correct_checksum(parsed.l4 + 2, L3 + A::HEADER + 2, change)
}

/// Both ports as they stand at the start of a TCP, UDP or SCTP header.
#[inline(always)]
const fn ports(src: u16, dst: u16) -> Be32 {
    Be32::new((src as u32) << 16 | dst as u32)
}

impl Rewrite for V4 {
    #[inline(always)]
    fn hops(hop: Be32) -> u8 {
        hop.byte(0)
    }

    #[inline(always)]
    fn store_hop<P: Packet>(packet: &mut P, parsed: &Parsed<Self>) -> Option<()> {
        packet.store_words(L3 + 8, &[hop4(parsed.hop, 1, 0)])
    }

    #[inline(always)]
    fn store<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, src: Self, dst: Self, count_hop: bool) -> Option<u32> {
        let addresses = checksum::difference(parsed.key.src.word(), src.word());
        let addresses = checksum::add(addresses, checksum::difference(parsed.key.dst.word(), dst.word()));
        let hop = hop4(parsed.hop, u32::from(count_hop), addresses);
        packet.store_words(L3 + 8, &[hop, Be32(src.word()), Be32(dst.word())])?;
        Some(addresses)
    }
}

/// The word of time to live, protocol and header checksum (RFC 791, section 3.1) after `hops` hops and a difference of the addresses.
#[inline(always)]
fn hop4(word: Be32, hops: u32, addresses: u32) -> Be32 {
    let (before, sum) = ((word.get() >> 16) as u16, Be16::new(word.get() as u16));
    let after = before.wrapping_sub((hops << 8) as u16);
    let ttl = checksum::difference(Be16::new(before).0 as u32, Be16::new(after).0 as u32);
    let sum = checksum::apply(sum, checksum::add(ttl, addresses));
    Be32::new((after as u32) << 16 | sum.get() as u32)
}

impl Rewrite for V6 {
    #[inline(always)]
    fn hops(hop: Be32) -> u8 {
        hop.byte(3)
    }

    #[inline(always)]
    fn store_hop<P: Packet>(packet: &mut P, parsed: &Parsed<Self>) -> Option<()> {
        // RFC 8200, section 3: payload length, next header, hop limit
        let after = Be32::new(parsed.hop.get().wrapping_sub(1));
        packet.store_words(L3 + 4, &[after])?;
        packet.balance(checksum::difference(parsed.hop.0, after.0));
        Some(())
    }

    #[inline(always)]
    fn store<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, src: Self, dst: Self, count_hop: bool) -> Option<u32> {
        if count_hop {
            Self::store_hop(packet, parsed)?;
        }
        // usually one of them stays
        let mut addresses = 0;
        if src != parsed.key.src {
            addresses = store6(packet, L3 + 8, parsed.key.src, src)?;
        }
        if dst != parsed.key.dst {
            addresses = checksum::add(addresses, store6(packet, L3 + 24, parsed.key.dst, dst)?);
        }
        Some(addresses)
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
pub trait Family: Rewrite + Inside {
    /// The pod's address of this family.
    fn of_pod(pod: &crate::types::pod::Pod) -> Self;
    /// The pod's address of this family.
    fn of_netns(pod: &crate::types::pod::PodNetns) -> Self;
    /// The node's address of this family.
    fn of_node(node: &crate::types::pod::NodeConfig) -> Self;
    /// Whether packets to it are never forwarded past the host stack: loopback, link-local, multicast, broadcast.
    fn is_host_only(self) -> bool;
    /// Whether it is a link-local or the unspecified address, as neighbour discovery has.
    fn is_link_local(self) -> bool;
}

impl Family for V4 {
    #[inline(always)]
    fn of_pod(pod: &crate::types::pod::Pod) -> Self {
        pod.addr4
    }
    #[inline(always)]
    fn of_netns(pod: &crate::types::pod::PodNetns) -> Self {
        pod.addr4
    }
    #[inline(always)]
    fn of_node(node: &crate::types::pod::NodeConfig) -> Self {
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
    fn of_pod(pod: &crate::types::pod::Pod) -> Self {
        pod.addr6
    }
    #[inline(always)]
    fn of_netns(pod: &crate::types::pod::PodNetns) -> Self {
        pod.addr6
    }
    #[inline(always)]
    fn of_node(node: &crate::types::pod::NodeConfig) -> Self {
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
