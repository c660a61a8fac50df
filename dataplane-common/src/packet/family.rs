//! Address families: the differences between IPv4 and IPv6 when a packet is rewritten.
//!
//! [`Rewrite`] writes the header of a packet, [`Inside`] the packet that an ICMP error quotes, and
//! [`Family`] is the bound that the packet path uses. Reading a header is in [`super::parse`]. The
//! path is compiled once per family and never branches on it at run time.

use crate::packet::access::{L3, Packet};
use crate::packet::parse::{Header, Parsed};
use crate::types::address::{Address, V4, V6};
use crate::types::flow::FlowKey;
use crate::types::pod::{MasqueradeSource, NodeConfig, Pod, PodNetns};
use crate::types::service::proto;
use crate::wire::byte_order::{Be16, Be32};
use crate::wire::checksum;

/// Writing of a family's IP header.
pub trait Rewrite: Header {
    /// Returns the hop limit from the word that [`Parsed::hop`] holds.
    fn hop_limit(hop: Be32) -> u8;
    /// Decrements the hop limit, which must not be 0.
    #[must_use]
    fn decrement_hop_limit<P: Packet>(packet: &mut P, parsed: &Parsed<Self>) -> Option<()>;
    /// Writes the addresses, and decrements the hop limit if `count_hop` is set. Returns the
    /// checksum difference of the addresses.
    #[must_use]
    fn store<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, src: Self, dst: Self, count_hop: bool) -> Option<u32>;
}

/// Reading and writing of the packet that an ICMP error quotes.
pub trait Inside: Address {
    /// Reads the tuple of the quoted packet at offset `at` into `back`, reversed. Returns the
    /// length of its IP header; `None` if the packet has no ports.
    fn read<P: Packet>(packet: &P, at: usize, back: &mut FlowKey<Self>) -> Option<usize>;
    /// Replaces the addresses of the quoted packet. Returns the change of the sum over its IP
    /// header.
    #[must_use]
    fn store<P: Packet>(packet: &mut P, at: usize, back: &FlowKey<Self>, src: Self, dst: Self) -> Option<u32>;
}

/// Everything that the packet path requires of an address family.
pub trait Family: Rewrite + Inside {
    /// Returns the pod's address of this family; unspecified if it has none.
    fn of_pod(pod: &Pod) -> Self;
    /// Returns the address of the pod in a network namespace; unspecified if it has none.
    fn of_netns(pod: &PodNetns) -> Self;
    /// Returns the node's address of this family; unspecified if it has none.
    fn of_node(node: &NodeConfig) -> Self;
    /// Returns the address of this family; unspecified if neither device nor node has one.
    fn of_source(source: &MasqueradeSource) -> Self;
    /// Returns true if packets to this address must stay in the host's stack: loopback,
    /// IPv6 link-local, multicast, broadcast.
    fn is_host_only(self) -> bool;
    /// Returns true for link-local and unspecified addresses, which neighbour discovery uses.
    fn is_link_local(self) -> bool;
    /// Returns true for multicast addresses, and for the broadcast address of IPv4.
    fn is_multicast(self) -> bool;
    /// Returns true for an address that no packet on a wire has: loopback (RFC 1122, section
    /// 3.2.1.3) and IPv4-mapped (RFC 4291, section 2.5.5.2).
    fn is_internal(self) -> bool;
    /// Returns true for an address that no packet on a wire has as its source: unspecified,
    /// multicast, or [`Self::is_internal`].
    fn is_no_source(self) -> bool;
}

impl Rewrite for V4 {
    #[inline(always)]
    fn hop_limit(hop: Be32) -> u8 {
        hop.byte(0)
    }

    #[inline(always)]
    fn decrement_hop_limit<P: Packet>(packet: &mut P, parsed: &Parsed<Self>) -> Option<()> {
        packet.store_words(L3 + 8, &[hop4(parsed.hop, 1, 0)])
    }

    #[inline(always)]
    fn store<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, src: Self, dst: Self, count_hop: bool) -> Option<u32> {
        let addresses = checksum::difference(parsed.key.src.word(), src.word());
        let addresses = checksum::add(addresses, checksum::difference(parsed.key.dst.word(), dst.word()));
        let hop = hop4(parsed.hop, u32::from(count_hop), addresses);
        // TTL, header checksum and both addresses are adjacent: one bounds check and one store.
        packet.store_words(L3 + 8, &[hop, Be32(src.word()), Be32(dst.word())])?;
        Some(addresses)
    }
}

