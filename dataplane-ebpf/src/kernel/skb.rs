//! [`Packet`] over an skb, and what becomes of it.
//!
//! Offsets that are the same for all packets are read and written in place; those that the packet decides go through helpers,
//! unless they have their usual value, because a variable packet pointer multiplies the verifier's states. A store reads
//! the packet's bounds anew for the same reason.

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::tcx_action_base::TCX_NEXT;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_TCP_ESTABLISHED, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_fib_lookup,
};
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_fib_lookup as look_up_route, bpf_get_socket_cookie, bpf_l4_csum_replace, bpf_redirect,
    bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
    bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::macro_support::Level;
use dataplane_common::packet::access::Packet;
use dataplane_common::types::address::Address;
use dataplane_common::types::stage::{Origin, Stage};
use dataplane_common::types::uapi::{AF_INET, AF_INET6, GSO_BY_FRAGS};
use dataplane_common::verdict::{Action, Verdict};
use dataplane_common::wire::byte_order::{Be16, Be32};
use dataplane_common::wire::checksum::{self, ChecksumChange};

use crate::kernel::tables;
use crate::maps;

/// Continues with the next program (tcx) or filter (clsact).
const NEXT: i32 = TC_ACT_UNSPEC;
const _: () = assert!(TCX_NEXT == TC_ACT_UNSPEC);

/// In `skb->tc_index`: one of our programs has sent this packet on, nothing is left to be done.
const DONE: u32 = 0x5257;

/// Enough for Ethernet, IPv6 and TCP headers.
const HEADERS: usize = 14 + 40 + 20;

/// A packet at a tc hook. `UPLINK`: it comes from a device, which may have summed up all of it (`CHECKSUM_COMPLETE`); what comes
/// from a veth has no such sum.
pub struct Skb<const UPLINK: bool>(TcContext);

impl<const UPLINK: bool> Skb<UPLINK> {
    /// Takes the packet over, and has its headers in one piece.
    #[inline(always)]
    pub fn new(ctx: TcContext) -> Self {
        if ctx.data() + HEADERS > ctx.data_end() {
            // SAFETY: the context is valid; pointers into the packet are only made after this. What can't be pulled is found out at the access.
            unsafe { bpf_skb_pull_data(ctx.as_ptr().cast(), 0) };
        }
        Self(ctx)
    }

    /// Takes over what [`Self::raw`] handed on.
    #[inline(always)]
    pub fn from_raw(skb: *mut __sk_buff) -> Self {
        Self(TcContext::new(skb))
    }

    /// For a function of its own.
    #[inline(always)]
    pub fn raw(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    /// The interface that the packet came in by or goes out of.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*self.raw()).ifindex }
    }

    /// The EtherType; `None`: the frame is cut off, or it is for another network of the link (IEEE 802.1Q), whose tag the kernel has taken off.
    #[inline(always)]
    pub fn ether_type(&self) -> Option<u16> {
        // SAFETY: the context is valid.
        if unsafe { (*self.raw()).vlan_present } != 0 {
            return None;
        }
        self.load_u16(12).map(Be16::get)
    }

    /// Whether one of this node's programs has sent this packet.
    ///
    /// What comes in is new, whatever mark it bears: the mark outlives a veth, so that it can be that of another node on this kernel
    /// or of a pod.
    #[inline(always)]
    pub fn was_handled(&mut self, ingress: bool) -> bool {
        // SAFETY: the context is valid, and `tc_index` may be written at this hook.
        unsafe {
            let done = (*self.raw()).tc_index == DONE;
            if done && ingress {
                (*self.raw()).tc_index = 0;
            }
            done && !ingress
        }
    }

    /// Hands the packet to the program of `stage`; comes back only if that is not in place.
    #[inline(always)]
    pub fn tail_call(&mut self, stage: Stage, v6: bool, origin: Origin, verdict: Verdict) {
        let [high, low] = verdict.to_u32_pair();
        let skb = self.raw();
        // SAFETY: the context is valid, and `cb` is ours at this hook; a program of the array begins with a packet as any other.
        unsafe {
            (*skb).cb[1] = origin as u32;
            (*skb).cb[2] = high;
            (*skb).cb[3] = low;
            maps::stages.tail_call(&self.0, stage.index(v6));
        }
    }

    /// What [`Self::tail_call`] handed on.
    #[inline(always)]
    pub fn received(&self) -> (Origin, Verdict) {
        let skb = self.raw();
        // SAFETY: the context is valid.
        let [origin, high, low] = unsafe { [(*skb).cb[1], (*skb).cb[2], (*skb).cb[3]] };
        (Origin::from_number(origin), Verdict::from_u32_pair([high, low]).without_stage())
    }

