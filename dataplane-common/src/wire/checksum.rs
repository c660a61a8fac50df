//! One's-complement arithmetic for incremental checksums (RFC 1071, RFC 1624).
//!
//! Sums and differences are taken over words as they stand in memory: the arithmetic does not depend on byte order.

use crate::wire::byte_order::{Be16, Be32};

/// What has changed under an L4 checksum. Addresses are kept apart from ports because a checksum that is left to the device covers
/// only the pseudo header so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChecksumChange {
    /// Difference of the addresses, which are part of the pseudo header.
    pub addresses: u32,
    /// Difference of the ports.
    pub ports: u32,
    /// Whether the addresses are IPv6, whose change no IP header checksum balances.
    pub v6: bool,
    /// UDP: a checksum of zero means none (RFC 768).
    pub udp: bool,
    /// The folded sum of the pseudo header before the change, which is what the field holds if the checksum is left to the device;
    /// 0: not known.
    pub pseudo: u16,
}

/// One's-complement sum.
#[inline(always)]
#[must_use]
pub const fn add(sum: u32, v: u32) -> u32 {
    let (s, carry) = sum.overflowing_add(v);
    s + carry as u32
}

/// The difference that takes a sum with `from` in it to one with `to` (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn difference(from: u32, to: u32) -> u32 {
    add(!from, to)
}

/// The sum of a pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1): that of the addresses, the protocol, and the length of what has the
/// checksum, at most 65535 bytes.
#[inline(always)]
#[must_use]
pub const fn pseudo(addresses: u32, proto: u8, bytes: u32) -> u32 {
    add(addresses, Be32::new((proto as u32) << 16 | bytes).0)
}

/// 32 bits folded into 16.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let s = (sum & 0xffff) + (sum >> 16);
    ((s & 0xffff) + (s >> 16)) as u16
}

/// The checksum field after a difference.
#[inline(always)]
#[must_use]
pub const fn apply(field: Be16, difference: u32) -> Be16 {
    Be16(!fold(add(!field.0 as u32, difference)))
}

/// Whether two folded sums are the same number: zero has two forms.
#[inline(always)]
#[must_use]
pub const fn same(a: u16, b: u16) -> bool {
    a == b || (a ^ b == 0xffff && (a == 0 || b == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 over 16-bit words in memory order.
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