/// Returns the word of TTL, protocol and header checksum (RFC 791, section 3.1) after `hops` hops
/// and a change of the addresses.
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
    fn hop_limit(hop: Be32) -> u8 {
        hop.byte(3)
    }

    #[inline(always)]
    fn decrement_hop_limit<P: Packet>(packet: &mut P, parsed: &Parsed<Self>) -> Option<()> {
        // RFC 8200, section 3: payload length, next header, hop limit
        let after = Be32::new(parsed.hop.get().wrapping_sub(1));
        packet.store_words(L3 + 4, &[after])?;
        // No checksum of an IPv6 packet covers the hop limit.
        packet.adjust_csum_complete(checksum::difference(parsed.hop.0, after.0));
        Some(())
    }

    #[inline(always)]
    fn store<P: Packet>(packet: &mut P, parsed: &Parsed<Self>, src: Self, dst: Self, count_hop: bool) -> Option<u32> {
        if count_hop {
            Self::decrement_hop_limit(packet, parsed)?;
        }
        // A flow usually translates one of the two addresses.
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

#[inline(always)]
fn ports<P: Packet, A>(packet: &P, at: usize, back: &mut FlowKey<A>) -> Option<()> {
    // Not more than eight bytes: RFC 792 lets the sender of an error quote no more behind the IP
    // header, so a longer read would miss errors.
    let [first, second] = packet.load_words_via_helper(at)?;
    let (high, low) = ((first.get() >> 16) as u16, first.get() as u16);
    (back.dport, back.sport) = match (back.proto, first.byte(0)) {
        (proto::TCP | proto::UDP | proto::SCTP, _) => (high, low),
        // Echo request and reply (RFC 792; RFC 4443, section 4): the flow key has the identifier as
        // both ports.
        (proto::ICMP, 0 | 8) | (proto::ICMP6, 128 | 129) => {
            let id = (second.get() >> 16) as u16;
            (id, id)
        }
        _ => return None,
    };
    Some(())
}

impl Inside for V4 {
    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: usize, back: &mut FlowKey<Self>) -> Option<usize> {
        let h: [Be32; 5] = packet.load_words_via_helper(at)?;
        let length = (h[0].byte(0) & 0xf) as usize * 4;
        // a later fragment has no ports
        if h[0].byte(0) >> 4 != 4 || length < 20 || h[1].get() & 0x1fff != 0 {
            return None;
        }
        (back.dst, back.src, back.proto) = (Self::from_word(h[3].0), Self::from_word(h[4].0), h[2].byte(1));
        ports(packet, at + length, back)?;
        Some(length)
    }

    #[inline(always)]
    fn store<P: Packet>(packet: &mut P, at: usize, back: &FlowKey<Self>, src: Self, dst: Self) -> Option<u32> {
        let addresses = checksum::difference(back.dst.word(), src.word());
        let addresses = checksum::add(addresses, checksum::difference(back.src.word(), dst.word()));
        let [word] = packet.load_words_via_helper::<1>(at + 8)?;
        let sum = checksum::apply(Be16::new(word.get() as u16), addresses);
        packet.store_word_via_helper(at + 8, Be32::new(word.get() & 0xffff_0000 | sum.get() as u32))?;
        packet.store_word_via_helper(at + 12, Be32(src.word()))?;
        packet.store_word_via_helper(at + 16, Be32(dst.word()))?;
        // the header's own checksum balances its addresses
        Some(0)
    }
}

impl Inside for V6 {
    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: usize, back: &mut FlowKey<Self>) -> Option<usize> {
        let [first, second] = packet.load_words_via_helper::<2>(at)?;
        if first.byte(0) >> 4 != 6 {
            return None;
        }
        // Extension headers are not followed: errors that quote them have no tuple and belong to no
        // flow.
        back.proto = second.byte(2);
        back.dst = address6(packet, at + 8)?;
        back.src = address6(packet, at + 24)?;
        ports(packet, at + 40, back)?;
        Some(40)
    }

    #[inline(always)]
    fn store<P: Packet>(packet: &mut P, at: usize, back: &FlowKey<Self>, src: Self, dst: Self) -> Option<u32> {
        let src = replace6(packet, at + 8, back.dst, src)?;
        Some(checksum::add(src, replace6(packet, at + 24, back.src, dst)?))
    }
}

