//! Carrying out what is decided: translation, the hop that every router counts, and the size that a way takes.

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

/// Sends an untranslated packet on, and counts the hop if it leaves without the host's stack.
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
                // the host's stack tells the sender, or cuts the packet up
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

/// Translates a packet as its flow says, and sends it on. `OFTEN` as for [`translate`].
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
    // numbers, because the verifier would follow each branch to the end
    let mut by_stack = 0;
    if matches!(egress.action(), Action::ToUplink) {
        let limit = exceeded_mtu(packet, tables, parsed, flow.oif);
        if limit != 0 {
            if A::V6 || has_dont_fragment(packet) {
                return Verdict::too_big(limit & !TUNNEL);
            }
            // The host's stack cuts it up on its way, but takes it for a forgery if it has the node's own address: a tunnel's datagram is cut up in its place
            by_stack = (!limit / TUNNEL) | ((flow.flags & flow_flags::TO_POD) as u32 / flow_flags::TO_POD as u32);
        }
    }
    if translate::<OFTEN, _, _>(packet, parsed, flow, (count_hop as u32 & !by_stack) != 0).is_none() {
        return Verdict::drop(DropReason::Rewrite);
    }
    via_sctp_stage(parsed, egress.pass_if(by_stack))
}

/// Where a translated packet goes: to its end, if it is one of SCTP by way of the stage that writes its ports. Fragments, too.
#[inline(always)]
#[must_use]
pub fn via_sctp_stage<A>(parsed: &Parsed<A>, verdict: Verdict) -> Verdict {
    if parsed.key.proto == proto::SCTP { verdict.then(Stage::SctpPorts) } else { verdict }
}

/// Where the packets of a flow go.
#[inline(always)]
#[must_use]
pub const fn egress_verdict<A>(flow: &Flow<A>) -> Verdict {
    match flow.oif {
        0 => Verdict::PASS,
        oif if flow.flags & (flow_flags::TO_POD | flow_flags::SHAPED) == flow_flags::TO_POD => Verdict::to_pod(oif),
        oif => Verdict::to_uplink(oif),
    }
}

/// In what [`exceeded_mtu`] says: the way out is the tunnel.
const TUNNEL: u32 = 1 << 31;

/// The MTU of the way out by `oif` if the packet is larger, and [`TUNNEL`]; else 0.
#[inline(always)]
fn exceeded_mtu<A: Family, P: Packet, T: SharedMaps>(packet: &P, tables: &T, parsed: &Parsed<A>, oif: u32) -> u32 {
    let Some(config) = tables.config() else { return 0 };
    // a pod with a queue has the MTU of the tunnel, if there is one
    let (mtu, tunnel) =
        if oif == config.uplink || config.tunnel_mtu == 0 { (config.mtu, 0) } else { (config.tunnel_mtu, TUNNEL) };
    // segments of a large packet have the headers in front, of which the one of TCP is 20 bytes at least
    let segment = packet.gso_size();
    let size = if segment == 0 { packet.size() - L3 as u32 } else { segment + (parsed.l4 - L3) as u32 + 20 };
    if mtu != 0 && size > mtu { mtu | tunnel } else { 0 }
}

/// IPv4: the flag "don't fragment" (RFC 791, section 3.1).
#[inline(always)]
fn has_dont_fragment<P: Packet>(packet: &P) -> bool {
    packet.load_u16(L3 + 6).is_some_and(|flags| flags.get() & 0x4000 != 0)
}
