//! One's-complement arithmetic for incremental checksums (RFC 1071, RFC 1624).
//!
//! Sums and differences are taken over words in memory order, because the result does not depend on
//! byte order (RFC 1071, section 2). Rewriting computes differences here;
//! [`crate::packet::access::Packet::correct_checksum`] applies them.
//! Written by hand: libraries sum whole buffers, and the programs know only the changed words.

use crate::wire::byte_order::{Be16, Be32};

/// The changes under an L4 checksum.
///
/// Addresses and ports are separate, because a checksum that is left to the device
/// (`CHECKSUM_PARTIAL`) covers only the pseudo header so far, hence no ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChecksumChange {
    /// Difference of the addresses, if the checksum has a pseudo header; else 0.
    pub addresses: u32,
    /// Difference of the ports.
    pub ports: u32,
    /// True if the addresses are IPv6: no IP header checksum compensates their change.
    pub v6: bool,
    /// True for UDP, where a checksum of zero means "none" (RFC 768).
    pub udp: bool,
    /// Folded sum of the pseudo header before the change, which is what the field holds if the
    /// checksum is left to the device; 0 if it was not computed.
    pub pseudo: u16,
}

/// Adds two one's-complement sums, with end-around carry.
#[inline(always)]
#[must_use]
pub const fn add(sum: u32, v: u32) -> u32 {
    let (s, carry) = sum.overflowing_add(v);
    s + carry as u32
}

/// Returns the difference that turns a sum over `from` into one over `to` (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn difference(from: u32, to: u32) -> u32 {
    add(!from, to)
}

/// Returns the sum of a pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1).
///
/// `addresses` is the sum of both addresses, `bytes` the length of the L4 header and payload, at
/// most 65535.
#[inline(always)]
#[must_use]
pub const fn pseudo(addresses: u32, proto: u8, bytes: u32) -> u32 {
    add(addresses, Be32::new((proto as u32) << 16 | bytes).0)
}

/// Folds a 32-bit sum to 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    // Twice: the first addition can carry into bit 16.
    let s = (sum & 0xffff) + (sum >> 16);
    ((s & 0xffff) + (s >> 16)) as u16
}

/// Returns the checksum field after a difference.
#[inline(always)]
#[must_use]
pub const fn apply(field: Be16, difference: u32) -> Be16 {
    Be16(!fold(add(!field.0 as u32, difference)))
}

/// Returns true if two folded sums are equal; zero has two forms, 0 and 0xffff.
#[inline(always)]
#[must_use]
pub const fn same(a: u16, b: u16) -> bool {
    a == b || (a ^ b == 0xffff && (a == 0 || b == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes the checksum of RFC 1071 over 16-bit words in memory order.
    fn full(words: &[u16]) -> u16 {
        !fold(words.iter().fold(0, |s, w| add(s, u32::from(*w))))
    }

    #[test]
    fn incremental_equals_full_for_every_changed_word() {
        let mut seed = 1_u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as u16
        };
        for _ in 0..10_000 {
            let mut words: [u16; 6] = core::array::from_fn(|_| next());
            let before = full(&words);
            let (low, high) = (words[2], words[3]);
            (words[2], words[3]) = (next(), next());
            let old = u32::from(low) | u32::from(high) << 16;
            let new = u32::from(words[2]) | u32::from(words[3]) << 16;
            let applied = apply(Be16(before), difference(old, new)).0;
            let after = full(&words);
            assert!(same(applied, after), "{applied:x} {after:x}");
        }
    }
}
