//! Ports of translated SCTP packets: [`crate::types::stage::Stage::SctpPorts`], their last stage.
//!
//! SCTP's CRC does not cover the IP header, so nothing is done if the ports stay the same. It
//! covers the whole packet (RFC 9260, section 3.1). The CRC of a fragmented packet would have to be
//! corrected in the first fragment, which does not contain the packet's length; such fragments are
//! dropped. An SCTP sender avoids them, because it discovers the path MTU (RFC 9260, section 7.3).

use crate::packet::access::{L3, Packet};
use crate::packet::parse::Header;
use crate::types::event::DropReason;
use crate::verdict::Verdict;
use crate::wire::byte_order::Be32;
use crate::wire::crc32c;

/// Length of the common header, bytes: ports, verification tag, checksum.
const HEADER: u32 = 12;
/// Offset of the checksum in the common header, bytes.
const CHECKSUM: usize = 8;

/// Writes the ports of a packet that is translated otherwise, and returns `verdict`.
///
/// The scratch word ([`Packet::set_scratch`]) holds the change of the ports by exclusive or, in
/// memory order.
#[inline(always)]
pub fn set_ports<A: Header, P: Packet>(packet: &mut P, verdict: Verdict) -> Verdict {
    let change = packet.scratch();
    if change == 0 {
        return verdict;
    }
    let ip = match A::ip(packet) {
        Ok(ip) => ip,
        Err(reject) => return Verdict::drop(reject.into()),
    };
    if ip.is_fragment() {
        return Verdict::drop(DropReason::SctpFragment);
    }
    // The length of the IP header counts: bytes behind it in the frame are padding. Scrubbed,
    // because the loop over extension headers leaves a state for each number of them.
    let bytes = packet.scrub_verifier_state(ip.payload());
    let at = packet.scrub_verifier_state(ip.l4()) as usize;
    if bytes < HEADER || bytes > u16::MAX as u32 || at > L3 + u16::MAX as usize {
        return Verdict::drop(DropReason::Malformed);
    }
    match replace(packet, at, bytes as u16, change) {
        Some(()) => verdict,
        None => Verdict::drop(DropReason::Rewrite),
    }
}

#[inline(always)]
fn replace<P: Packet>(packet: &mut P, at: usize, bytes: u16, change: u32) -> Option<()> {
    let [ports] = packet.load_words_via_helper(at)?;
    packet.store_word_via_helper(at, Be32(ports.0 ^ change))?;
    packet.correct_crc(at + CHECKSUM, crc32c::difference(u32::from_le(change), bytes).to_le())
}
