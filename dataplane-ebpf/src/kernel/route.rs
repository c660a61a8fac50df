//! Lookups in the routes of the host's stack.
//!
//! Called by [`super::skb`] for flows whose egress device the maps do not name. Reads routes only.

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::bindings::{__sk_buff, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup};
use aya_ebpf::helpers::bpf_fib_lookup as look_up_route;
use dataplane_common::types::address::Address;
use dataplane_common::types::uapi::{AF_INET, AF_INET6};

/// Looks up the route by which the kernel would forward the packet; 0 if there is none.
///
/// A missing neighbour is no failure: the kernel resolves it when it sends. MTU is checked
/// elsewhere.
///
/// Not inlined: `struct bpf_fib_lookup` takes 64 bytes, which the callers' stack frames cannot
/// spare.
#[inline(never)]
pub fn route_ifindex<A: Address>(skb: *mut __sk_buff, ifindex: u32, addr: &A) -> u32 {
    const SIZE: i32 = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: numbers and arrays of numbers, for which zero is valid.
    let mut route: bpf_fib_lookup = unsafe { MaybeUninit::zeroed().assume_init() };
    route.family = if A::V6 { AF_INET6 } else { AF_INET };
    route.ifindex = ifindex;
    // SAFETY: an address has the size of its family's field, and the field accepts any bytes.
    unsafe { ptr::from_mut(&mut route.__bindgen_anon_4).cast::<A>().write_unaligned(*addr) };
    // SAFETY: the context is valid, and the parameters have the size given.
    let result = unsafe { look_up_route(skb.cast(), &raw mut route, SIZE, 0) };
    if matches!(result as u32, BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH) { route.ifindex } else { 0 }
}
