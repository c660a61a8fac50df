//! The versions of the CNI specification that the plugin supports.
//!
//! Compared with the configuration's `cniVersion`, and printed by VERSION and in errors.

/// Versions whose configurations are understood, and in which results are printed; oldest first.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The version of answers to a call whose version is not (yet) known.
pub(crate) const NEWEST: &str = "1.1.0";
