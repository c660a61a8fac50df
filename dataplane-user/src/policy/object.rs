//! Decoded objects of network policy: what a policy selects and allows, and what a pod is.
//!
//! Every default is filled in. Invalid peers and ports are gone, and an invalid rule allows
//! nothing. "Everything" is a variant of its own ([`Peers::Every`], [`Ports::All`]), so that a list
//! from which all items were dropped is empty and not absent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::selector::Selector;

/// Labels of an object: key and value.
pub type Labels = BTreeMap<Box<str>, Box<str>>;

/// IP protocol numbers that rules can name.
pub mod protocol {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Namespace and name of an object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key {
    /// Namespace.
    pub namespace: Box<str>,
    /// Name, unique within the namespace and kind.
    pub name: Box<str>,
}

impl Key {
    /// Creates a key.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The direction of a rule, from the point of view of the pod that the policy selects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Direction {
    /// Connections to the pod.
    Ingress,
    /// Connections that the pod opens.
    Egress,
}

impl Direction {
    /// Both directions.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// A `NetworkPolicy` of the group `networking.k8s.io`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkPolicy {
    /// The pods of the policy's namespace that it selects.
    pub subject: Selector,
    /// Rules for ingress; `None` if the policy does not isolate for ingress.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for egress; `None` if the policy does not isolate for egress.
    pub egress: Option<Vec<Rule>>,
}

impl NetworkPolicy {
    /// Returns the rules of a direction; `None` if the policy does not isolate in it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// A rule: allows connections with one of its peers at one of its ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The other ends.
    pub peers: Peers,
    /// The destination's ports.
    pub ports: Ports,
}

impl Rule {
    /// Returns the rule that matches no connection.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { peers: Peers::Only(Vec::new()), ports: Ports::Only(Vec::new()) }
    }
}

/// The peers of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peers {
    /// Every address.
    Every,
    /// One of these; none if the list is empty.
    Only(Vec<Peer>),
}

/// A peer of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Pods by labels.
    Pods {
        /// The namespaces of the pods.
        namespaces: Namespaces,
        /// The labels of the pods.
        pods: Selector,
    },
    /// A range of addresses.
    Block(Block),
}

/// The namespaces in which a peer's pods are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Namespaces {
    /// The policy's namespace.
    Own,
    /// All namespaces with matching labels.
    Matching(Selector),
}

/// A range of addresses with exceptions.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Block {
    /// The range, without host bits.
    pub cidr: IpNetwork,
    /// Parts of the range that do not match, without host bits.
    pub excepts: Vec<IpNetwork>,
}

impl Block {
    /// Returns true if the address is in the range and in no exception.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(address) && !self.excepts.iter().any(|except| except.contains(address))
    }
}

/// The ports of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ports {
    /// All ports of all protocols, and protocols without ports.
    All,
    /// One of these; none if the list is empty.
    Only(Vec<PortMatch>),
}

/// A port or ports of one protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortMatch {
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// Ports of the destination.
    pub port: PortRange,
}

/// Ports of one protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortRange {
    /// All ports.
    All,
    /// From the first to the second port, inclusive.
    Numbers(u16, u16),
    /// The container ports of the destination pod with this name.
    Named(Box<str>),
}

/// A container port with a name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NamedPort {
    /// The name.
    pub name: Box<str>,
    /// IP protocol number.
    pub protocol: u8,
    /// The port's number.
    pub number: u16,
}

/// A Pod, as far as network policy reads it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pod {
    /// Labels.
    pub labels: Labels,
    /// Addresses of both families.
    pub addresses: Vec<IpAddr>,
    /// Container ports with a name.
    pub named_ports: BTreeSet<NamedPort>,
    /// Name of the pod's node; empty if it is not scheduled.
    pub node: Box<str>,
    /// The pod shares its node's network namespace.
    pub host_network: bool,
    /// The phase is `Succeeded` or `Failed`: the addresses may belong to another pod.
    pub ended: bool,
    /// A deletion time is set; the pod may still run.
    pub terminating: bool,
    /// Creation time in RFC 3339 and UTC, as the API server writes it: its order is that of time.
    pub created: Box<str>,
}

impl Pod {
    /// Returns true if policies can select the pod, as a subject and as a peer.
    #[must_use]
    pub fn is_selectable(&self) -> bool {
        !self.host_network && !self.ended
    }
}
