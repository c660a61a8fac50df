//! Input of the benchmark's programs, and the packet that they restore.
//!
//! `tests/packet/src/bin/packet-bench.rs` writes the input into a map of its own and repeats the
//! programs by `BPF_PROG_TEST_RUN`, which keeps the packet of the previous run.

use aya_ebpf::EbpfContext;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::bpf_skb_store_bytes;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;

/// The packets of a run; the layout is repeated in `packet-bench.rs`.
#[repr(C)]
pub struct Bench {
    /// Number of the run, incremented by each.
    pub seq: u32,
    /// Mask of the bits of `seq` that form the source port.
    pub sport_mask: u32,
    /// Mask of the bits of `seq >> 16` that are added to the last byte of the destination.
    pub dst_mask: u32,
    /// 1 if the header is IPv6, 0 if IPv4.
    pub v6: u32,
    /// IP header and L4 header, from offset 14 of the frame on.
    pub header: [u8; 44],
}

#[allow(non_upper_case_globals, reason = "the name of the static is the name of the map")]
#[btf_map]
static bench: Array<Bench, 1> = Array::new();

/// Restores the packet with the source port and destination of the next flow. Returns false if the
/// map is missing.
#[inline(always)]
pub fn reset(ctx: &TcContext) -> bool {
    let Some(b) = bench.get_ptr_mut(0) else { return false };
    // SAFETY: the benchmark runs on one CPU at a time.
    let b = unsafe { &mut *b };
    b.seq = b.seq.wrapping_add(1);
    let sport = ((b.seq & b.sport_mask) as u16).to_be_bytes();
    let low = ((b.seq >> 16) & b.dst_mask) as u8;
    let skb = ctx.as_ptr().cast();
    // SAFETY: buffers of the sizes given.
    unsafe {
        if b.v6 != 0 {
            bpf_skb_store_bytes(skb, 14, b.header.as_ptr().cast(), 44, 0);
            bpf_skb_store_bytes(skb, 14 + 40, sport.as_ptr().cast(), 2, 0);
            bpf_skb_store_bytes(skb, 14 + 39, [b.header[39].wrapping_add(low)].as_ptr().cast(), 1, 0);
        } else {
            bpf_skb_store_bytes(skb, 14, b.header.as_ptr().cast(), 24, 0);
            bpf_skb_store_bytes(skb, 14 + 20, sport.as_ptr().cast(), 2, 0);
            bpf_skb_store_bytes(skb, 14 + 19, [b.header[19].wrapping_add(low)].as_ptr().cast(), 1, 0);
        }
        // A redirected packet is marked as handled, and `from_pod` would pass it.
        (*ctx.skb.skb).tc_index = 0;
    }
    true
}

/// Advances the counter by `n`; returns its previous value and the mask to apply.
#[inline(always)]
pub fn take(n: u32) -> Option<(u32, u32)> {
    let b = bench.get_ptr_mut(0)?;
    // SAFETY: the benchmark runs on one CPU at a time.
    unsafe {
        let first = (*b).seq;
        (*b).seq = first.wrapping_add(n);
        Some((first, (*b).sport_mask))
    }
}
