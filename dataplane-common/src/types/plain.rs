//! Proof for the host side that the generic map types are plain old data.
//!
//! `bytemuck::Pod` requires that a type has no padding and that every bit pattern is valid. Its
//! derive macro cannot check generic types; the assertions below compare sizes instead. This is the
//! crate's only unsafe code, and it is not part of the eBPF build.
#![allow(unsafe_code, reason = "the one door of this crate: see the module's doc")]

use core::mem::size_of;

use bytemuck::{Pod, Zeroable};

use crate::types::address::{Prefix, V4, V6};
use crate::types::flow::{Flow, FlowKey, FragmentKey};
use crate::types::policy::PortKey;
use crate::types::service::{AffinityKey, FrontendKey, HostPort, SockPeer, SockPeerKey, SourceRange};

macro_rules! plain {
    ($($ty:ident<A> { $($field:ty),* })*) => {$(
        plain!(@ $ty<V4>, V4, $($field),*);
        plain!(@ $ty<V6>, V6, $($field),*);
    )*};
    (@ $ty:ty, $addr:ident, $($field:ty),*) => {
        const _: () = {
            type A = $addr;
            assert!(size_of::<$ty>() == 0 $(+ size_of::<$field>())*);
        };
        // SAFETY: `repr(C)`, only integers, arrays of integers and plain types, and no padding
        // (asserted above).
        unsafe impl Zeroable for $ty {}
        // SAFETY: as above.
        unsafe impl Pod for $ty {}
    };
}

plain! {
    FrontendKey<A> { A, u16, u8, u8 }
    AffinityKey<A> { A, u32 }
    SockPeerKey<A> { u64, A, u16, u16 }
    SockPeer<A> { A, u16, u16, u32, u32 }
    FlowKey<A> { A, A, u16, u16, u8, [u8; 3] }
    Flow<A> { A, A, u16, u16, u32, u32, u32, u32, u32, u32, u8, u8, u16 }
    FragmentKey<A> { A, A, u32, u16, u8, u8 }
    Prefix<A> { u32, A }
    SourceRange<A> { u32, A }
    HostPort<A> { A, u16, u16, u32 }
}
plain!(@ Prefix<SourceRange<V4>>, V4, u32, SourceRange<A>);
plain!(@ Prefix<SourceRange<V6>>, V6, u32, SourceRange<A>);

const _: () = assert!(size_of::<Prefix<PortKey>>() == size_of::<u32>() + size_of::<PortKey>());
// SAFETY: as above, without padding as asserted.
unsafe impl Zeroable for Prefix<PortKey> {}
// SAFETY: as above.
unsafe impl Pod for Prefix<PortKey> {}
