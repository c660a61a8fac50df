//! Network policy: decides if the rules of the pods at both ends let a connection pass.
//!
//! The packet path calls [`refusal`] with a connection's first packet, after the translation of its
//! destination and before masquerading, and again when the agent has raised the epoch. [`evaluate`]
//! is the interpreter of the agent's tables; the agent's tests run it against the policies
//! themselves. The module changes nothing and knows no flow.

use crate::maps::{FamilyMaps, RuleMaps, SharedMaps};
use crate::types::address::Address;
use crate::types::event::DropReason;
use crate::types::pod::{node_features, pod_flags};
use crate::types::policy::{PodRules, RuleKey, UNKNOWN_CLASS, decision, rules_flags};

/// Decides by one rule set about a peer, a protocol and the destination's port. Returns one of
/// [`decision`].
#[inline(always)]
pub fn evaluate<A: Address, T: RuleMaps<A>>(tables: &T, set: u32, peer: &A, proto: u8, port: u16) -> u32 {
    let class = match tables.peer_class(peer) {
        Some(class) => class,
        None => tables.block_class(peer).unwrap_or(UNKNOWN_CLASS),
    };
    let Some(rule) = tables.rule(&RuleKey { set, class }) else { return decision::NONE };
    if rule.table != 0 {
        return tables.port_decision(rule.table, proto, port).unwrap_or(decision::NONE);
    }
    let is_inside = rule.proto == proto && rule.first <= port && port <= rule.last;
    (if is_inside { rule.inside } else { rule.outside }) as u32
}

/// A connection, as the rules of its ends see it.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a, A> {
    /// Address of the end that opens the connection, before masquerading.
    pub client: &'a A,
    /// Address of the other end, after translation.
    pub server: &'a A,
    /// IP protocol number.
    pub proto: u8,
    /// Port of the server; 0 if the protocol has none.
    pub port: u16,
    /// Interface index of the client, if it is a pod of this node; else 0.
    pub client_pod: u32,
    /// Interface index of the server, if it is a pod of this node; else 0.
    pub server_pod: u32,
    /// The node itself opens the connection. Its own pods accept that, whatever the rules say.
    pub from_node: bool,
}

/// Returns the reason for which the rules refuse a connection; `None` if they let it pass.
///
/// A pod may always reach itself.
#[inline(always)]
pub fn refusal<A: Address, T: FamilyMaps<A>>(tables: &T, connection: &Connection<'_, A>) -> Option<DropReason> {
    let Connection { client, server, proto, port, client_pod, server_pod, from_node } = connection;
    if client_pod == server_pod && *client_pod != 0 {
        return None;
    }
    let (ports, from_node) = ((*proto as u32) << 16 | *port as u32, *from_node || is_node(tables, *client_pod));
    let mut refused = 0;
    if let Some(rules) = rules_of(tables, *client_pod)
        && rules.egress != 0
    {
        let allows = rules.flags & rules_flags::ALLOW_EGRESS != 0;
        refused = !is_allowed(tables.judge(rules.egress, server, ports), allows) as u32;
    }
    if refused != 0 {
        return Some(DropReason::PolicyEgress);
    }
    if let Some(rules) = rules_of(tables, *server_pod)
        && rules.ingress != 0
        && !from_node
    {
        let allows = rules.flags & rules_flags::ALLOW_INGRESS != 0;
        refused = !is_allowed(tables.judge(rules.ingress, client, ports), allows) as u32;
    }
    if refused != 0 { Some(DropReason::PolicyIngress) } else { None }
}

#[inline(always)]
const fn is_allowed(decided: u32, default: bool) -> bool {
    decided == decision::ALLOW || decided == decision::NONE && default
}

/// Returns the rules of the pod behind an interface, if they are that pod's.
#[inline(always)]
fn rules_of<T: SharedMaps>(tables: &T, ifindex: u32) -> Option<&PodRules> {
    if ifindex == 0 {
        return None;
    }
    let pod = tables.pod(ifindex)?;
    tables.pod_rules(ifindex).filter(|rules| rules.device == pod.device(ifindex))
}

/// Returns true if an interface is the host device, behind which the node itself is.
#[inline(always)]
pub fn is_node<T: SharedMaps>(tables: &T, ifindex: u32) -> bool {
    tables.pod(ifindex).is_some_and(|pod| pod.flags & pod_flags::NODE != 0)
}

/// Returns true if policies may apply to one of two pods of this node, given by interface index; 0:
/// no pod. Costs no lookup on a node without policies.
///
/// The entry may be that of an earlier pod. The stage that judges the packet finds out.
#[inline(always)]
pub fn is_policed<T: SharedMaps>(tables: &T, [one, other]: [u32; 2]) -> bool {
    is_on(tables) && have_rules(tables, one, other)
}

/// Not inlined, so that its registers are not spilled to the stack of large stages.
#[inline(never)]
fn have_rules<T: SharedMaps>(tables: &T, one: u32, other: u32) -> bool {
    let has_rules = |ifindex: u32| tables.pod_rules(ifindex).is_some_and(|rules| rules.ingress | rules.egress != 0);
    has_rules(one) || has_rules(other)
}

/// Returns true if a pod may have rules for connections to it.
#[inline(always)]
pub fn is_ingress_isolated<T: SharedMaps>(tables: &T, ifindex: u32) -> bool {
    is_on(tables) && rules_of(tables, ifindex).is_some_and(|rules| rules.ingress != 0)
}

/// Returns true if a pod may have rules for connections that it opens.
#[inline(always)]
pub fn is_egress_isolated<T: SharedMaps>(tables: &T, ifindex: u32) -> bool {
    is_on(tables) && rules_of(tables, ifindex).is_some_and(|rules| rules.egress != 0)
}

/// Returns true if the node has a pod with rules.
#[inline(always)]
pub fn is_on<T: SharedMaps>(tables: &T) -> bool {
    tables.config().is_some_and(|config| config.features & node_features::POLICY != 0)
}

/// Returns the present epoch. A flow of another one was judged by rules that may have changed.
///
/// Read before a connection is judged: rules that change in between then make its flow old.
#[inline(always)]
pub fn epoch<T: SharedMaps>(tables: &T) -> u32 {
    tables.config().map_or(0, |config| config.policy_epoch)
}
