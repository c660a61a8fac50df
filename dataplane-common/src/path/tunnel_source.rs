//! The source of a packet inside the tunnel, checked before the host's stack unpacks it.
//!
//! Only here are both known: the node that has sent the datagram, and the packet in it. The device
//! of the tunnel shows the inner packet alone. [`crate::path::datapath`] leads a node's datagrams
//! to the tunnel's port here; other senders never come so far ([`crate::path::sender`]). The module
//! reads packet and tries and writes nothing.

use crate::maps::FamilyMaps;
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::{ETHER_IPV4, ETHER_IPV6, MAX_L4};
use crate::path::sender::{MARTIAN, TUNNEL_SENDER};
use crate::types::address::{V4, V6};
use crate::types::event::DropReason;
use crate::types::pod::TUNNEL_VNI;
use crate::verdict::Verdict;

/// Offset of the inner Ethernet header from the outer UDP header: UDP (8 bytes, RFC 768) and VXLAN
/// (8 bytes, RFC 7348, section 5).
const INNER: usize = 8 + 8;
/// Offset of the inner IP header from the outer UDP header.
const INNER_IP: usize = INNER + 14;

/// Runs [`crate::types::stage::Stage::TunnelSource`]: drops the datagram unless the source of the
/// inner packet is an address of the sending node or of its pods.
///
/// Later fragments pass: without the first one, which is checked and has all these headers, the
/// host's stack does not reassemble them. So do other VXLAN networks at the same port, which are
/// another program's. `four` and `six` are the same maps, by the family of the inner packet.
#[inline(always)]
pub fn check_inner_source<A, P, T, T4, T6>(packet: &mut P, tables: &T, four: &T4, six: &T6) -> Verdict
where
    A: Family,
    P: Packet,
    T: FamilyMaps<A>,
    T4: FamilyMaps<V4>,
    T6: FamilyMaps<V6>,
{
    const MALFORMED: Verdict = Verdict::drop(DropReason::Malformed);
    let Ok(ip) = A::ip(packet) else { return MALFORMED };
    if ip.is_later_fragment() {
        return Verdict::PASS;
    }
    let sender = tables.network(ip.src()).map_or(0, |net| net.node);
    let udp = packet.scrub_verifier_state(ip.l4()) as usize;
    if udp > MAX_L4 as usize {
        return MALFORMED;
    }
    let Some([_, network]) = packet.load_words_via_helper(udp + 8) else { return MALFORMED };
    if network.get() >> 8 != TUNNEL_VNI {
        return Verdict::PASS;
    }
    // The EtherType, and the first two bytes of what follows.
    let Some([kind]) = packet.load_words_via_helper(udp + INNER_IP - 2) else { return MALFORMED };
    let inner = match (kind.get() >> 16) as u16 {
        ETHER_IPV4 => {
            let Some([src]) = packet.load_words_via_helper(udp + INNER_IP + 12) else { return MALFORMED };
            four.network(&V4::from_word(src.0)).map_or(0, |net| net.node)
        }
        ETHER_IPV6 => {
            let Some([a, b, c, d]) = packet.load_words_via_helper(udp + INNER_IP + 8) else { return MALFORMED };
            let src = V6::from_words([a.0, b.0, c.0, d.0]);
            // Neighbour discovery. The device of the tunnel lets them reach the node alone.
            if src.is_link_local() {
                return Verdict::PASS;
            }
            six.network(&src).map_or(0, |net| net.node)
        }
        // Neighbours in the tunnel are permanent entries, so nodes send nothing but IP there.
        _ => return TUNNEL_SENDER,
    };
    if sender != 0 && inner == sender { Verdict::PASS } else { MARTIAN }
}
