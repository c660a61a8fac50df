//! What the controller tells about itself: for health endpoints, metrics and the command line.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::histogram::{Histogram, Programming, Rounds};
use super::locality::NoLocal;
use super::pending::Pending;
use crate::proxy::apply::Operations;
use crate::proxy::source::Rejection;

/// The state after a round.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Kinds that have not yet been complete once, by name.
    pub waiting_for: Vec<&'static str>,
    /// The tables have been made equal to the desired state once.
    pub synced: bool,
    /// When the tables were last made equal to the desired state.
    pub last_sync: Option<SystemTime>,
    /// How long that took.
    pub last_duration: Duration,
    /// Since when a change has been waiting for the tables, because of failures.
    pub pending_since: Option<Instant>,
    /// When the last change came.
    pub last_queued: Option<SystemTime>,
    /// Services that are not headless.
    pub services: usize,
    /// `EndpointSlice`s.
    pub slices: usize,
    /// Pods of this node.
    pub pods: usize,
    /// Service ports in the tables.
    pub service_ports: usize,
    /// Frontends in the tables, IPv4 and IPv6.
    pub frontends: (u32, u32),
    /// Backend ids in use or at rest.
    pub backends: u32,
    /// Slots in use or at rest.
    pub slots: u32,
    /// Entries written and removed so far, by map.
    pub operations: Operations,
    /// Changes of Services that came.
    pub service_changes: u64,
    /// Changes of slices that came.
    pub endpoint_changes: u64,
    /// Services that wait for another try.
    pub failing: usize,
    /// What was last wrong with a source or a map.
    pub last_error: Option<Arc<str>>,
    /// What is wrong with objects and files now; at most [`MAX_REJECTIONS`].
    pub rejections: Arc<[Rejection]>,
    /// How many there are.
    pub rejected: usize,
    /// Services with a health check node port, by that port.
    pub health_checks: Arc<BTreeMap<u16, HealthCheck>>,
    /// Where node ports are served and health check node ports answer: addresses of the node, without loopback ones.
    pub nodeport_addresses: Arc<[IpAddr]>,
    /// Durations of rounds.
    pub rounds: Arc<Histogram<Rounds>>,
    /// From a change of an endpoint (as the API server dates it) to the tables.
    pub programming: Arc<Histogram<Programming>>,
    /// Services with a policy Local that have endpoints, but none on this node.
    pub no_local: NoLocal,
    /// Maps that were too small, and how many entries more the Services that were refused need there.
    pub insufficient: BTreeMap<&'static str, u32>,
    /// Changes that are not in the tables yet: goes on counting.
    pub pending: Arc<Pending>,
    /// Services whose scheduler counts connections.
    pub counting: usize,
    /// This Node is being deleted, or the cluster autoscaler wants to.
    pub leaving: bool,
}

/// How many rejections a snapshot shows.
pub const MAX_REJECTIONS: usize = 1000;

/// What the health check of a load balancer is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// `namespace`.
    pub namespace: Arc<str>,
    /// `name`.
    pub name: Box<str>,
    /// Ready endpoints on this node: IPv4, then IPv6. Each is told at the node's addresses of its family, as kube-proxy does it.
    pub local_endpoints: [usize; 2],
}