    /// Carries out the verdict; the program's return value.
    #[inline(always)]
    pub fn finish(self, program: &str, verdict: Verdict) -> i32 {
        if aya_log_ebpf::macro_support::level_enabled(Level::Info) {
            trace(&self.0, program, verdict);
        }
        match verdict.action() {
            Action::Pass | Action::Translate => NEXT,
            Action::Drop => {
                tables::count_drop(verdict.reason());
                TC_ACT_SHOT
            }
            // SAFETY: helpers without pointers; the kernel checks the interface when it redirects.
            Action::ToPod => unsafe { bpf_redirect_peer(verdict.ifindex(), 0) as i32 },
            Action::ToUplink => {
                // SAFETY: the context is valid, `tc_index` may be written at this hook; a null parameter asks the kernel for the next hop.
                unsafe {
                    (*self.raw()).tc_index = DONE;
                    bpf_redirect_neigh(verdict.ifindex(), ptr::null_mut(), 0, 0) as i32
                }
            }
            Action::Reply => {
                tables::count_drop(verdict.reason());
                // SAFETY: the context is valid, `tc_index` may be written at this hook.
                unsafe {
                    (*self.raw()).tc_index = DONE;
                    bpf_redirect(self.ifindex(), 0) as i32
                }
            }
        }
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        let p = self.0.data() + offset;
        if p + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: within the packet, as just checked. The CPU and the verifier take packet words at any address.
        Some(unsafe { *(p as *const T) })
    }

    #[inline(always)]
    fn store<T: Copy>(&mut self, offset: usize, v: &T) -> Option<()> {
        let skb = self.raw();
        // SAFETY: the context is valid; volatile, so that the bounds are read anew.
        let (data, end) =
            unsafe { (ptr::read_volatile(&raw const (*skb).data), ptr::read_volatile(&raw const (*skb).data_end)) };
        let p = data as usize + offset;
        if p + size_of::<T>() > end as usize {
            return None;
        }
        // SAFETY: within the packet, as just checked; the kernel has made a packet that programs write to private.
        unsafe { *(p as *mut T) = *v };
        Some(())
    }

    #[inline(always)]
    fn l4_csum_replace(&mut self, offset: usize, difference: u32, flags: u32) -> Option<()> {
        // SAFETY: no pointer but the context.
        let r = unsafe { bpf_l4_csum_replace(self.raw().cast(), offset as u32, 0, difference as u64, flags as u64) };
        (r == 0).then_some(())
    }

    /// Puts the device's sum of the whole packet right. `bpf_l4_csum_replace` takes every pseudo-header difference for one
    /// that the IPv4 header checksum balances: the ports are not, and IPv6 addresses are balanced by the L4 checksum itself.
    #[inline(always)]
    fn adjust_csum_complete_for(&mut self, addresses: u32, ports: u32, v6: bool) {
        let excess = if v6 { checksum::add(addresses, ports) } else { ports };
        if excess != 0 {
            self.adjust_csum_complete(excess);
        }
    }

    #[inline(always)]
    fn load_by_helper<T: Copy>(&self, offset: usize) -> Option<T> {
        let mut v = MaybeUninit::<T>::uninit();
        let size = size_of::<T>() as u32;
        // SAFETY: the buffer has the size given, and all of it is written when the helper returns 0.
        let r = unsafe { bpf_skb_load_bytes(self.raw().cast(), offset as u32, v.as_mut_ptr().cast(), size) };
        // SAFETY: as above; `T` is words.
        if r == 0 { Some(unsafe { v.assume_init() }) } else { None }
    }

    #[inline(always)]
    fn store_by_helper<T: Copy>(&mut self, offset: usize, v: &T) -> Option<()> {
        let size = size_of::<T>() as u32;
        // SAFETY: the buffer has the size given.
        let r = unsafe { bpf_skb_store_bytes(self.raw().cast(), offset as u32, ptr::from_ref(v).cast(), size, 0) };
        (r == 0).then_some(())
    }
}

