//! The reference evaluator: decides about one connection by reading the objects themselves.
//!
//! Slow and obvious. It knows no identity, class or trie, so that the compiled tables can be tested
//! against it. It judges one end: a connection needs the egress of its source and the ingress of
//! its destination.

use std::net::IpAddr;

use super::cluster_policy::{Action, Tier};
use super::object::{Direction, Key, Namespaces, Peer, Peers, Pod, PortMatch, PortRange, Ports, Rule};
use super::world::World;

/// The first packet of a connection, after translation of its destination and before masquerading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Address of the end that opens the connection.
    pub source: IpAddr,
    /// Address of the other end.
    pub destination: IpAddr,
    /// The destination's node sends the packet itself. An origin and not an address: a node has
    /// many addresses, and a pod's packet could carry one of them.
    pub from_own_node: bool,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; 0 for protocols without ports.
    pub port: u16,
}

impl Connection {
    /// Returns the address of the judged pod and that of its peer.
    #[must_use]
    pub const fn ends(&self, direction: Direction) -> (IpAddr, IpAddr) {
        match direction {
            Direction::Ingress => (self.destination, self.source),
            Direction::Egress => (self.source, self.destination),
        }
    }
}

/// A decision with its reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The connection may pass in this direction.
    pub allowed: bool,
    /// The reason.
    pub reason: Reason,
}

/// The reason of a decision.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// The judged end is no pod that policies can select.
    NoSubject,
    /// No policy isolates the pod in this direction, and no rule of the cluster denies.
    NotIsolated,
    /// The pod's own node opens the connection.
    OwnNode,
    /// The pod opens the connection to itself.
    Itself,
    /// The first rule that allows it.
    Allowed {
        /// The rule's policy.
        policy: Key,
        /// The rule's place in its direction.
        rule: usize,
    },
    /// These policies isolate the pod, and no rule of them allows the connection.
    Isolated(Vec<Key>),
    /// A rule of a `ClusterNetworkPolicy` decides.
    Cluster {
        /// The rule's policy.
        policy: Key,
        /// The rule's place in its direction.
        rule: usize,
    },
}

/// Decides if the policies of one end let a connection pass.
#[must_use]
pub fn may_pass(world: &World, connection: &Connection, direction: Direction) -> Verdict {
    let allow = |reason| Verdict { allowed: true, reason };
    let (own, peer) = connection.ends(direction);
    let Some((key, subject)) = world.pod_at(own) else { return allow(Reason::NoSubject) };
    if direction == Direction::Ingress && connection.from_own_node {
        return allow(Reason::OwnNode);
    }
    if subject.addresses.contains(&peer) {
        return allow(Reason::Itself);
    }
    let destination = world.pod_at(connection.destination).map(|(_, pod)| pod);
    let holds = |namespace: &str, rule: &Rule| {
        has_peer(world, namespace, rule, peer) && has_port(rule, connection, destination)
    };
    // The first matching rule of a tier decides; `None` if none matches.
    let of_tier = |tier: Tier| {
        world.of_tier(tier, key, subject, direction).into_iter().find_map(|(policy, rules)| {
            let rule = rules.iter().position(|rule| holds("", &rule.matches))?;
            Some((rules[rule].action, Reason::Cluster { policy: policy.clone(), rule }))
        })
    };
    if let Some((action @ (Action::Accept | Action::Deny), reason)) = of_tier(Tier::Admin) {
        return Verdict { allowed: action == Action::Accept, reason };
    }
    let policies = world.isolating(key, subject, direction);
    for (policy, rules) in &policies {
        if let Some(rule) = rules.iter().position(|rule| holds(&policy.namespace, rule)) {
            return allow(Reason::Allowed { policy: (*policy).clone(), rule });
        }
    }
    if !policies.is_empty() {
        let isolating = policies.into_iter().map(|(policy, _)| policy.clone()).collect();
        return Verdict { allowed: false, reason: Reason::Isolated(isolating) };
    }
    match of_tier(Tier::Baseline) {
        Some((action, reason)) => Verdict { allowed: action != Action::Deny, reason },
        None => allow(Reason::NotIsolated),
    }
}

fn has_peer(world: &World, namespace: &str, rule: &Rule, address: IpAddr) -> bool {
    match &rule.peers {
        Peers::Every => true,
        Peers::Only(peers) => peers.iter().any(|peer| is_peer(world, namespace, peer, address)),
    }
}

fn is_peer(world: &World, namespace: &str, peer: &Peer, address: IpAddr) -> bool {
    let (namespaces, selector) = match peer {
        Peer::Block(block) => return block.contains(address),
        Peer::Pods { namespaces, pods } => (namespaces, pods),
    };
    let Some((key, pod)) = world.pod_at(address) else { return false };
    let in_namespace = match namespaces {
        Namespaces::Own => &*key.namespace == namespace,
        Namespaces::Matching(selector) => {
            world.namespaces.get(&key.namespace).is_some_and(|labels| selector.matches(labels))
        }
    };
    in_namespace && selector.matches(&pod.labels)
}

fn has_port(rule: &Rule, connection: &Connection, destination: Option<&Pod>) -> bool {
    match &rule.ports {
        Ports::All => true,
        Ports::Only(ports) => ports.iter().any(|port| is_port(port, connection, destination)),
    }
}

fn is_port(port: &PortMatch, connection: &Connection, destination: Option<&Pod>) -> bool {
    port.protocol == connection.protocol
        && match &port.port {
            PortRange::All => true,
            PortRange::Numbers(first, last) => (*first..=*last).contains(&connection.port),
            PortRange::Named(name) => destination.is_some_and(|pod| {
                pod.named_ports.iter().any(|named| {
                    named.name == *name && named.protocol == port.protocol && named.number == connection.port
                })
            }),
        }
}
