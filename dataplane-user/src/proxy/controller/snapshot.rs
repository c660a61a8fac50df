//! The controller's state for health endpoints, metrics, Events and the command line.
//!
//! `Core` makes a snapshot after each round, from `Status` and the other stages. Readers get it by
//! a watch channel and never change it.

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
    /// The maps have been made equal to the desired state once.
    pub synced: bool,
    /// The end of the last round.
    pub last_sync: Option<SystemTime>,
    /// The duration of the last round.
    pub last_duration: Duration,
    /// The time since which Services have been waiting for a retry.
    pub pending_since: Option<Instant>,
    /// The arrival of the last change.
    pub last_queued: Option<SystemTime>,
    /// Services that are not headless.
    pub services: usize,
    /// `EndpointSlice`s.
    pub slices: usize,
    /// Service ports in the maps.
    pub service_ports: usize,
    /// Frontends in the maps, IPv4 and IPv6.
    pub frontends: (u32, u32),
    /// Backend ids in use or at rest.
    pub backends: u32,
    /// Slots in use or at rest.
    pub slots: u32,
    /// Entries written and removed so far, by map.
    pub operations: Operations,
    /// Changes of Services received so far.
    pub service_changes: u64,
    /// Changes of slices received so far.
    pub endpoint_changes: u64,
    /// Services that wait for another try.
    pub failing: usize,
    /// The last error of a source or a map, and its time; `ropeway status` shows it.
    pub last_error: Option<(SystemTime, Arc<str>)>,
    /// Present faults of objects and files; at most [`MAX_REJECTIONS`].
    pub rejections: Arc<[Rejection]>,
    /// The number of all present rejections.
    pub rejected: usize,
    /// Services with a health check node port, by that port.
    pub health_checks: Arc<BTreeMap<u16, HealthCheck>>,
    /// The node's addresses at which node ports are served and health check node ports answer,
    /// without loopback ones.
    pub nodeport_addresses: Arc<[IpAddr]>,
    /// Durations of rounds.
    pub rounds: Arc<Histogram<Rounds>>,
    /// Times from an endpoint's change (as the API server dates it) to the maps.
    pub programming: Arc<Histogram<Programming>>,
    /// Services with a policy Local that have endpoints, but none on this node.
    pub no_local: NoLocal,
    /// Maps that were too small, and the number of entries that the refused Services need more.
    pub insufficient: BTreeMap<&'static str, u32>,
    /// Changes that are not in the maps yet; the counters are shared and stay current.
    pub pending: Arc<Pending>,
    /// Services whose scheduler counts connections.
    pub counting: usize,
    /// This Node is being deleted, or the cluster autoscaler wants to.
    pub leaving: bool,
}

/// Most rejections that a snapshot contains.
pub const MAX_REJECTIONS: usize = 1000;

/// The answer to the health check of a load balancer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub name: Box<str>,
    /// Ready endpoints on this node: IPv4, then IPv6. Each number is served at the node's addresses
    /// of its family, as kube-proxy does.
    pub local_endpoints: [usize; 2],
}
