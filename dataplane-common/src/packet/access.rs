//! [`Packet`]: how the packet logic reads and writes packet bytes.
//!
//! `dataplane-ebpf/src/kernel/skb.rs` implements it over an skb, the host tests over a byte vector.
//! It also gives access to the few properties of an skb that no header holds: segment size, socket
//! cookie, checksum state, scratch space.

use crate::types::address::Address;
use crate::wire::byte_order::{Be16, Be32};
use crate::wire::checksum::ChecksumChange;

/// Offset of the IP header: the length of an Ethernet header without tags.
pub const L3: usize = 14;

/// Packet bytes, from the Ethernet header on. `None` means that the offset is beyond the end, or
/// that the kernel refused the access.
///
/// An offset that the packet determines (IPv4 options, extension headers) comes with its `usual`
/// value. The implementation in the kernel accesses the usual offset in place and every other one
/// by a helper: a packet pointer with a variable offset keeps states apart that the verifier would
/// otherwise prune.
pub trait Packet {
    /// Reads `N` words at a fixed offset.
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[Be32; N]>;
    /// Reads two bytes at a fixed offset.
    fn load_u16(&self, offset: usize) -> Option<Be16>;
    /// Reads `N` words at a variable offset.
    fn load_words_at<const N: usize>(&self, offset: usize, usual: usize) -> Option<[Be32; N]>;
    /// Reads `N` words at a variable offset that has no usual value.
    fn load_words_via_helper<const N: usize>(&self, offset: usize) -> Option<[Be32; N]>;
    /// Writes `N` words at a fixed offset.
    #[must_use]
    fn store_words<const N: usize>(&mut self, offset: usize, words: &[Be32; N]) -> Option<()>;
    /// Writes a word at a variable offset.
    #[must_use]
    fn store_word_at(&mut self, offset: usize, usual: usize, word: Be32) -> Option<()>;
    /// Writes a word at a variable offset that has no usual value.
    #[must_use]
    fn store_word_via_helper(&mut self, offset: usize, word: Be32) -> Option<()>;
    /// Corrects the L4 checksum at `offset` for changed addresses and ports. A UDP checksum of
    /// zero, which means "none", stays zero.
    #[must_use]
    fn correct_checksum(&mut self, offset: usize, usual: usize, change: ChecksumChange) -> Option<()>;
    /// Changes a CRC of four bytes at `offset`, which has no usual value, by `difference`
    /// (exclusive or, in memory order). A CRC that is left to the device stays unchanged.
    #[must_use]
    fn correct_crc(&mut self, offset: usize, difference: u32) -> Option<()>;
    /// Adds the change of a word that no checksum of the packet covers to the device's sum over the
    /// whole packet (`CHECKSUM_COMPLETE`), if there is one.
    fn adjust_csum_complete(&mut self, _difference: u32) {}
    /// Returns true if the frame was sent to the MAC of the device at which it arrived.
    fn is_for_this_host(&self) -> bool;
    /// Returns the length of the frame, bytes.
    fn size(&self) -> u32;
    /// Returns the payload of one segment of a GSO packet, bytes; 0 for other packets.
    fn gso_size(&self) -> u32;
    /// Returns the interface by which the host's routes would forward this packet to an address; 0
    /// if no route does.
    fn route_ifindex<A: Address>(&self, addr: &A) -> u32;
    /// Returns the cookie of the local socket that sent the packet, if that socket is connected;
    /// else 0.
    fn socket_cookie(&self) -> u64;
    /// Truncates the packet to `size` bytes, if it is longer.
    #[must_use]
    fn truncate(&mut self, size: u32) -> Option<()>;
    /// Inserts `bytes` between the Ethernet header and the IP header.
    #[must_use]
    fn grow_header(&mut self, bytes: u32) -> Option<()>;
    /// Returns the interface by which the packet arrived at this node; 0: the node sends it itself.
    fn ingress_ifindex(&self) -> u32;
    /// Stores a word for the next stage, which a tail call would otherwise lose.
    fn set_scratch(&mut self, word: u32);
    /// Returns the word of [`Self::set_scratch`].
    fn scratch(&self) -> u32;
    /// Returns `v` such that the verifier no longer knows anything about its value. On the host the
    /// identity.
    ///
    /// The verifier prunes a branch only if its state equals one that it has explored
    /// (`is_state_visited` in kernel/bpf/verifier.c). Where many branches meet that differ only in
    /// known values, it would follow all of them to the end of the program.
    #[must_use]
    fn scrub_verifier_state(&mut self, v: u32) -> u32 {
        v
    }
}
