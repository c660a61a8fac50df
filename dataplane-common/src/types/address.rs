//! IPv4 and IPv6 addresses as keys and values of maps.
//!
//! The dataplane is generic over the address family: one source, and per family a set of maps with
//! compact keys. Addresses are bytes in network order, so that `bpftool map dump` prints them as
//! people write them. The programs read them as 32-bit words, because LLVM compiles an access to a
//! byte array into byte loads and shifts.

use core::fmt::Debug;
use core::hash::Hash;
use core::net::IpAddr;

use crate::wire::checksum;

/// Returns the 16-byte form of an address of either family: IPv4 as `::ffff:a.b.c.d` (RFC 4291,
/// section 2.5.5.2).
#[must_use]
pub const fn octets16(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// An address of one family, as map keys and the packet path use it.
pub trait Address: Copy + Eq + Ord + Hash + Debug + Default + 'static {
    /// True for IPv6, false for IPv4.
    const V6: bool;
    /// Length of the IP header without options or extension headers, in bytes.
    const HEADER: usize;

    /// The all-zero address, which stands for "none" in the maps.
    const UNSPECIFIED: Self;

    /// Returns the 16-byte form: IPv6 unchanged, IPv4 as `::ffff:a.b.c.d` (RFC 4291, section
    /// 2.5.5.2).
    #[must_use]
    fn to_octets16(self) -> [u8; 16];
    /// Converts from the 16-byte form. For IPv4 the mapped prefix is not checked.
    #[must_use]
    fn from_octets16(octets: &[u8; 16]) -> Self;
    /// Returns true for the all-zero address.
    #[must_use]
    fn is_unspecified(&self) -> bool;
    /// Returns true for a loopback address: 127.0.0.0/8 (RFC 1122, section 3.2.1.3) or `::1`
    /// (RFC 4291, section 2.5.3).
    #[must_use]
    fn is_loopback(&self) -> bool;
    /// Returns a hash that is equal on every node and machine. All of its bits are well mixed, so
    /// that a multiply-shift, which uses the high ones, may consume it.
    #[must_use]
    fn digest(self, seed: u32) -> u32;
    /// Returns a hash of the network that one subscriber usually has: an IPv4 /24, an IPv6 /64.
    #[must_use]
    fn network_digest(self) -> u32;
    /// Returns the one's-complement sum of the address's words, in memory order, as
    /// [`crate::wire::checksum`] takes it.
    #[must_use]
    fn sum(self) -> u32;
}

/// Mixes a number so that every output bit depends on every input bit; a bijection.
///
/// The finalizer of `SplitMix64` (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
/// Generators", OOPSLA 2014, figure 16).
#[inline(always)]
#[must_use]
pub const fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An IPv4 address: four bytes in network order.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(C, align(4))]
pub struct V4 {
    /// The bytes in network order.
    pub octets: [u8; 4],
}

/// An IPv6 address: sixteen bytes in network order.
#[cfg_attr(feature = "host", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(C, align(4))]
pub struct V6 {
    /// The bytes in network order.
    pub octets: [u8; 16],
}

/// The key of a longest-prefix-match trie, laid out as the kernel's `struct bpf_lpm_trie_key_u8`.
///
/// The trie compares the first `len` bits of `data`, from its first byte on, which is why addresses
/// have to be in network order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct Prefix<K> {
    /// Prefix length in bits.
    pub len: u32,
    /// The bytes to match; those beyond the length are zero.
    pub data: K,
}

impl V4 {
    /// Converts from the word as it stands in memory, network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(w: u32) -> Self {
        Self { octets: w.to_ne_bytes() }
    }

    /// Returns the word as it stands in memory, network order.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u32 {
        u32::from_ne_bytes(self.octets)
    }
}

