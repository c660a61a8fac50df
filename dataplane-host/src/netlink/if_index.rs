//! The number of a network device.
//!
//! The programs' maps hold it as a plain `u32`, and so do the messages of netlink; callers convert
//! there. Everything between them uses the type, so that a device is not mistaken for a map index,
//! an id or an MTU.

use std::fmt;

/// The index of a network device in its namespace; 0 is no device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct IfIndex(pub u32);

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
