//! Numbers in network byte order.
//!
//! Packet code reads and writes these types, so that the compiler rejects a mix of a number of the
//! wire with one of the CPU. Map keys and values use plain integers in CPU order instead.

/// A 16-bit number in network byte order, as it stands in a packet (RFC 1700, "Data Notations").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Be16(pub u16);

impl Be16 {
    /// Converts from the CPU's byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(v: u16) -> Self {
        Self(v.to_be())
    }

    /// Returns the number in the CPU's byte order.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A 32-bit word in network byte order, as it stands in a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Be32(pub u32);

impl Be32 {
    /// Converts from the CPU's byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(v: u32) -> Self {
        Self(v.to_be())
    }

    /// Returns the number in the CPU's byte order.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }

    /// Returns byte `i` (0 to 3) in the order of the wire.
    #[inline(always)]
    #[must_use]
    pub const fn byte(self, i: u32) -> u8 {
        (self.get() >> (24 - 8 * i)) as u8
    }
}