impl V6 {
    /// Converts from the four words as they stand in memory, network order.
    #[inline(always)]
    #[must_use]
    pub fn from_words(w: [u32; 4]) -> Self {
        let mut octets = [0; 16];
        // Word by word. Copied byte by byte, LLVM would shuffle single bytes through the whole
        // stack frame of a program.
        let (words, _) = octets.as_chunks_mut::<4>();
        for (to, from) in words.iter_mut().zip(w) {
            *to = from.to_ne_bytes();
        }
        Self { octets }
    }

    /// Returns the four words as they stand in memory, network order.
    #[inline(always)]
    #[must_use]
    pub fn words(self) -> [u32; 4] {
        let (words, _) = self.octets.as_chunks::<4>();
        [
            u32::from_ne_bytes(words[0]),
            u32::from_ne_bytes(words[1]),
            u32::from_ne_bytes(words[2]),
            u32::from_ne_bytes(words[3]),
        ]
    }
}

impl Address for V4 {
    const V6: bool = false;
    const HEADER: usize = 20;
    const UNSPECIFIED: Self = Self { octets: [0; 4] };

    #[inline(always)]
    fn sum(self) -> u32 {
        self.word()
    }

    #[inline(always)]
    fn to_octets16(self) -> [u8; 16] {
        V6::from_words([0, 0, 0xffff_u32.to_be(), self.word()]).octets
    }

    #[inline(always)]
    fn from_octets16(octets: &[u8; 16]) -> Self {
        Self { octets: [octets[12], octets[13], octets[14], octets[15]] }
    }

    #[inline(always)]
    fn is_unspecified(&self) -> bool {
        self.word() == 0
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        self.octets[0] == 127
    }

    #[inline(always)]
    fn digest(self, seed: u32) -> u32 {
        (mix((seed as u64) << 32 | u32::from_be(self.word()) as u64) >> 32) as u32
    }

    #[inline(always)]
    fn network_digest(self) -> u32 {
        (mix(u32::from_be(self.word()) as u64 >> 8) >> 32) as u32
    }
}

impl Address for V6 {
    const V6: bool = true;
    const HEADER: usize = 40;
    const UNSPECIFIED: Self = Self { octets: [0; 16] };

    #[inline(always)]
    fn sum(self) -> u32 {
        let w = self.words();
        checksum::add(checksum::add(w[0], w[1]), checksum::add(w[2], w[3]))
    }

    #[inline(always)]
    fn to_octets16(self) -> [u8; 16] {
        self.octets
    }

    #[inline(always)]
    fn from_octets16(octets: &[u8; 16]) -> Self {
        Self { octets: *octets }
    }

    #[inline(always)]
    fn is_unspecified(&self) -> bool {
        let w = self.words();
        // One comparison of all bits instead of four branches, each of which the verifier follows.
        (w[0] | w[1]) | (w[2] | w[3]) == 0
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        let w = self.words();
        // One comparison, as above.
        (w[0] | w[1]) | (w[2] | (w[3] ^ 1_u32.to_be())) == 0
    }

    #[inline(always)]
    fn digest(self, seed: u32) -> u32 {
        let [a, b, c, d] = self.words().map(|word| u32::from_be(word) as u64);
        (mix(mix((a << 32 | b) ^ seed as u64) ^ (c << 32 | d)) >> 32) as u32
    }

    #[inline(always)]
    fn network_digest(self) -> u32 {
        let [a, b, ..] = self.words();
        (mix((a as u64) << 32 | b as u64) >> 32) as u32
    }
}

impl From<core::net::Ipv4Addr> for V4 {
    fn from(a: core::net::Ipv4Addr) -> Self {
        Self { octets: a.octets() }
    }
}

impl From<core::net::Ipv6Addr> for V6 {
    fn from(a: core::net::Ipv6Addr) -> Self {
        Self { octets: a.octets() }
    }
}

impl From<V4> for IpAddr {
    fn from(a: V4) -> Self {
        Self::from(a.octets)
    }
}

impl From<V6> for IpAddr {
    fn from(a: V6) -> Self {
        Self::from(a.octets)
    }
}
