//! [`Packet`] over an skb, and what becomes of it.
//!
//! Offsets that are the same for all packets are read and written in place; those that the packet decides go through helpers,
//! unless they have their usual value, because a variable packet pointer multiplies the verifier's states. A store reads
//! the packet's bounds anew for the same reason.

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::Global;
use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_load_bytes, bpf_skb_pull_data,
    bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use dataplane_common::addr::{Be16, Be32};
use dataplane_common::checksum::Change;
use dataplane_common::forward::Verdict;
use dataplane_common::packet::Packet;

use crate::kernel::tables;

/// Of `bpf_l4_csum_replace`, from kernel commit ead7f9b8de65 (6.16, and stable branches) on.
const BPF_F_IPV6: u64 = 0x80;

/// Whether this kernel's `bpf_l4_csum_replace` knows [`BPF_F_IPV6`]; set by the loader.
#[unsafe(no_mangle)]
static CSUM_KNOWS_IPV6: Global<u8> = Global::new(0);

/// tcx: on to the next program; clsact: on to the next filter.
const NEXT: i32 = -1;

/// In `skb->tc_index`: one of our programs has sent this packet on, nothing is left to be done.
const DONE: u32 = 0x5257;

/// Enough for Ethernet, IPv6 and TCP headers.
const HEADERS: usize = 14 + 40 + 20;

/// A packet at a tc hook.
pub struct Skb(TcContext);

impl Skb {
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

    /// The EtherType, with a VLAN tag taken off by the kernel.
    #[inline(always)]
    pub fn ether_type(&self) -> Option<u16> {
        self.half(12).map(Be16::get)
    }

    /// Whether one of our programs has sent this packet.
    #[inline(always)]
    pub fn is_done(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.raw()).tc_index == DONE }
    }

    /// Carries out the verdict; the program's return value.
    #[inline(always)]
    pub fn end(self, program: &str, verdict: Verdict) -> i32 {
        trace(&self.0, program, verdict);
        match verdict {
            Verdict::Pass => NEXT,
            Verdict::Drop(reason) => {
                tables::count_drop(reason);
                TC_ACT_SHOT as i32
            }
            // SAFETY: helpers without pointers; the kernel checks the interface when it redirects.
            Verdict::ToPod(ifindex) => unsafe { bpf_redirect_peer(ifindex, 0) as i32 },
            Verdict::ToUplink(ifindex) => {
                // SAFETY: the context is valid, `tc_index` may be written at this hook; a null parameter asks the kernel for the next hop.
                unsafe {
                    (*self.raw()).tc_index = DONE;
                    bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) as i32
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

impl Packet for Skb {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        self.load(offset)
    }

    #[inline(always)]
    fn half(&self, offset: usize) -> Option<Be16> {
        self.load(offset)
    }

    #[inline(always)]
    fn words_at<const N: usize>(&self, offset: usize, usual: usize) -> Option<[Be32; N]> {
        if offset == usual { self.load(usual) } else { self.load_by_helper(offset) }
    }

    #[inline(always)]
    fn words_far<const N: usize>(&self, offset: usize) -> Option<[Be32; N]> {
        self.load_by_helper(offset)
    }

    #[inline(always)]
    fn store_words<const N: usize>(&mut self, offset: usize, words: &[Be32; N]) -> Option<()> {
        self.store(offset, words)
    }

    #[inline(always)]
    fn store_half(&mut self, offset: usize, half: Be16) -> Option<()> {
        self.store(offset, &half)
    }

    #[inline(always)]
    fn store_half_at(&mut self, offset: usize, usual: usize, half: Be16) -> Option<()> {
        if offset == usual { self.store(usual, &half) } else { self.store_by_helper(offset, &half) }
    }

    #[inline(always)]
    fn l4_checksum(&mut self, offset: usize, difference: u32, change: Change, udp: bool) -> Option<()> {
        let mut flags = match change {
            Change::Pseudo4 => BPF_F_PSEUDO_HDR,
            Change::Pseudo6 if CSUM_KNOWS_IPV6.load() != 0 => BPF_F_PSEUDO_HDR | BPF_F_IPV6 as u32,
            Change::Pseudo6 => BPF_F_PSEUDO_HDR,
            Change::Header => 0,
        };
        if udp {
            flags |= BPF_F_MARK_MANGLED_0;
        }
        // SAFETY: no pointer but the context.
        let r = unsafe { bpf_l4_csum_replace(self.raw().cast(), offset as u32, 0, difference as u64, flags as u64) };
        (r == 0).then_some(())
    }

    #[inline(always)]
    fn forget(&mut self, v: u32) -> u32 {
        let skb = self.raw();
        // SAFETY: the context is valid, and `cb` is ours at this hook.
        unsafe {
            ptr::write_volatile(&raw mut (*skb).cb[0], v);
            ptr::read_volatile(&raw const (*skb).cb[0])
        }
    }
}

/// A line for each packet, if the programs were loaded for it: `AYA_LOG_LEVEL` is read-only data, and with 0 the verifier removes this.
#[inline(never)]
fn trace(ctx: &TcContext, program: &str, verdict: Verdict) {
    let (word, detail) = match verdict {
        Verdict::Pass => ("host stack", 0),
        Verdict::Drop(reason) => ("drop", reason as u32),
        Verdict::ToPod(ifindex) => ("pod", ifindex),
        Verdict::ToUplink(ifindex) => ("uplink", ifindex),
    };
    aya_log_ebpf::info!(ctx, "{} len {} verdict {} {}", program, ctx.len(), word, detail);
}
