//! FNV-1a (RFC 9923): short names and checksums that are equal on every node and in every version.
//!
//! Used for the ABI hash at compile time, for names of files, devices and Events, and to detect
//! damaged records. It does not resist an attacker who chooses the input; no caller hashes input
//! with which an attacker could gain an advantage.

/// Offset basis of the 64-bit hash: the hash of no bytes.
pub const BASIS64: u64 = 0xcbf2_9ce4_8422_2325;

/// Returns the 64-bit hash of `bytes`.
#[must_use]
pub const fn hash64(bytes: &[u8]) -> u64 {
    extend64(BASIS64, bytes)
}

/// Continues a 64-bit hash with further bytes.
#[must_use]
pub const fn extend64(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    // `while`: iterators cannot be used in a const fn.
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Returns the 32-bit hash of `bytes`.
#[must_use]
pub const fn hash32(bytes: &[u8]) -> u32 {
    let (mut hash, mut i) = (0x811c_9dc5_u32, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_test_vectors_match() {
        assert_eq!(hash64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash64(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(extend64(hash64(b"foo"), b"bar"), hash64(b"foobar"));
        assert_eq!((hash32(b""), hash32(b"a"), hash32(b"foobar")), (0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968));
    }
}
