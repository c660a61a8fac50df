//! FNV-1a: names of files and devices, and checksums against damage. Not against malice: only root writes here.

/// FNV-1a over some bytes, 64 bits.
#[must_use]
pub fn fnv64(bytes: &[u8]) -> u64 {
    seeded(0xcbf2_9ce4_8422_2325, bytes)
}

fn seeded(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Two hashes with different seeds, as a name for files.
pub(super) fn file_name(bytes: &[u8]) -> String {
    format!("{:016x}{:016x}", fnv64(bytes), seeded(0x9ae1_6a3b_2f90_404f, bytes))
}

#[cfg(test)]
mod tests {
    use super::fnv64;

    #[test]
    fn is_fnv1a() {
        // Test vectors of the authors (draft-eastlake-fnv).
        assert_eq!(fnv64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv64(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
