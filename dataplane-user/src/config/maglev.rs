//! The Maglev table sizes that --maglev-table-size and ropeway.dev/maglev-table-size accept.
//!
//! Used by the configuration's check, by the decoder of `ropeway.dev/maglev-table-size` and by
//! `proxy::reconcile::table`, which fills tables of these sizes. All are primes, as the algorithm
//! requires.

/// Default size, that of IPVS. Shares are even to 1 % with up to 40 backends: a table
/// should have a hundred slots per backend.
pub const DEFAULT_SIZE: u32 = 4093;

/// Accepted sizes: those of IPVS, and 65537 from the Maglev paper.
pub const SIZES: [u32; 11] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 65537, 131_071];

/// The largest of [`SIZES`].
pub const LARGEST: u32 = SIZES[SIZES.len() - 1];
