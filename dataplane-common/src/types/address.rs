//! IPv4 and IPv6 addresses.
//!
//! The dataplane is generic over the address family: one code, two compact sets of maps. Addresses are kept
//! as bytes in network order, so that `bpftool map dump` shows them the way people write them, and are read
//! as words, so that the programs do not work byte by byte.

use core::fmt::Debug;
use core::hash::Hash;
use core::net::IpAddr;

use crate::wire::checksum;

/// Returns the 16-byte form of an address of either family: IPv4 as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
#[must_use]
pub const fn octets16(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// An address of one family.
pub trait Address: Copy + Eq + Ord + Hash + Debug + Default + 'static {
    /// Whether this is IPv6.
    const V6: bool;
    /// Length of the IP header without options or extension headers, in bytes.
    const HEADER: usize;

    /// The all-zero address, which no host has.
    const UNSPECIFIED: Self;

    /// The 16-byte form: itself for IPv6, `::ffff:a.b.c.d` for IPv4 (RFC 4291, section 2.5.5.2).
    #[must_use]
    fn to_octets16(self) -> [u8; 16];
    /// From the 16-byte form; the prefix of a mapped IPv4 address is not looked at.
    #[must_use]
    fn from_octets16(octets: &[u8; 16]) -> Self;
    /// The all-zero address, which no host has.
    #[must_use]
    fn is_unspecified(&self) -> bool;
    /// Whether it is an address of the namespace's own loopback: 127.0.0.0/8 (RFC 1122, section 3.2.1.3), `::1` (RFC 4291, section 2.5.3).
    #[must_use]
    fn is_loopback(&self) -> bool;
    /// A hash that is the same on every node and machine; its high bits are as good as its low ones.
    #[must_use]
    fn digest(self, seed: u32) -> u32;
    /// One's-complement sum of its words, as checksums take it (see [`crate::wire::checksum`]).
    #[must_use]
    fn sum(self) -> u32;
}

/// A number in which every bit depends on every bit of `z`, and which no other has: the finalizer of `SplitMix64` (Steele, Lea, Flood, "Fast Splittable
/// Pseudorandom Number Generators", OOPSLA 2014, figure 16).
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

/// The key of a longest-prefix-match trie: `struct bpf_lpm_trie_key_u8` of the kernel, which matches `len` bits of `data` from its first byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct Prefix<K> {
    /// Length in bits.
    pub len: u32,
    /// What is matched; bits beyond the length are zero.
    pub data: K,
}

impl V4 {
    /// From the word as it stands in memory.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(w: u32) -> Self {
        Self { octets: w.to_ne_bytes() }
    }

    /// The word as it stands in memory.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u32 {
        u32::from_ne_bytes(self.octets)
    }
}

impl V6 {
    /// From the words as they stand in memory.
    #[inline(always)]
    #[must_use]
    pub fn from_words(w: [u32; 4]) -> Self {
        let mut octets = [0; 16];
        // word by word: byte by byte, the compiler shuffles bytes through the whole stack of a program
        let (words, _) = octets.as_chunks_mut::<4>();
        for (to, from) in words.iter_mut().zip(w) {
            *to = from.to_ne_bytes();
        }
        Self { octets }
    }

    /// The words as they stand in memory.
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
        (w[0] | w[1]) | (w[2] | w[3]) == 0
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        let w = self.words();
        (w[0] | w[1]) | (w[2] | (w[3] ^ 1_u32.to_be())) == 0
    }

    #[inline(always)]
    fn digest(self, seed: u32) -> u32 {
        let [a, b, c, d] = self.words().map(|word| u32::from_be(word) as u64);
        (mix(mix((a << 32 | b) ^ seed as u64) ^ (c << 32 | d)) >> 32) as u32
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
