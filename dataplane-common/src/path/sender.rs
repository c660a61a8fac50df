//! Who may send what: the MAC and the addresses that a packet can have where it arrived.
//!
//! A pod sends with its own, and nobody outside sends with those of this node. The module drops
//! nothing itself; [`crate::path::datapath`] asks it before it writes a flow.

use crate::balance::select::host_port;
use crate::maps::{FamilyMaps, SharedMaps};
use crate::packet::access::Packet;
use crate::packet::family::Family;
use crate::packet::parse::Parsed;
use crate::types::event::DropReason;
use crate::types::pod::{Network, Pod, address_kind, network_flags, node_features, pod_flags};
use crate::types::service::{FrontendKey, proto};
use crate::types::stage::Origin;
use crate::verdict::Verdict;
use crate::wire::byte_order::{Be16, Be32};

/// A source that is not the pod's.
pub const SPOOFED: Verdict = Verdict::drop(DropReason::Spoofed);
/// An address that the packet cannot have where it arrived.
pub const MARTIAN: Verdict = Verdict::drop(DropReason::Martian);

/// A sender that must not use the tunnel.
pub const TUNNEL_SENDER: Verdict = Verdict::drop(DropReason::TunnelSender);

/// Returns true for the port of the tunnels, which only nodes may reach: the host's stack believes
/// every datagram that arrives there.
#[inline(always)]
pub fn is_tunnel_port<T: SharedMaps>(tables: &T, protocol: u8, port: u16) -> bool {
    protocol == proto::UDP && port != 0 && tables.config().is_some_and(|config| config.tunnel_port == port)
}

/// Returns the pod behind an interface.
///
/// # Errors
/// The verdict on the frame, if its source MAC is not the pod's or there is no pod.
///
/// Runs for established flows as well: a flow entry does not record the sender's MAC, and a pod
/// that is being deleted must not send.
#[inline(always)]
pub fn check_source_mac<'a, P: Packet, T: SharedMaps>(
    packet: &P,
    tables: &'a T,
    ifindex: u32,
) -> Result<&'a Pod, Verdict> {
    let pod = present_pod(tables, ifindex).ok_or(Verdict::drop(DropReason::UnknownPod))?;
    let mac = &pod.mac;
    // Compared as a word and a half, because LLVM reads a byte array byte by byte.
    let is_own = packet.load_words(6) == Some([Be32(u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]))])
        && packet.load_u16(10) == Some(Be16(u16::from_ne_bytes([mac[4], mac[5]])));
    if is_own { Ok(pod) } else { Err(SPOOFED) }
}

/// Returns the pod behind a host-side interface, unless it is being deleted.
#[inline(always)]
fn present_pod<T: SharedMaps>(tables: &T, ifindex: u32) -> Option<&Pod> {
    tables.pod(ifindex).filter(|pod| pod.flags & pod_flags::PRESENT != 0)
}

/// Returns [`Verdict::PASS`] if a packet can have its addresses where it arrived.
///
/// Only packets without a flow are checked. A flow is opened by a checked packet, and records the
/// interface by which its packets arrive: a pod's, the host's stack ([`Origin::iif`]), or any way
/// from outside. So the source of a hit from outside is an address beyond this node, which the link
/// can forge whatever is checked here.
#[inline(always)]
pub fn check_addresses<A: Family, T: FamilyMaps<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    origin: Origin,
    ifindex: u32,
) -> Verdict {
    // A node port of the node's own processes has a loopback address, and only they may use it.
    if parsed.key.dst.is_internal() {
        return MARTIAN;
    }
    match origin {
        Origin::Pod => check_pod_source(tables, parsed, ifindex),
        Origin::Uplink => check_outside_source(tables, parsed, ifindex),
        Origin::Host => Verdict::PASS,
    }
}

#[inline(always)]
fn check_pod_source<A: Family, T: FamilyMaps<A>>(tables: &T, parsed: &Parsed<A>, ifindex: u32) -> Verdict {
    let Some(pod) = present_pod(tables, ifindex) else { return Verdict::drop(DropReason::UnknownPod) };
    if A::of_pod(pod) == parsed.key.src && !parsed.key.src.is_unspecified() {
        // To any address: the node has more than the maps know, such as those of its links.
        return if is_tunnel_port(tables, parsed.key.proto, parsed.key.dport) { TUNNEL_SENDER } else { Verdict::PASS };
    }
    if A::V6 && parsed.key.src.is_link_local() {
        return Verdict::drop(DropReason::ForbiddenControl);
    }
    // The host device: routes of the node also lead here from other senders, to pods that are gone.
    if pod.flags & pod_flags::NODE != 0 { Verdict::drop(DropReason::UnallocatedAddress) } else { SPOOFED }
}

/// Returns [`Verdict::PASS`] if the source address can be beyond this node, in the direction from
/// which the packet came.
///
/// External and load-balancer addresses pass: other machines may have them, and a tenant names
/// them. So does what goes to groups, which opens no flow: a machine without an address asks for
/// one there, and a group also contains its sender. Not inlined, because several branches lead
/// here.
#[inline(never)]
fn check_outside_source<A: Family, T: FamilyMaps<A>>(tables: &T, parsed: &Parsed<A>, ifindex: u32) -> Verdict {
    let src = &parsed.key.src;
    let kind = tables.address(src).map_or(0, |addr| addr.kind);
    let own = matches!(kind, address_kind::POD | address_kind::NODE | address_kind::SERVICE);
    if own || src.is_no_source() {
        return if parsed.key.dst.is_multicast() { Verdict::PASS } else { MARTIAN };
    }
    let Some(config) = tables.config() else { return Verdict::PASS };
    if config.features & node_features::NETWORKS == 0 {
        return Verdict::PASS;
    }
    let Network { oif, flags, .. } = tables.network(src).unwrap_or_default();
    // One comparison, because the verifier would follow each of three.
    let other = u32::from(parsed.key.proto ^ proto::UDP) << 16 | u32::from(parsed.key.dport ^ config.tunnel_port);
    if other == 0 && flags & network_flags::NODE == 0 {
        return TUNNEL_SENDER;
    }
    let tunnel = config.tunnels[0] == ifindex || config.tunnels[1] == ifindex;
    let fits = if tunnel {
        // Neighbour discovery.
        let of_link = src.is_link_local() && is_for_host(tables, parsed);
        of_link || flags & (network_flags::REMOTE | network_flags::NODE) != 0
    } else {
        flags & network_flags::REMOTE == 0 || oif == 0 || is_for_host(tables, parsed)
    };
    if fits && flags & (network_flags::LOCAL | network_flags::SERVICE) == 0 { Verdict::PASS } else { MARTIAN }
}

/// Returns true if the packet is for the node itself and opens no flow. Pods send to some addresses
/// of a node behind the tunnel without it ([`crate::path::new_connection::egress`]).
#[inline(always)]
fn is_for_host<A: Family, T: FamilyMaps<A>>(tables: &T, parsed: &Parsed<A>) -> bool {
    let key = FrontendKey { addr: parsed.key.dst, port: parsed.key.dport, proto: parsed.key.proto, pad: 0 };
    if key.addr.is_host_only() {
        return true;
    }
    tables.address(&key.addr).is_some_and(|addr| addr.kind == address_kind::NODE)
        && tables.frontend(&key).is_none()
        && host_port(tables, key.addr, key.port, key.proto).is_none()
}
