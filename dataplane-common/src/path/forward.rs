//! Execution of a forwarding decision: translation, hop limit, MTU.
//!
//! The last step of the packet path before the verdict. [`route`] sends a packet without a flow,
//! [`forward`] one with a flow. Both keep to the rules of a router: a redirected packet loses a
//! hop, and one that is too large is fragmented or reported to its sender.

use crate::maps::SharedMaps;
use crate::packet::access::{L3, Packet};
use crate::packet::family::Family;
use crate::packet::parse::Parsed;
use crate::packet::rewrite::translate;
use crate::types::event::DropReason;
use crate::types::flow::{Flow, flow_flags};
use crate::types::service::proto;
use crate::types::stage::Stage;
use crate::verdict::{Action, Verdict};

/// Sends an untranslated packet, and decrements the hop limit if the packet bypasses the host's
/// stack.
#[inline(always)]
pub fn route<A: Family, P: Packet, T: SharedMaps>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    verdict: Verdict,
) -> Verdict {
    match verdict.action() {
        Action::ToPod => {}
        Action::ToUplink => {
            if exceeded_mtu(packet, tables, parsed, verdict.ifindex()) != 0 {
                // The host's stack reports it to the sender, or fragments the packet.
                return Verdict::PASS;
            }
        }
        _ => return verdict,
    }
    if A::hop_limit(parsed.hop) < 2 {
        return Verdict::PASS;
    }
    if A::decrement_hop_limit(packet, parsed).is_some() { verdict } else { Verdict::drop(DropReason::Rewrite) }
}

/// Translates a packet by its flow and sends it. `OFTEN`: see [`translate`].
#[inline(always)]
pub fn forward<const OFTEN: bool, A: Family, P: Packet, T: SharedMaps>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    flow: &Flow<A>,
) -> Verdict {
    let egress = egress_verdict(flow);
    let count_hop = flow.oif != 0;
    if count_hop && A::hop_limit(parsed.hop) < 2 {
        return Verdict::PASS;
    }
    // A number and no boolean branches: the verifier would follow each branch to the end of the
    // program. Saves 2,000 verified instructions of `from_pod`.
    let mut by_stack = 0;
    if matches!(egress.action(), Action::ToUplink) {
        let limit = exceeded_mtu(packet, tables, parsed, flow.egress_ifindex());
        if limit != 0 {
            if A::V6 || has_dont_fragment(packet) {
                return Verdict::too_big(limit & !TUNNEL);
            }
            // The host's stack fragments the packet. In a tunnel it is sent whole instead, and the
            // outer datagram is fragmented: its source can be the node's own address by now, which
            // the stack would drop as a martian.
            by_stack = (!limit / TUNNEL) | ((flow.flags & flow_flags::TO_POD) as u32 / flow_flags::TO_POD as u32);
        }
    }
    if translate::<OFTEN, _, _>(packet, parsed, flow, (count_hop as u32 & !by_stack) != 0).is_none() {
        return Verdict::drop(DropReason::Rewrite);
    }
    via_sctp_stage(parsed, egress.pass_if(by_stack))
}

/// Adds the stage that writes the ports of SCTP to the verdict on a translated packet. Decides by
/// the protocol, so that fragments take that stage too.
#[inline(always)]
#[must_use]
pub fn via_sctp_stage<A>(parsed: &Parsed<A>, verdict: Verdict) -> Verdict {
    if parsed.key.proto == proto::SCTP { verdict.then(Stage::SctpPorts) } else { verdict }
}

/// Returns the verdict that the packets of a flow get.
#[inline(always)]
#[must_use]
pub const fn egress_verdict<A: Copy>(flow: &Flow<A>) -> Verdict {
    match flow.egress_ifindex() {
        0 => Verdict::PASS,
        oif if flow.flags & (flow_flags::TO_POD | flow_flags::SHAPED) == flow_flags::TO_POD => Verdict::to_pod(oif),
        // Also for a pod with a queue: `bpf_redirect_neigh` sends through the queueing discipline
        // of the device, `bpf_redirect_peer` past it.
        oif => Verdict::to_uplink(oif),
    }
}

/// Bit in the result of [`exceeded_mtu`]: the packet leaves by the tunnel.
const TUNNEL: u32 = 1 << 31;

/// Returns the MTU of the egress device if the packet is larger, possibly with [`TUNNEL`]; else 0.
#[inline(always)]
fn exceeded_mtu<A: Family, P: Packet, T: SharedMaps>(packet: &P, tables: &T, parsed: &Parsed<A>, oif: u32) -> u32 {
    let Some(config) = tables.config() else { return 0 };
    // Pods have the MTU of the tunnel if there is one, so a pod's queue counts as the tunnel.
    let (mtu, tunnel) =
        if oif == config.uplink || config.tunnel_mtu == 0 { (config.mtu, 0) } else { (config.tunnel_mtu, TUNNEL) };
    // Every segment of a GSO packet repeats the headers; a TCP header has at least 20 bytes.
    let segment = packet.gso_size();
    let size = if segment == 0 { packet.size() - L3 as u32 } else { segment + (parsed.l4 - L3) as u32 + 20 };
    if mtu != 0 && size > mtu { mtu | tunnel } else { 0 }
}

/// Returns true if an IPv4 packet has the flag "don't fragment" (RFC 791, section 3.1).
#[inline(always)]
fn has_dont_fragment<P: Packet>(packet: &P) -> bool {
    packet.load_u16(L3 + 6).is_some_and(|flags| flags.get() & 0x4000 != 0)
}
