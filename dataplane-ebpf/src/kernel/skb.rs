//! [`Packet`] over an skb, and the execution of verdicts.
//!
//! Offsets that are the same for all packets are accessed in place. Offsets that the packet
//! determines go through helpers unless they have their usual value: a packet pointer with a
//! variable offset carries an id and a range of its own, and the verifier prunes only equal states.
//! A store reads the packet's bounds again for the same reason. The module never decides where a
//! packet goes.

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::tcx_action_base::TCX_NEXT;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_TCP_ESTABLISHED, TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_get_socket_cookie, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
    bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::macro_support::Level;
use dataplane_common::packet::access::Packet;
use dataplane_common::types::address::Address;
use dataplane_common::types::stage::{Origin, Stage};
use dataplane_common::types::uapi::{GSO_BY_FRAGS, PACKET_HOST};
use dataplane_common::verdict::{Action, Verdict};
use dataplane_common::wire::byte_order::{Be16, Be32};
use dataplane_common::wire::checksum::{self, ChecksumChange};

use crate::kernel::route::route_ifindex;
use crate::kernel::tables;
use crate::maps;

/// Return value to continue with the next program (tcx) or filter (clsact).
const NEXT: i32 = TC_ACT_UNSPEC;
const _: () = assert!(TCX_NEXT == TC_ACT_UNSPEC);

/// Value of `skb->tc_index` on a packet that a program of this node has redirected. The hook at the
/// egress of the target device must pass it.
const DONE: u32 = 0x5257;

/// The bits of a VLAN tag that name the VLAN (IEEE 802.1Q).
const VLAN_VID_MASK: u32 = 0xfff;

/// Length of Ethernet, IPv6 and TCP headers, bytes.
const HEADERS: usize = 14 + 40 + 20;

/// A packet at a tc hook.
///
/// `UPLINK`: the device may have summed up the whole packet (`CHECKSUM_COMPLETE`), and changes must
/// be applied to `skb->csum`. A veth never has such a sum, so pods' programs save the helper calls.
pub struct Skb<const UPLINK: bool>(TcContext);

impl<const UPLINK: bool> Skb<UPLINK> {
    /// Takes the packet over, and makes the linear part of a short one writable.
    #[inline(always)]
    pub fn new(ctx: TcContext) -> Self {
        if ctx.data() + HEADERS > ctx.data_end() {
            // SAFETY: the context is valid; pointers into the packet are only made after this.
            // Headers beyond the linear part, which 0 does not extend (`bpf_skb_pull_data` in
            // net/core/filter.c), are found missing at the access.
            unsafe { bpf_skb_pull_data(ctx.as_ptr().cast(), 0) };
        }
        Self(ctx)
    }

    /// Restores the packet from [`Self::raw`].
    #[inline(always)]
    pub fn from_raw(skb: *mut __sk_buff) -> Self {
        Self(TcContext::new(skb))
    }

