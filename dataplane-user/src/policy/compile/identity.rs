//! Kinds of peers. Pods of one kind differ in nothing that a rule of this node asks for, so the
//! tables hold one row for a kind and not for each pod.

use std::collections::BTreeSet;

use super::Set;
use super::blocks::{BlockSet, Blocks};
use crate::policy::object::{Direction, Key, Labels, NamedPort, Namespaces, Peer, Pod};
use crate::policy::world::World;

/// The parts of a pod that some rule asks for.
pub(super) struct Asked<'a> {
    /// Keys of labels in selectors of peers.
    labels: BTreeSet<&'a str>,
    /// Names of ports in rules for egress, which are those of peers.
    ports: BTreeSet<&'a str>,
}

impl<'a> Asked<'a> {
    /// Returns the parts that these rule sets ask for.
    pub(super) fn by(sets: &[Set<'a>]) -> Self {
        let selectors = sets.iter().flat_map(Set::peers).filter_map(|peer| match peer {
            Peer::Pods { pods, .. } => Some(pods),
            Peer::Block(_) => None,
        });
        let egress = sets.iter().filter(|set| set.direction == Direction::Egress);
        Self {
            labels: selectors.flat_map(|selector| &selector.requirements).map(|part| &*part.key).collect(),
            ports: egress.flat_map(Set::port_names).collect(),
        }
    }
}

/// A kind of peer.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    /// The pod's part; `None` for an address that no selectable pod has.
    pod: Option<PodKind>,
    /// The blocks that contain the address.
    blocks: BlockSet,
}

/// The parts of a pod that some rule asks for.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PodKind {
    namespace: Box<str>,
    labels: Labels,
    named_ports: BTreeSet<NamedPort>,
}

impl Identity {
    /// Returns the identity of addresses that no pod has.
    pub(super) const fn unknown(blocks: BlockSet) -> Self {
        Self { pod: None, blocks }
    }

    pub(super) fn of_pod(key: &Key, pod: &Pod, asked: &Asked<'_>, blocks: BlockSet) -> Self {
        let labels = pod.labels.iter().filter(|(label, _)| asked.labels.contains(&***label));
        let ports = pod.named_ports.iter().filter(|port| asked.ports.contains(&*port.name));
        let pod = PodKind {
            namespace: key.namespace.clone(),
            labels: labels.map(|(label, value)| (label.clone(), value.clone())).collect(),
            named_ports: ports.cloned().collect(),
        };
        Self { pod: Some(pod), blocks }
    }

    /// Returns the pod's named ports, as far as rules ask for them.
    pub(super) fn named_ports(&self) -> impl Iterator<Item = &NamedPort> {
        self.pod.iter().flat_map(|pod| &pod.named_ports)
    }

    /// Returns true if addresses of this identity match a peer of a policy in `namespace`.
    pub(super) fn is(&self, world: &World, namespace: &str, peer: &Peer, blocks: &Blocks<'_>) -> bool {
        let (namespaces, selector) = match peer {
            Peer::Block(block) => return blocks.number(block).is_some_and(|number| self.blocks.contains(&number)),
            Peer::Pods { namespaces, pods } => (namespaces, pods),
        };
        let Some(pod) = &self.pod else { return false };
        let in_namespace = match namespaces {
            Namespaces::Own => *pod.namespace == *namespace,
            Namespaces::Matching(selector) => {
                world.namespaces.get(&pod.namespace).is_some_and(|labels| selector.matches(labels))
            }
        };
        in_namespace && selector.matches(&pod.labels)
    }
}
