//! The objects of a small cluster as its API server has them, with this node's own settings.
//!
//! Random histories change them by the events that a source sends; the oracle reads them. Nothing
//! here is remembered of earlier states.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::*;
use crate::proxy::source::{Rejection, RejectionOrigin};

/// All objects, each kind by its key.
#[derive(Clone, Default, Debug)]
pub(super) struct Objects {
    pub(super) services: BTreeMap<ObjectKey, ServiceObject>,
    pub(super) slices: BTreeMap<ObjectKey, SliceObject>,
    pub(super) nodes: BTreeMap<Box<str>, NodeObject>,
    pub(super) service_cidrs: BTreeMap<Box<str>, Box<[IpNetwork]>>,
    /// Addresses and options of the node on which the agent runs.
    pub(super) node: NodeContext,
    /// What the source could not read, and has told the present agent.
    pub(super) read: Vec<Rejection>,
}

impl Objects {
    /// Returns a cluster that has nothing but the agent's node.
    pub(super) fn new() -> Self {
        let nodes = [("n1".into(), node())].into();
        Self { nodes, node: context(), ..Self::default() }
    }

    /// Applies the change of which `event` tells.
    pub(super) fn apply(&mut self, event: &SourceEvent) {
        match event.clone() {
            SourceEvent::Service(key, object) => {
                // An object's own event voids what was said of it before.
                let of = RejectionOrigin::Object { kind: ObjectKind::Service, key: key.clone() };
                self.read.retain(|r| r.origin != of);
                set(&mut self.services, key, object);
            }
            SourceEvent::Slice(key, object) => set(&mut self.slices, key, object),
            SourceEvent::Node(name, object) => set(&mut self.nodes, name, object),
            SourceEvent::ServiceCidr(name, ranges) => set(&mut self.service_cidrs, name, ranges),
            SourceEvent::Rejected(rejection) if self.read.contains(&rejection) => {}
            SourceEvent::Rejected(rejection) => self.read.push(rejection),
            SourceEvent::Cleared(path) => {
                self.read.retain(|r| r.origin != RejectionOrigin::File { path: path.clone() });
            }
            SourceEvent::WatchError(..) => {}
            other => panic!("{other:?} changes no object"),
        }
    }

    /// Sends all objects as a source does that lists them, kind by kind.
    pub(super) fn list(&mut self, core: &mut Core) {
        self.read.retain(|r| matches!(r.origin, RejectionOrigin::File { .. }));
        for kind in ObjectKind::ALL {
            core.handle(SourceEvent::Relist(kind));
        }
        let nodes = self.nodes.iter().map(|(name, o)| SourceEvent::Node(name.clone(), Some(o.clone())));
        let services = self.services.iter().map(|(key, o)| SourceEvent::Service(key.clone(), Some(o.clone())));
        let slices = self.slices.iter().map(|(key, o)| SourceEvent::Slice(key.clone(), Some(o.clone())));
        let ranges = self.service_cidrs.iter().map(|(name, o)| SourceEvent::ServiceCidr(name.clone(), Some(o.clone())));
        nodes.chain(services).chain(slices).chain(ranges).for_each(|event| core.handle(event));
        for kind in ObjectKind::ALL {
            core.handle(SourceEvent::InSync(kind));
        }
    }

    /// Starts an agent that finds these maps and objects.
    pub(super) fn start(&mut self, memory: &MemoryMaps, now: Duration) -> Core {
        self.read.clear();
        let mut core = Core::new(memory.tables(), CLOCK, now).unwrap();
        core.set_node_context(self.node.clone());
        self.list(&mut core);
        core
    }
}

fn set<K: Ord, T>(map: &mut BTreeMap<K, T>, key: K, object: Option<T>) {
    match object {
        Some(object) => drop(map.insert(key, object)),
        None => drop(map.remove(&key)),
    }
}
