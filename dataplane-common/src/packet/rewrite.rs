//! Translation of a packet: addresses, ports, checksums, hop limit.
//!
//! The packet path calls [`translate`] with a flow. Ports and CRC of SCTP are left to a stage
//! ([`crate::path::sctp_ports`]). The module never decides where the packet goes.

use crate::packet::access::{L3, Packet};
use crate::packet::family::Rewrite;
use crate::packet::parse::{Layer4, Parsed};
use crate::types::flow::Flow;
use crate::wire::byte_order::Be32;
use crate::wire::checksum::{self, ChecksumChange};

/// Writes the addresses and ports of a flow into the packet, and decrements the hop limit if
/// `count_hop` is set (it must not be 0 then). `None`: the kernel refused a write.
///
/// [`crate::path::forward::via_sctp_stage`] has to follow. With `OFTEN`, and always for IPv4, the
/// sum of the pseudo header is computed, so that a finished checksum is corrected in place. The
/// additional code would exceed the verifier's budget in the IPv6 stages, so IPv6 has it only on
/// the path of established flows.
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
            let change = ChecksumChange { addresses, ports: 0, v6: true, udp: false, pseudo: 0 };
            return packet.correct_checksum(parsed.l4 + 2, L3 + A::HEADER + 2, change);
        }
        // SCTP, later fragments, other protocols, and ICMP errors of IPv4: no 16-bit checksum here
        // covers an address or a port.
        _ => {
            if A::V6 {
                // In IPv4 the header checksum compensates the addresses.
                packet.adjust_csum_complete(addresses);
            }
            // Only the SCTP stage reads it; writing always costs less than a branch.
            packet.set_scratch(from.0 ^ to.0);
            return Some(());
        }
    };
    let ports = checksum::difference(from.0, to.0);
    if from != to {
        packet.store_word_at(parsed.l4, L3 + A::HEADER, to)?;
    }
    // Not 0xffff, one's complement's other zero, so that a test for 0 suffices below.
    let ports = if from == to { 0 } else { ports };
    let mut pseudo = 0;
    // The sum of the pseudo header tells a finished checksum from one that is left to the device. A
    // finished one is corrected in place, which saves the 25 ns of the helper.
    if (OFTEN || !A::V6)
        && let Some(bytes) = A::payload(packet)
    {
        let addresses = checksum::add(parsed.key.src.sum(), parsed.key.dst.sum());
        pseudo = checksum::fold(checksum::pseudo(addresses, parsed.key.proto, bytes));
    }
    let change = ChecksumChange { addresses, ports, v6: A::V6, udp, pseudo };
    packet.correct_checksum(parsed.l4 + at, L3 + A::HEADER + at, change)
}

/// Writes the identifier of a flow into an ICMP echo. Only `ICMPv6` has a pseudo header under its
/// checksum.
#[inline(always)]
fn translate_echo<A: Rewrite, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    flow: &Flow<A>,
    addresses: u32,
) -> Option<()> {
    let [word] = packet.load_words_via_helper::<1>(parsed.l4 + 4)?;
    let after = Be32::new((flow.sport as u32) << 16 | word.get() & 0xffff);
    if after != word {
        packet.store_word_via_helper(parsed.l4 + 4, after)?;
    }
    let addresses = if A::V6 { addresses } else { 0 };
    let change =
        ChecksumChange { addresses, ports: checksum::difference(word.0, after.0), v6: A::V6, udp: false, pseudo: 0 };
    packet.correct_checksum(parsed.l4 + 2, L3 + A::HEADER + 2, change)
}

/// Returns both ports as they stand at the start of a TCP, UDP or SCTP header.
#[inline(always)]
const fn ports(src: u16, dst: u16) -> Be32 {
    Be32::new((src as u32) << 16 | dst as u32)
}
