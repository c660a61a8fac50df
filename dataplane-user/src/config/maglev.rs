//! The Maglev table sizes that the setting and the annotation accept.
//!
//! Used by the configuration's check, by the decoder of `ropeway.dev/maglev-table-size` and by
//! `proxy::reconcile::table`, which fills tables of these sizes. All are primes, as the algorithm requires.

/// The size unless a setting says otherwise: that of IPVS. The shares are even to 1 % with up to 40 backends; a table
/// should have a hundred times as many slots as there are backends.
pub const DEFAULT_SIZE: u32 = 4093;

/// The accepted sizes: those of IPVS, and the one of the paper.
pub const SIZES: [u32; 11] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 65537, 131_071];

/// The largest of [`SIZES`].
pub const LARGEST: u32 = SIZES[SIZES.len() - 1];
