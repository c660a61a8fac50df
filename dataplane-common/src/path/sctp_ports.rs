//! The ports of SCTP packets: [`crate::types::stage::Stage::SctpPorts`], the last stage of those that are translated.
//!
//! The checksum covers neither addresses nor anything else of the IP header: without new ports nothing is done. It is the checksum of a whole
//! packet (RFC 9260, section 3.1): that of a fragmented one would have to be corrected in its first fragment, which does not say how long the
//! packet is. Such fragments are dropped; SCTP itself sends none, because it follows the size of the way (RFC 9260, section 7.3).

use crate::packet::access::{L3, Packet};
use crate::packet::parse::Header;
use crate::types::event::DropReason;
use crate::verdict::Verdict;
use crate::wire::byte_order::Be32;
use crate::wire::crc32c;

/// Bytes of the common header: ports, verification tag, checksum.
const HEADER: u32 = 12;
/// Where the checksum is in it.
const CHECKSUM: usize = 8;

/// Changes the ports of a packet, otherwise translated, by what was handed on ([`Packet::set_scratch`]; exclusive or, as they stand in its header); then
/// `verdict`.
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
    // what the frame has behind that is padding
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
