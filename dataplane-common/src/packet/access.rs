//! [`Packet`]: how the core reads and writes packet bytes.
//!
//! The kernel programs implement it over an skb, the host tests over a byte vector. It also gives access to the few
//! properties of an skb that no header holds: segment size, socket cookie, checksum state.

use crate::types::address::Address;
use crate::wire::byte_order::{Be16, Be32};
use crate::wire::checksum::ChecksumChange;

/// Where the IP header starts: after an Ethernet header.
pub const L3: usize = 14;

/// Packet bytes, from the Ethernet header on. `None`: beyond the end, or the kernel refused.
///
/// An offset that the packet decides comes with its `usual` value: on the kernel's side a packet pointer with a variable offset
/// costs the verifier dearly, so the usual offset is read and written in place and any other through a helper.
pub trait Packet {
    /// `N` words at a fixed offset.
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[Be32; N]>;
    /// Two bytes at a fixed offset.
    fn load_u16(&self, offset: usize) -> Option<Be16>;
    /// `N` words at a variable offset.
    fn load_words_at<const N: usize>(&self, offset: usize, usual: usize) -> Option<[Be32; N]>;
    /// `N` words at a variable offset that has no usual value.
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
    /// Corrects the L4 checksum at `offset` for changed addresses and changed ports; a UDP checksum that is not used stays so.
    #[must_use]
    fn correct_checksum(&mut self, offset: usize, usual: usize, change: ChecksumChange) -> Option<()>;
    /// Changes a CRC of four bytes at `offset`, which has no usual value, by `difference` (exclusive or, as they stand in memory); one that is left
    /// to the device stays as it is.
    #[must_use]
    fn correct_crc(&mut self, offset: usize, difference: u32) -> Option<()>;
    /// A word that no checksum covers has changed by this difference: puts the device's sum of the whole packet right, if it has made one.
    fn adjust_csum_complete(&mut self, _difference: u32) {}
    /// Length of the frame, bytes.
    fn size(&self) -> u32;
    /// Of a packet that is cut up on its way out (GSO): the payload of one segment, bytes; else 0.
    fn gso_size(&self) -> u32;
    /// The interface by which the host's routes lead a packet that came in here on to an address; 0: none does.
    fn route_ifindex<A: Address>(&self, addr: &A) -> u32;
    /// The kernel's cookie of the socket of this node that sent it, if that is a connected one; else 0.
    fn socket_cookie(&self) -> u64;
    /// Cuts off what lies behind the first `size` bytes, if anything does.
    #[must_use]
    fn truncate(&mut self, size: u32) -> Option<()>;
    /// Makes room for `bytes` between the Ethernet header and the IP header.
    #[must_use]
    fn grow_header(&mut self, bytes: u32) -> Option<()>;
    /// Leaves a word for the next stage.
    fn set_scratch(&mut self, word: u32);
    /// What [`Self::set_scratch`] left.
    fn scratch(&self) -> u32;
    /// Returns `v` in a way that makes the verifier forget what it knew of it, so that paths that
    /// differ in nothing else become one. On the host the identity.
    #[must_use]
    fn scrub_verifier_state(&mut self, v: u32) -> u32 {
        v
    }
}
