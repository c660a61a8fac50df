//! Hashes: file names of records and marks, and the pods that addresses were released by.
//!
//! File names are hashes of the attachment's identity, so that they have one length and no text of
//! the runtime becomes part of a path. Used by [`super::record`].

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use dataplane_common::types::fnv::{extend64, hash64};

/// Returns a file name for an attachment: two 64-bit hashes with different seeds, 32 hexadecimal
/// digits.
pub(super) fn file_name(bytes: &[u8]) -> String {
    const SECOND_SEED: u64 = 0x9ae1_6a3b_2f90_404f;
    format!("{:016x}{:016x}", hash64(bytes), extend64(SECOND_SEED, bytes))
}

/// Returns the hash of a pod's namespace and name; 0 if the pod is unknown. A tenant who could find
/// another name with the same hash would get the pod's address without the cool-down, so this is no
/// FNV.
pub(super) fn pod(pod: Option<&str>) -> u64 {
    let Some(pod) = pod else { return 0 };
    let mut hasher = DefaultHasher::new();
    pod.hash(&mut hasher);
    hasher.finish().max(1)
}
