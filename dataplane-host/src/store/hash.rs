//! File names of records and marks.
//!
//! They are hashes of the attachment's identity, so that they have one length and no text of the
//! runtime becomes part of a path. Used by [`super::record`].

use dataplane_common::types::fnv::{extend64, hash64};

/// Returns a file name for an attachment: two 64-bit hashes with different seeds, 32 hexadecimal
/// digits.
pub(super) fn file_name(bytes: &[u8]) -> String {
    const SECOND_SEED: u64 = 0x9ae1_6a3b_2f90_404f;
    format!("{:016x}{:016x}", hash64(bytes), extend64(SECOND_SEED, bytes))
}
