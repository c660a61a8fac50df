//! The IP version as a run-time value.
//!
//! The packet path has no such value: it is generic over [`super::address::Address`], once for each
//! version. The agent and the plugin, which read addresses of either version, use this enum where a
//! `bool` would not say which one it is.

use core::fmt;
use core::net::IpAddr;

/// The IP version of an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// Both families, IPv4 first: [`Self::index`] is the position here.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns whether an address is of this family.
    #[must_use]
    pub const fn has(self, address: IpAddr) -> bool {
        address.is_ipv6() == matches!(self, Self::V6)
    }

    /// Returns the index into a pair of one value per family: 0 for IPv4, 1 for IPv6.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