#[inline(always)]
fn address6<P: Packet>(packet: &P, at: usize) -> Option<V6> {
    packet.load_words_via_helper::<4>(at).map(|w| V6::from_words([w[0].0, w[1].0, w[2].0, w[3].0]))
}

#[inline(always)]
fn replace6<P: Packet>(packet: &mut P, at: usize, from: V6, to: V6) -> Option<u32> {
    let (from, to) = (from.words(), to.words());
    let mut difference = 0;
    for i in 0..4 {
        packet.store_word_via_helper(at + i * 4, Be32(to[i]))?;
        difference = checksum::add(difference, checksum::difference(from[i], to[i]));
    }
    Some(difference)
}

impl Family for V4 {
    #[inline(always)]
    fn of_pod(pod: &Pod) -> Self {
        pod.addr4
    }
    #[inline(always)]
    fn of_netns(pod: &PodNetns) -> Self {
        pod.addr4
    }
    #[inline(always)]
    fn of_node(node: &NodeConfig) -> Self {
        node.node4
    }
    #[inline(always)]
    fn of_source(source: &MasqueradeSource) -> Self {
        source.addr4
    }
    #[inline(always)]
    fn is_host_only(self) -> bool {
        let a = u32::from_be(self.word());
        // From 224 on: multicast, reserved addresses and broadcast (RFC 1112, section 4). 0/8 is a
        // source only (RFC 1122, section 3.2.1.3).
        // Link-local addresses are not left out: clouds serve metadata and DNS at 169.254.169.254,
        // beyond the node, and check the health of nodes from there.
        a >> 24 >= 224 || a >> 24 == 127 || a >> 24 == 0
    }
    #[inline(always)]
    fn is_link_local(self) -> bool {
        u32::from_be(self.word()) >> 16 == 0xa9fe
    }
    #[inline(always)]
    fn is_multicast(self) -> bool {
        u32::from_be(self.word()) >> 28 == 14 || self.word() == u32::MAX
    }
    #[inline(always)]
    fn is_internal(self) -> bool {
        self.octets[0] == 127
    }
    #[inline(always)]
    fn is_no_source(self) -> bool {
        // Not 240/4: some networks use it.
        self.octets[0] == 0 || self.is_internal() || self.is_multicast()
    }
}

impl Family for V6 {
    #[inline(always)]
    fn of_pod(pod: &Pod) -> Self {
        pod.addr6
    }
    #[inline(always)]
    fn of_netns(pod: &PodNetns) -> Self {
        pod.addr6
    }
    #[inline(always)]
    fn of_node(node: &NodeConfig) -> Self {
        node.node6
    }
    #[inline(always)]
    fn of_source(source: &MasqueradeSource) -> Self {
        source.addr6
    }
    #[inline(always)]
    fn is_host_only(self) -> bool {
        let w = self.words();
        // `::/96` has the unspecified address, loopback, and the deprecated IPv4-compatible
        // addresses (RFC 4291, section 2.5).
        u32::from_be(w[0]) >> 24 == 0xff || self.is_link_local() || ((w[0] | w[1] | w[2]) == 0)
    }
    #[inline(always)]
    fn is_link_local(self) -> bool {
        let w = self.words();
        u32::from_be(w[0]) >> 22 == 0xfe80 >> 6 || ((w[0] | w[1]) | (w[2] | w[3])) == 0
    }
    #[inline(always)]
    fn is_multicast(self) -> bool {
        self.octets[0] == 0xff
    }
    #[inline(always)]
    fn is_internal(self) -> bool {
        let w = self.words();
        (w[0] | w[1] | (w[2] ^ 0xffff_u32.to_be())) == 0 || self.is_loopback()
    }
    #[inline(always)]
    fn is_no_source(self) -> bool {
        let w = self.words();
        // `::/96` as above.
        (w[0] | w[1] | w[2]) == 0 || self.is_internal() || self.is_multicast()
    }
}
