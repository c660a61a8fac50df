//! The inputs that concern every Service: Nodes, `ServiceCIDR`s, this node's addresses.
//!
//! Fed by `Core::handle`, which also asks it whether all kinds of objects have been listed once:
//! nothing is written before that. It derives the `Context` of the pure stages and knows nothing of
//! Services and maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hashbrown::HashSet;
use ipnetwork::IpNetwork;

use crate::proxy::desired::{ClusterContext, Context, NodeContext};
use crate::proxy::source::{NodeObject, ObjectKind};

/// All Nodes by name.
pub type Nodes = BTreeMap<Box<str>, NodeObject>;

/// Kinds that must be complete before anything is written.
const NEEDED: [ObjectKind; 3] = [ObjectKind::Service, ObjectKind::Slice, ObjectKind::Node];

/// The latest objects that concern every Service, and which kinds are complete.
#[derive(Debug, Default)]
pub(super) struct ClusterState {
    pub(super) nodes: Nodes,
    /// The Nodes have changed since `Core::changed_nodes` last returned them.
    pub(super) nodes_changed: bool,
    node: Option<NodeContext>,
    context_changed: bool,
    listed_nodes: Option<HashSet<Box<str>>>,
    service_cidrs: BTreeMap<Box<str>, Box<[IpNetwork]>>,
    listed_service_cidrs: Option<HashSet<Box<str>>>,
    complete: HashSet<ObjectKind>,
    /// Addresses of the API servers: as the source reaches them, and the endpoints of their
    /// Service.
    api_servers: BTreeSet<IpAddr>,
    api_endpoints: BTreeSet<IpAddr>,
    /// Ports of these endpoints.
    api_ports: BTreeSet<u16>,
}

impl ClusterState {
    pub(super) fn set_node_context(&mut self, node: NodeContext) {
        self.context_changed |= self.node.as_ref() != Some(&node);
        self.node = Some(node);
    }

    pub(super) fn set_api_servers(&mut self, addresses: BTreeSet<IpAddr>) {
        self.context_changed |= self.api_servers != addresses;
        self.api_servers = addresses;
    }

    pub(super) fn set_api_endpoints(&mut self, addresses: BTreeSet<IpAddr>, ports: BTreeSet<u16>) {
        self.context_changed |= self.api_endpoints != addresses || self.api_ports != ports;
        (self.api_endpoints, self.api_ports) = (addresses, ports);
    }

    pub(super) fn set_node(&mut self, name: Box<str>, object: Option<NodeObject>) {
        if let Some(listed) = &mut self.listed_nodes {
            listed.insert(name.clone());
        }
        let changed = match object {
            Some(object) => {
                let same = self.nodes.get(&name) == Some(&object);
                self.nodes.insert(name, object);
                !same
            }
            None => self.nodes.remove(&name).is_some(),
        };
        self.nodes_changed |= changed;
        self.context_changed |= changed;
    }

    pub(super) fn set_service_cidr(&mut self, name: Box<str>, ranges: Option<Box<[IpNetwork]>>) {
        if let Some(listed) = &mut self.listed_service_cidrs {
            listed.insert(name.clone());
        }
        self.context_changed |= self.service_cidrs.get(&name) != ranges.as_ref();
        match ranges {
            Some(ranges) => drop(self.service_cidrs.insert(name, ranges)),
            None => drop(self.service_cidrs.remove(&name)),
        }
    }

    pub(super) fn relist(&mut self, kind: ObjectKind) {
        match kind {
            ObjectKind::Node => self.listed_nodes = Some(HashSet::new()),
            ObjectKind::ServiceCidr => self.listed_service_cidrs = Some(HashSet::new()),
            ObjectKind::Service | ObjectKind::Slice => {}
        }
    }

    pub(super) fn in_sync(&mut self, kind: ObjectKind) {
        self.complete.insert(kind);
        match kind {
            ObjectKind::Node => {
                if let Some(listed) = self.listed_nodes.take() {
                    let before = self.nodes.len();
                    self.nodes.retain(|name, _| listed.contains(name));
                    self.nodes_changed |= before != self.nodes.len();
                    self.context_changed |= before != self.nodes.len();
                }
            }
            ObjectKind::ServiceCidr => {
                if let Some(listed) = self.listed_service_cidrs.take() {
                    let before = self.service_cidrs.len();
                    self.service_cidrs.retain(|name, _| listed.contains(name));
                    self.context_changed |= before != self.service_cidrs.len();
                }
            }
            ObjectKind::Service | ObjectKind::Slice => {}
        }
    }

    /// Returns the names of the inputs that have not been complete once.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let kinds = NEEDED.iter().filter(|k| !self.complete.contains(*k)).map(|k| k.name());
        kinds.chain(self.node.is_none().then_some("the node's own addresses")).collect()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.node.is_some() && NEEDED.iter().all(|k| self.complete.contains(k))
    }

    /// Returns true if the Node objects have been listed once.
    pub(super) fn has_nodes(&self) -> bool {
        self.complete.contains(&ObjectKind::Node)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.node.as_ref().and_then(|n| self.nodes.get(n.name.as_str())).is_some_and(|n| n.leaving)
    }

    /// Returns the context if it may have changed since the last call.
    pub(super) fn new_context(&mut self) -> Option<Context> {
        if !std::mem::take(&mut self.context_changed) {
            return None;
        }
        let mut node = self.node.clone()?;
        if node.zone.is_none() {
            node.zone = self.nodes.get(node.name.as_str()).and_then(|n| n.zone.clone());
        }
        let known = self.service_cidrs.values().flatten().chain(&node.service_ranges);
        let api_servers = self.api_servers.union(&self.api_endpoints).copied();
        let cluster = ClusterContext::new(self.nodes.values(), &node.pod_ranges)
            .with_service_ranges(known)
            .with_api_servers(api_servers, self.api_ports.iter().copied());
        Some(Context { node, cluster })
    }
}