    /// Returns the context, for a call of a function that is not inlined.
    #[inline(always)]
    pub fn raw(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    /// Returns the interface at which the program runs (ingress or egress).
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*self.raw()).ifindex }
    }

    /// Returns the EtherType; `None` if the frame is truncated, or belongs to a VLAN (IEEE 802.1Q),
    /// whose tag the kernel has moved to the skb.
    ///
    /// At an uplink a tag without VLAN (a priority tag, VID 0) does not count: the host's stack
    /// removes it and takes the frame like one without (`__netif_receive_skb_core` in
    /// net/core/dev.c), so it must pass the same checks. Pods have no reason to send one.
    #[inline(always)]
    pub fn ether_type(&self) -> Option<u16> {
        // SAFETY: the context is valid.
        let (tagged, tag) = unsafe { ((*self.raw()).vlan_present != 0, (*self.raw()).vlan_tci) };
        if tagged && (!UPLINK || tag & VLAN_VID_MASK != 0) {
            return None;
        }
        self.load_u16(12).map(Be16::get)
    }

    /// Returns true if a program of this node has redirected this packet to the hook.
    ///
    /// At ingress the mark is removed instead: it survives the passage through a veth, so it can be
    /// that of another node on this kernel, or of a pod.
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

    /// Makes the tail call to the program of `stage`. Returns only if the array has no such
    /// program.
    #[inline(always)]
    pub fn tail_call(&mut self, stage: Stage, v6: bool, origin: Origin, verdict: Verdict) {
        let [high, low] = verdict.to_u32_pair();
        let skb = self.raw();
        // SAFETY: the context is valid, and `cb` belongs to the programs at this hook; a program of
        // the array takes any packet.
        unsafe {
            // A tail call keeps no registers or stack. `cb` survives it (`bpf_skb_cb` in
            // include/linux/filter.h), and word 0 is `scrub_verifier_state`'s.
            (*skb).cb[1] = origin as u32;
            (*skb).cb[2] = high;
            (*skb).cb[3] = low;
            maps::stages.tail_call(&self.0, stage.index(v6));
        }
    }

    /// Returns the origin and the verdict that [`Self::tail_call`] has stored.
    #[inline(always)]
    pub fn received(&self) -> (Origin, Verdict) {
        let skb = self.raw();
        // SAFETY: the context is valid.
        let [origin, high, low] = unsafe { [(*skb).cb[1], (*skb).cb[2], (*skb).cb[3]] };
        (Origin::from_number(origin), Verdict::from_u32_pair([high, low]).without_stage())
    }

    /// Executes the verdict; returns the program's return value.
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
            // Past the veth's egress queue and the backlog: `skb_do_redirect` moves the skb to the
            // peer device and lets the receive path run again.
            // SAFETY: helpers without pointers; the kernel checks the interface when it redirects.
            Action::ToPod => unsafe { bpf_redirect_peer(verdict.ifindex(), 0) as i32 },
            Action::ToUplink => {
                // The kernel resolves next hop and MAC (`__bpf_redirect_neigh`), and sends by the
                // queueing discipline of the device, a pod's bandwidth limit included.
                // SAFETY: the context is valid, `tc_index` may be written at this hook; a null
                // parameter asks the kernel for the next hop.
                unsafe {
                    (*self.raw()).tc_index = DONE;
                    bpf_redirect_neigh(verdict.ifindex(), ptr::null_mut(), 0, 0) as i32
                }
            }
            Action::Reply => {
                tables::count_drop(verdict.reason());
                // No neighbour lookup: the MACs are swapped already.
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
        // SAFETY: within the packet, as just checked. CPU and verifier accept unaligned packet
        // words.
        Some(unsafe { *(p as *const T) })
    }

    #[inline(always)]
    fn store<T: Copy>(&mut self, offset: usize, v: &T) -> Option<()> {
        let skb = self.raw();
        // The checked range belongs to the pointer (`find_good_pkt_pointers` in
        // kernel/bpf/verifier.c). A pointer kept for later would have another range on each path,
        // and the verifier would follow every one of them.
        // SAFETY: the context is valid; volatile, so that LLVM reads the bounds again.
        let (data, end) =
            unsafe { (ptr::read_volatile(&raw const (*skb).data), ptr::read_volatile(&raw const (*skb).data_end)) };
        let p = data as usize + offset;
        if p + size_of::<T>() > end as usize {
            return None;
        }
        // SAFETY: within the packet, as just checked. The kernel has copied a shared packet before
        // the program started, because the program writes (`tc_cls_act_prologue` in
        // net/core/filter.c).
        unsafe { *(p as *mut T) = *v };
        Some(())
    }

    #[inline(always)]
    fn l4_csum_replace(&mut self, offset: usize, difference: u32, flags: u32) -> Option<()> {
        // SAFETY: no pointer but the context. Size 0: the argument is a difference
        // (`inet_proto_csum_replace_by_diff` in net/core/utils.c).
        let r = unsafe { bpf_l4_csum_replace(self.raw().cast(), offset as u32, 0, difference as u64, flags as u64) };
        (r == 0).then_some(())
    }

    /// Corrects the device's sum of the whole packet after [`Self::l4_csum_replace`].
    ///
    /// The helper takes every pseudo-header difference for one that the IPv4 header checksum
    /// compensates. Ports have no such compensation, and IPv6 addresses are compensated by the L4
    /// checksum itself. Older kernels refuse the flag `BPF_F_IPV6`, which would tell the helper.
    #[inline(always)]
    fn adjust_csum_complete_for(&mut self, addresses: u32, ports: u32, v6: bool) {
        let excess = if v6 { checksum::add(addresses, ports) } else { ports };
        if excess != 0 {
            self.adjust_csum_complete(excess);
        }
    }

    #[inline(always)]
    fn load_by_helper<T: Copy>(&self, offset: usize) -> Option<T> {
        // Not zeroed: the helper accepts uninitialized stack (`ARG_PTR_TO_UNINIT_MEM`).
        let mut v = MaybeUninit::<T>::uninit();
        let size = size_of::<T>() as u32;
        // SAFETY: the buffer has the size given, and all of it is written when the helper returns
        // 0.
        let r = unsafe { bpf_skb_load_bytes(self.raw().cast(), offset as u32, v.as_mut_ptr().cast(), size) };
        // SAFETY: as above; `T` consists of words.
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
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { (*self.raw()).ingress_ifindex }
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

    /// Corrects the checksum in one of three ways, the cheapest first.
    ///
    /// A field that differs from the sum of the pseudo header is a finished checksum, and is
    /// corrected in place (a checksum that is left to the device holds just that sum). GSO packets
    /// are excluded: their length can exceed the header's field, so the sum cannot be computed.
    ///
    /// Otherwise one call of the helper covers addresses and ports. Only the helper knows whether
    /// the checksum is left to the device, in which case it must not include the ports. The result
    /// tells: the helper adds the difference to an unfinished checksum and subtracts it from a
    /// finished one.
    ///
    /// If the offset is unusual, or a difference of zero would make both cases look the same,
    /// addresses and ports take one call each.
    #[inline(always)]
    fn correct_checksum(&mut self, offset: usize, usual: usize, change: ChecksumChange) -> Option<()> {
        let ChecksumChange { addresses, ports, v6, udp, pseudo } = change;
        let flags = BPF_F_PSEUDO_HDR | if udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        let all = checksum::add(addresses, ports);
        if pseudo != 0 && offset == usual {
            let before: Be16 = self.load(usual)?;
            // Zero if the field can be the sum of the pseudo header, in either form of zero, or if
            // the packet has segments. Arithmetic, because the verifier would follow three
            // branches.
            let other = ((before.0 ^ pseudo).wrapping_add(1) >> 1) as u32;
            let whole = (self.gso_size().wrapping_neg() >> 31).wrapping_sub(1);
            if other & whole != 0 {
                if udp && before.0 == 0 {
                    return Some(());
                }
                let after = checksum::apply(before, all).0;
                // A UDP checksum of zero means "none" (RFC 768), so a computed zero is sent as
                // 0xffff.
                let mangled = if udp { ((after as u32).wrapping_sub(1) >> 16) as u16 } else { 0 };
                self.store(usual, &Be16(after | mangled))?;
                // IPv4 addresses are under two checksums, so the changes of header checksum, L4
                // checksum and addresses leave one of them in the sum of the packet.
                if !v6 {
                    self.adjust_csum_complete(!addresses);
                }
                return Some(());
            }
        }
        // A difference of zero looks the same added and subtracted.
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
            // Left to the device: take the ports out again.
            return self.store(usual, &partial);
        }
        self.adjust_csum_complete_for(addresses, ports, v6);
        Some(())
    }

    /// Corrects the CRC unless it is left to the device. Then the field is zero and must stay zero,
    /// because kernel or device compute the CRC over the field as it is. The same holds for packets
    /// of many segments, which get a CRC each when they are segmented.
    ///
    /// No field of the context tells whether it is left to the device. A probe tells: without
    /// `BPF_F_PSEUDO_HDR` the helper changes a finished checksum and leaves a checksum of the
    /// device unchanged. The difference is 1, which in one's complement always changes the number.
    /// `CHECKSUM_COMPLETE` does not concern SCTP.
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
            // SAFETY: no pointer but the context. The helper fails, as it should, if the packet has
            // no such sum (`bpf_csum_update` in net/core/filter.c).
            unsafe { bpf_csum_update(self.raw().cast(), difference) };
        }
    }

    #[inline(always)]
    fn is_for_this_host(&self) -> bool {
        // SAFETY: the context is valid.
        unsafe { (*self.raw()).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn size(&self) -> u32 {
        self.0.len()
    }

    /// Returns 1 for SCTP (`GSO_BY_FRAGS`): its segments have different sizes, and their sender has
    /// cut them to the path MTU, so they must pass the comparison with the MTU.
    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: the context is valid.
        let size = unsafe { (*self.raw()).gso_size };
        // No branch, which the verifier would follow to the end; a size has 16 bits.
        size - size / GSO_BY_FRAGS * (GSO_BY_FRAGS - 1)
    }

    #[inline(always)]
    fn route_ifindex<A: Address>(&self, addr: &A) -> u32 {
        route_ifindex(self.raw(), self.ifindex(), addr)
    }

    #[inline(always)]
    fn socket_cookie(&self) -> u64 {
        // SAFETY: the context is valid, and its socket, if it has one, lives as long; the state is
        // one of the kernel's numbers.
        unsafe {
            let sk = (*self.raw()).__bindgen_anon_2.sk;
            // connect(2) sets a UDP socket to TCP_ESTABLISHED (net/ipv4/datagram.c).
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
        // SAFETY: no pointer but the context; bounds are read again at every access.
        (unsafe { bpf_skb_change_tail(self.raw().cast(), size, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn grow_header(&mut self, bytes: u32) -> Option<()> {
        // SAFETY: no pointer but the context; bounds are read again at every access.
        let r = unsafe { bpf_skb_adjust_room(self.raw().cast(), bytes as i32, BPF_ADJ_ROOM_MAC, 0) };
        (r == 0).then_some(())
    }

    #[inline(always)]
    fn set_scratch(&mut self, word: u32) {
        let skb = self.raw();
        // SAFETY: the context is valid, and `cb` belongs to the programs at this hook.
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
        // Hidden from LLVM, which would keep the address of the field in a register. The verifier
        // accepts the context only by its unmodified pointer with a constant offset.
        let skb = core::hint::black_box(self.raw());
        // A volatile write and read of the context: the verifier takes what it reads from there for
        // an unknown number.
        // SAFETY: the context is valid, and `cb` belongs to the programs at this hook.
        unsafe {
            ptr::write_volatile(&raw mut (*skb).cb[0], v);
            ptr::read_volatile(&raw const (*skb).cb[0])
        }
    }
}

/// Logs a line for each packet, if the agent has enabled it. `AYA_LOG_LEVEL` is read-only data, so
/// with level 0 the verifier removes the call as dead code. Not inlined, so that its locals stay
/// out of the programs' stack frames.
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