impl<const UPLINK: bool> Packet for Skb<UPLINK> {
    #[inline(always)]
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        self.load(offset)
    }

    #[inline(always)]
    fn load_u16(&self, offset: usize) -> Option<Be16> {
        self.load(offset)
    }

    #[inline(always)]
    fn load_words_at<const N: usize>(&self, offset: usize, usual: usize) -> Option<[Be32; N]> {
        if offset == usual { self.load(usual) } else { self.load_by_helper(offset) }
    }

    #[inline(always)]
    fn load_words_via_helper<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        self.load_by_helper(offset)
    }

    #[inline(always)]
    fn store_words<const N: usize>(&mut self, offset: usize, words: &[Be32; N]) -> Option<()> {
        self.store(offset, words)
    }

    #[inline(always)]
    fn store_word_at(&mut self, offset: usize, usual: usize, word: Be32) -> Option<()> {
        if offset == usual { self.store(usual, &word) } else { self.store_by_helper(offset, &word) }
    }

    #[inline(always)]
    fn store_word_via_helper(&mut self, offset: usize, word: Be32) -> Option<()> {
        self.store_by_helper(offset, &word)
    }

    /// A checksum that is not the sum of the pseudo header is finished (one that is left to the device holds just that), and is corrected in
    /// place. Packets that are cut up on their way (GSO) are left out: their length can be beyond the header's field.
    ///
    /// Else one call instead of two where the offset is the usual one. The helper knows whether the checksum is complete or left to
    /// the device, in which case it covers only the pseudo header so far and must not see the ports. Whether it was is
    /// read off its result: it adds the difference to the one and subtracts it from the other.
    #[inline(always)]
    fn correct_checksum(&mut self, offset: usize, usual: usize, change: ChecksumChange) -> Option<()> {
        let ChecksumChange { addresses, ports, v6, udp, pseudo } = change;
        let flags = BPF_F_PSEUDO_HDR | if udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        let all = checksum::add(addresses, ports);
        if pseudo != 0 && offset == usual {
            let before: Be16 = self.load(usual)?;
            // zero, if it may be the sum of the pseudo header (which has two forms of zero), or the packet is cut up; one branch instead of three
            let other = ((before.0 ^ pseudo).wrapping_add(1) >> 1) as u32;
            let whole = (self.gso_size().wrapping_neg() >> 31).wrapping_sub(1);
            if other & whole != 0 {
                if udp && before.0 == 0 {
                    return Some(());
                }
                let after = checksum::apply(before, all).0;
                let mangled = if udp { ((after as u32).wrapping_sub(1) >> 16) as u16 } else { 0 };
                self.store(usual, &Be16(after | mangled))?;
                // the addresses are under two checksums in IPv4, and change the sum of the packet by one of them
                if !v6 {
                    self.adjust_csum_complete(!addresses);
                }
                return Some(());
            }
        }
        if ports == 0 || offset != usual || checksum::same(checksum::fold(all), 0) {
            self.l4_csum_replace(offset, addresses, flags)?;
            if ports != 0 {
                self.l4_csum_replace(offset, ports, flags & !BPF_F_PSEUDO_HDR)?;
            }
            self.adjust_csum_complete_for(addresses, 0, v6);
            return Some(());
        }
        let before: Be16 = self.load(usual)?;
        if udp && before.0 == 0 {
            return Some(());
        }
        self.l4_csum_replace(usual, all, flags)?;
        let after: Be16 = self.load(usual)?;
        if checksum::same(after.0, checksum::fold(checksum::add(before.0 as u32, all))) {
            let partial = Be16(checksum::fold(checksum::add(before.0 as u32, addresses)));
            return self.store(usual, &partial);
        }
        self.adjust_csum_complete_for(addresses, ports, v6);
        Some(())
    }

    /// A checksum that is left to the device is zero in the packet, and the sum that the kernel or the device makes in the end is made over the field
    /// as it is: it must stay zero. (So it is with packets of many segments, which have one header, and get a sum for each when they are cut up.)
    /// Whether it is left, a helper shows that changes a finished 16-bit checksum, and one that is left only if told of a pseudo header: 1 is
    /// never 0 in one's complement. The device's sum of a whole packet (`CHECKSUM_COMPLETE`) is no concern of SCTP, and stays as it is.
    #[inline(always)]
    fn correct_crc(&mut self, offset: usize, difference: u32) -> Option<()> {
        let before: u32 = self.load_by_helper(offset)?;
        self.l4_csum_replace(offset, 1, 0)?;
        let probed: u32 = self.load_by_helper(offset)?;
        if probed == before { Some(()) } else { self.store_by_helper(offset, &(before ^ difference)) }
    }

    #[inline(always)]
    fn adjust_csum_complete(&mut self, difference: u32) {
        if UPLINK {
            // SAFETY: no pointer but the context. It fails, rightly, where there is no sum of the whole packet.
            unsafe { bpf_csum_update(self.raw().cast(), difference) };
        }
    }

    #[inline(always)]
    fn size(&self) -> u32 {
        self.0.len()
    }

    /// Packets of SCTP (`GSO_BY_FRAGS`) have no size of segments: their sender has cut them by the MTU of the way, so that they are taken for small.
    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: the context is valid.
        let size = unsafe { (*self.raw()).gso_size };
        // no branch, which the verifier would follow to the end; a size has 16 bits
        size - size / GSO_BY_FRAGS * (GSO_BY_FRAGS - 1)
    }

    #[inline(always)]
    fn route_ifindex<A: Address>(&self, addr: &A) -> u32 {
        route_ifindex(self.raw(), self.ifindex(), addr)
    }

    #[inline(always)]
    fn socket_cookie(&self) -> u64 {
        // SAFETY: the context is valid, and its socket, if it has one, as long; a state is one of the kernel's own numbers.
        unsafe {
            let sk = (*self.raw()).__bindgen_anon_2.sk;
            // a connected UDP socket has the state TCP_ESTABLISHED
            if sk.is_null() || (*sk).state != BPF_TCP_ESTABLISHED {
                0
            } else {
                bpf_get_socket_cookie(self.raw().cast())
            }
        }
    }

    #[inline(always)]
    fn truncate(&mut self, size: u32) -> Option<()> {
        if self.size() <= size {
            return Some(());
        }
        // SAFETY: no pointer but the context; bounds are read anew at every access.
        (unsafe { bpf_skb_change_tail(self.raw().cast(), size, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn grow_header(&mut self, bytes: u32) -> Option<()> {
        // SAFETY: as above.
        let r = unsafe { bpf_skb_adjust_room(self.raw().cast(), bytes as i32, BPF_ADJ_ROOM_MAC, 0) };
        (r == 0).then_some(())
    }

    #[inline(always)]
    fn set_scratch(&mut self, word: u32) {
        let skb = self.raw();
        // SAFETY: the context is valid, and `cb` is ours at this hook.
        unsafe { (*skb).cb[4] = word };
    }

    #[inline(always)]
    fn scratch(&self) -> u32 {
        let skb = self.raw();
        // SAFETY: the context is valid.
        unsafe { (*skb).cb[4] }
    }

    #[inline(always)]
    fn scrub_verifier_state(&mut self, v: u32) -> u32 {
        // opaque, or the compiler keeps the address of the field, and the verifier wants the context's own
        let skb = core::hint::black_box(self.raw());
        // SAFETY: the context is valid, and `cb` is ours at this hook.
        unsafe {
            ptr::write_volatile(&raw mut (*skb).cb[0], v);
            ptr::read_volatile(&raw const (*skb).cb[0])
        }
    }
}

/// As the kernel forwards: whether there is a neighbour yet, and whether the packet fits, is found out when it is sent.
///
/// A function of its own, with a stack of its own: the question is 64 bytes long.
#[inline(never)]
fn route_ifindex<A: Address>(skb: *mut __sk_buff, ifindex: u32, addr: &A) -> u32 {
    const SIZE: i32 = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: numbers and arrays of them, for which zero is a value.
    let mut route: bpf_fib_lookup = unsafe { MaybeUninit::zeroed().assume_init() };
    route.family = if A::V6 { AF_INET6 } else { AF_INET };
    route.ifindex = ifindex;
    // SAFETY: an address has the size of its family's field, and the field any bytes.
    unsafe { ptr::from_mut(&mut route.__bindgen_anon_4).cast::<A>().write_unaligned(*addr) };
    // SAFETY: the context is valid, and the parameters have the size given.
    let result = unsafe { look_up_route(skb.cast(), &raw mut route, SIZE, 0) };
    if matches!(result as u32, BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH) { route.ifindex } else { 0 }
}

/// A line for each packet, if the programs were loaded for it: `AYA_LOG_LEVEL` is read-only data, and with 0 the verifier removes the call.
#[inline(never)]
fn trace(ctx: &TcContext, program: &str, verdict: Verdict) {
    let action = match verdict.action() {
        Action::Pass | Action::Translate => "host stack",
        Action::Drop => "drop",
        Action::ToPod => "pod",
        Action::ToUplink => "uplink",
        Action::Reply => "reject",
    };
    aya_log_ebpf::info!(ctx, "{}: {} bytes, {} {}", program, ctx.len(), action, verdict.ifindex());
}
