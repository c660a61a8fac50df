//! Kernel constants that `aya_ebpf::bindings` does not define.
//!
//! The names are those of the kernel's headers. The packet tests compare each constant of the user
//! API with `libc`, so that a typing error cannot reach a program.

/// Address family IPv4 (`linux/socket.h`).
pub const AF_INET: u8 = 2;
/// Address family IPv6 (`linux/socket.h`).
pub const AF_INET6: u8 = 10;
/// Error number "connection refused" (`asm-generic/errno.h`).
pub const ECONNREFUSED: i32 = 111;
/// Protocol of a TCP socket (`linux/in.h`).
pub const IPPROTO_TCP: u32 = 6;
/// Protocol of a UDP socket (`linux/in.h`).
pub const IPPROTO_UDP: u32 = 17;
/// Protocol of a multipath TCP socket (`linux/in.h`).
pub const IPPROTO_MPTCP: u32 = 262;
/// `pkt_type` of an skb that was sent to the MAC of its device (`linux/if_packet.h`).
pub const PACKET_HOST: u32 = 0;
/// `gso_size` of an skb whose segments keep the sizes that their sender gave them, as with SCTP
/// (`include/linux/skbuff.h`, not part of the user API).
pub const GSO_BY_FRAGS: u32 = 0xffff;
