//! A packet of the model: a frame in memory, with what the kernel keeps beside it.

use std::collections::HashMap;

use dataplane_common::packet::access::Packet;
use dataplane_common::types::address::Address;
use dataplane_common::wire::byte_order::{Be16, Be32};
use dataplane_common::wire::checksum::{self, ChecksumChange};

use crate::frame::DEVICE_MAC;

/// A frame on its way through the programs.
pub(super) struct Frame<'a> {
    pub(super) bytes: &'a mut Vec<u8>,
    /// The word that a stage leaves for the next one.
    pub(super) scratch: u32,
    /// Cookie of the connected socket that sent it; 0: none.
    pub(super) socket: u64,
    /// The change that was applied to the device's sum of the whole packet.
    pub(super) sum_change: u32,
    /// Interface index by destination address.
    pub(super) routes: &'a HashMap<[u8; 16], u32>,
    /// Interface by which it arrived at the node; 0: the node sends it.
    pub(super) ingress: u32,
}

impl Frame<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        let bytes = self.bytes.get(offset..offset + N * 4)?;
        Some(std::array::from_fn(|i| Be32(u32::from_ne_bytes(bytes[i * 4..][..4].try_into().unwrap()))))
    }
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Option<()> {
        self.bytes.get_mut(offset..offset + bytes.len())?.copy_from_slice(bytes);
        Some(())
    }
}

impl Packet for Frame<'_> {
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        self.read(offset)
    }
    fn ingress_ifindex(&self) -> u32 {
        self.ingress
    }
    fn load_u16(&self, offset: usize) -> Option<Be16> {
        self.bytes.get(offset..offset + 2).map(|b| Be16(u16::from_ne_bytes(b.try_into().unwrap())))
    }
    fn load_words_at<const N: usize>(&self, offset: usize, _usual: usize) -> Option<[Be32; N]> {
        self.read(offset)
    }
    fn load_words_via_helper<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        self.read(offset)
    }
    fn store_words<const N: usize>(&mut self, offset: usize, words: &[Be32; N]) -> Option<()> {
        words.iter().enumerate().try_for_each(|(i, w)| self.write(offset + i * 4, &w.0.to_ne_bytes()))
    }
    fn store_word_at(&mut self, offset: usize, _usual: usize, word: Be32) -> Option<()> {
        self.write(offset, &word.0.to_ne_bytes())
    }
    fn store_word_via_helper(&mut self, offset: usize, word: Be32) -> Option<()> {
        self.write(offset, &word.0.to_ne_bytes())
    }
    fn correct_checksum(&mut self, offset: usize, _usual: usize, change: ChecksumChange) -> Option<()> {
        let field = self.load_u16(offset)?;
        if change.udp && field.0 == 0 {
            return Some(());
        }
        if !change.v6 {
            self.adjust_csum_complete(!change.addresses);
        }
        let sum = checksum::apply(field, checksum::add(change.addresses, change.ports));
        let sum = if change.udp && sum.0 == 0 { 0xffff } else { sum.0 };
        self.write(offset, &sum.to_ne_bytes())
    }
    fn correct_crc(&mut self, offset: usize, difference: u32) -> Option<()> {
        let [before] = self.read(offset)?;
        self.write(offset, &(before.0 ^ difference).to_ne_bytes())
    }
    fn adjust_csum_complete(&mut self, difference: u32) {
        self.sum_change = checksum::add(self.sum_change, difference);
    }
    fn is_for_this_host(&self) -> bool {
        self.bytes.get(..6) == Some(&DEVICE_MAC)
    }
    fn size(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap()
    }
    fn gso_size(&self) -> u32 {
        0
    }
    fn route_ifindex<A: Address>(&self, addr: &A) -> u32 {
        self.routes.get(&addr.to_octets16()).copied().unwrap_or(0)
    }
    fn socket_cookie(&self) -> u64 {
        self.socket
    }
    fn truncate(&mut self, size: u32) -> Option<()> {
        self.bytes.truncate(size as usize);
        Some(())
    }
    fn grow_header(&mut self, bytes: u32) -> Option<()> {
        self.bytes.splice(14..14, std::iter::repeat_n(0, bytes as usize));
        Some(())
    }
    fn set_scratch(&mut self, word: u32) {
        self.scratch = word;
    }
    fn scratch(&self) -> u32 {
        self.scratch
    }
}
