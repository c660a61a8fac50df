//! A range of addresses, seen as numbered slots.
//!
//! Bitmaps and cursors of the store's cache work on slot numbers. A range has at most 65,536 slots;
//! of a larger one the first 65,536 addresses are used.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::StoreError;

/// Largest number of slots, more than a node can have pods. Of a larger range only the first
/// addresses are used.
const MOST_SLOTS: u32 = 1 << 16;

/// A range from which addresses are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    network: IpNetwork,
    /// Part of a larger range: its first and last address are usable.
    piece: bool,
}

impl Range {
    /// Creates a range; bits beyond the prefix must be zero.
    ///
    /// # Errors
    /// Bits beyond the prefix are set, or it is not a range of unicast addresses.
    pub fn new(network: IpNetwork) -> Result<Self, StoreError> {
        let first = network.network();
        let bad = |reason| Err(StoreError::Range { range: network.to_string(), reason });
        if network.ip() != first {
            return bad("has bits set beyond its prefix");
        }
        if first.is_multicast() || first.is_unspecified() || first.is_loopback() {
            return bad("is not a range of unicast addresses");
        }
        Ok(Self { network, piece: false })
    }

    /// Creates a range for a block of a pool. Its first and last address are given out as well,
    /// because no link has the block as its network.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn block(network: IpNetwork) -> Result<Self, StoreError> {
        Ok(Self { piece: true, ..Self::new(network)? })
    }

    /// Returns the range in CIDR notation.
    #[must_use]
    pub const fn network(&self) -> IpNetwork {
        self.network
    }

    /// Returns the number of slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        let bits = if self.network.is_ipv4() { 32 } else { 128 } - u32::from(self.network.prefix());
        1_u32.checked_shl(bits).map_or(MOST_SLOTS, |n| n.min(MOST_SLOTS))
    }

    /// Returns whether a slot is never given out: the network's own address, and IPv4's broadcast
    /// address. In a range of one or two addresses, and in a block, all are given out.
    #[must_use]
    pub fn is_reserved(&self, slot: u32) -> bool {
        let whole = self.slots();
        let broadcast = self.network.is_ipv4() && self.network.prefix() >= 16 && slot == whole - 1;
        !self.piece && whole > 2 && (slot == 0 || broadcast)
    }

    /// Returns the address of a slot.
    #[must_use]
    pub fn address(&self, slot: u32) -> IpAddr {
        match self.network.network() {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() | slot).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() | u128::from(slot)).into(),
        }
    }

    /// Returns the slot of an address; `None`: it is outside the range.
    #[must_use]
    pub fn slot(&self, address: IpAddr) -> Option<u32> {
        let offset = match (self.network.network(), address) {
            (IpAddr::V4(first), IpAddr::V4(a)) => u128::from(a.to_bits().checked_sub(first.to_bits())?),
            (IpAddr::V6(first), IpAddr::V6(a)) => a.to_bits().checked_sub(first.to_bits())?,
            _ => return None,
        };
        u32::try_from(offset).ok().filter(|slot| *slot < self.slots())
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.network.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        Range::new(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn slot_and_address_are_inverse() {
        for (text, slots, usable) in [
            ("10.1.0.0/24", 256, 254),
            ("10.1.0.4/30", 4, 2),
            ("10.1.0.4/31", 2, 2),
            ("10.1.0.4/32", 1, 1),
            ("10.0.0.0/8", 65536, 65535),
            ("10.1.0.0/16", 65536, 65534),
            ("fd00:1::/64", 65536, 65535),
            ("fd00:1::8/126", 4, 3),
            ("fd00:1::8/127", 2, 2),
            ("2001:db8::1/128", 1, 1),
        ] {
            let range = range(text);
            assert_eq!(range.slots(), slots, "{text}");
            assert_eq!((0..slots).filter(|s| !range.is_reserved(*s)).count(), usable, "{text}");
            for slot in [0, slots / 2, slots - 1] {
                assert_eq!(range.slot(range.address(slot)), Some(slot), "{text}");
            }
        }
        let block = Range::block("10.1.0.64/26".parse().unwrap()).unwrap();
        assert_eq!((0..block.slots()).filter(|s| !block.is_reserved(*s)).count(), 64);
        assert_eq!(range("10.1.0.0/24").address(7), "10.1.0.7".parse::<IpAddr>().unwrap());
        assert_eq!(range("10.1.0.0/24").slot("10.1.1.0".parse().unwrap()), None);
        assert_eq!(range("10.1.0.0/24").slot("10.0.255.255".parse().unwrap()), None);
        assert_eq!(range("10.1.0.0/24").slot("fd00::1".parse().unwrap()), None);
    }

    #[test]
    fn invalid_ranges_are_rejected() {
        let error = |text: &str| Range::new(text.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error("10.1.0.1/24"), "range 10.1.0.1/24: has bits set beyond its prefix");
        assert_eq!(error("224.0.0.0/24"), "range 224.0.0.0/24: is not a range of unicast addresses");
        assert!(error("127.0.0.0/8").contains("unicast") && error("::/0").contains("unicast"));
    }
}
