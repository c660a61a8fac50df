//! The input of the benchmark's programs, and the packet that they put back.

use aya_ebpf::EbpfContext;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::bpf_skb_store_bytes;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;

/// What the next run sends.
#[repr(C)]
pub struct Bench {
    /// Counts the runs.
    pub seq: u32,
    /// Bits of `seq` that go into the source port.
    pub sport_mask: u32,
    /// Bits of `seq >> 16` that are added to the last byte of the destination.
    pub dst_mask: u32,
    /// Whether the header is IPv6.
    pub v6: u32,
    /// IP header and the ports.
    pub header: [u8; 44],
}

#[allow(non_upper_case_globals, reason = "the name of the static is the name of the map")]
#[btf_map]
static bench: Array<Bench, 1> = Array::new();

/// Puts the packet back, as the next of the rotating flows; says whether it could.
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
        // a packet that was sent on is marked as done
        (*ctx.skb.skb).tc_index = 0;
    }
    true
}

/// Takes `n` numbers from the counter; the first of them, and the mask to apply.
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
