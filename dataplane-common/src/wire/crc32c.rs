//! Incremental `CRC32c`, the checksum of SCTP (RFC 9260, appendix A).
//!
//! A CRC is linear: the checksums of two packets of one length differ by the CRC of their
//! difference, without initial value and final inversion. Here that is a 32-bit number times a
//! power of x, modulo the polynomial. So the payload is never read, and the work is the same for
//! every length. A checksum that was wrong before is wrong by as much afterwards: it still protects
//! the packet from end to end.
//!
//! Written by hand: libraries compute the CRC of a buffer, not that difference. Tests compare it
//! with one of these libraries.
//!
//! The bits of a number are the coefficients of a polynomial over GF(2), the highest bit that of
//! x^0: the order in which bits are sent.

/// The polynomial 0x1EDC6F41, bit-reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1 (x^0).
const ONE: u32 = 1 << 31;
/// The polynomial x^8: a shift by one byte.
const BYTE: u32 = ONE >> 8;

/// Powers of x^8, indexed by the low byte of a length.
// Two tables of 1 KiB in .rodata. One indexed by the whole length would take 256 KiB, and a loop of
// shifts would run up to 65535 times.
const LOW: [u32; 256] = powers(BYTE);
/// Powers of x^2048, indexed by the high byte of a length.
const HIGH: [u32; 256] = powers(multiply(LOW[255], BYTE));

/// Returns the change of the CRC of a packet of `bytes` bytes if its first four bytes change by
/// `first`.
///
/// Both are differences by exclusive or, of words as a little-endian CPU reads them.
#[inline(always)]
#[must_use]
pub const fn difference(first: u32, bytes: u16) -> u32 {
    multiply(multiply(first, LOW[(bytes & 0xff) as usize]), HIGH[(bytes >> 8) as usize])
}

/// Multiplies two polynomials modulo [`POLYNOMIAL`].
#[inline(always)]
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        // Masks and no branches: the verifier would explore both outcomes of all 32 iterations.
        product ^= b & 0_u32.wrapping_sub(a >> bit & 1);
        b = b >> 1 ^ POLYNOMIAL & 0_u32.wrapping_sub(b & 1);
    }
    product
}

/// Returns the first 256 powers of a polynomial, computed at compile time.
const fn powers(of: u32) -> [u32; 256] {
    let mut all = [ONE; 256];
    let mut i = 1;
    while i < all.len() {
        all[i] = multiply(all[i - 1], of);
        i += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use crc::{CRC_32_ISCSI, Crc};
    use proptest::prelude::*;

    use super::difference;

    /// An independent implementation of the same CRC.
    const REFERENCE: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

    /// Returns pseudo-random bytes.
    fn noise(seed: u64, bytes: u16) -> Vec<u8> {
        let mut state = seed | 1;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..bytes).map(next).collect()
    }

    #[track_caller]
    fn check(mut packet: Vec<u8>, after: [u8; 4]) {
        let sum = REFERENCE.checksum(&packet);
        let before: [u8; 4] = packet[..4].try_into().unwrap();
        packet[..4].copy_from_slice(&after);
        let first = u32::from_le_bytes(before) ^ u32::from_le_bytes(after);
        let bytes = u16::try_from(packet.len()).unwrap();
        assert_eq!(sum ^ difference(first, bytes), REFERENCE.checksum(&packet), "{bytes} bytes");
    }

    #[test]
    fn difference_is_right_at_the_ends_of_the_tables() {
        for bytes in [12, 13, 255, 256, 257, 511, 512, 1500, 0xfeff, 0xff00, 0xffff] {
            check(noise(7, bytes), [0x12, 0x34, 0xff, 0]);
            check(noise(8, bytes), [0; 4]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn checksum_difference_equals_difference_of_full_sums(seed: u64, bytes in 12..=u16::MAX, after: [u8; 4]) {
            check(noise(seed, bytes), after);
        }
    }
}
