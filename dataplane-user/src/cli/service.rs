//! `ropeway service list`: frontends with their backends, like `ipvsadm -Ln`.
//!
//! Reads the maps `frontends4/6`, `slots`, `backends`, `backend_stats`, `backend_loads` and
//! `services`, that is, the tables from which the programs choose. A frontend's two slot tables
//! (internal and external traffic) are merged into one list of backends.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bytemuck::Pod;
use dataplane_common::types::address::{Address, V4, V6};
use dataplane_common::types::load::ConnectionCounts;
use dataplane_common::types::service::{
    Backend, BackendLoad, BackendStats, Frontend, FrontendKey, ServiceName, Slot, SlotTable, backend_state,
    frontend_flags, proto, scheduler,
};
use dataplane_host::map::{MapError, PinnedMap, SharedArray};
use dataplane_host::pins::Pins;
use serde::Serialize;

use super::{SCHEMA, View, table};
use crate::row;

/// The view of `ropeway service list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Services {
    /// Version of the view, [`SCHEMA`].
    pub version: u32,
    /// Frontends in the order of Service, port name, protocol, address and port.
    pub frontends: Vec<FrontendView>,
}

/// A frontend: address, port and protocol at which a Service port is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendView {
    /// `namespace/name` of the Service.
    pub service: String,
    /// Name of the Service port; may be empty.
    pub port_name: String,
    /// `TCP`, `UDP`, `SCTP`, or the number of another protocol.
    pub protocol: String,
    /// Address at which clients reach the Service.
    pub address: IpAddr,
    /// Port at which clients reach the Service.
    pub port: u16,
    /// Name of the scheduler.
    pub scheduler: String,
    /// Any of `node-port`, `external`, `keep-client`, `internal-drop`, `external-drop`,
    /// `hash-port`.
    pub flags: Vec<&'static str>,
    /// Timeout of the session affinity in clock ticks; 0 if there is none.
    pub affinity_ticks: u32,
    /// Backends of both slot tables.
    pub backends: Vec<BackendView>,
}

/// A backend of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// Address of the endpoint.
    pub address: IpAddr,
    /// Port of the endpoint.
    pub port: u16,
    /// Index in the map `backends`.
    pub id: u32,
    /// True if it gets connections from pods and nodes (internal traffic).
    pub internal: bool,
    /// True if it gets connections from outside (external traffic).
    pub external: bool,
    /// Weight from the annotation ropeway.dev/weights.
    pub weight: u32,
    /// Number of its slots, in that of the two tables that has more of them.
    pub slots: u32,
    /// Any of `serving`, `terminating`, `local`, `host`.
    pub state: Vec<&'static str>,
    /// Incremented when the id is assigned or its endpoint ends.
    pub generation: u32,
    /// Connections assigned so far, over all frontends of the Service port; `None` if the map of
    /// counts has no such backend.
    pub connections: Option<u64>,
    /// Open connections, if the scheduler counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<u32>,
    /// TCP connections that have seen FIN or RST, if the scheduler counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inactive: Option<u32>,
}

/// Access to the maps behind a frontend; tests substitute them.
pub(super) trait Lookup {
    fn slot(&self, index: u32) -> Option<u32>;
    fn backend(&self, id: u32) -> Option<Backend>;
    fn stats(&self, id: u32) -> Option<BackendStats>;
    fn found(&self, id: u32) -> Option<BackendLoad>;
    fn name(&self, service_port: u32) -> Result<Option<String>, MapError>;
}

struct ServiceTables {
    slots: SharedArray<Slot>,
    backends: SharedArray<Backend>,
    stats: SharedArray<BackendStats>,
    loads: SharedArray<BackendLoad>,
    names: PinnedMap<u32, ServiceName>,
}

impl Lookup for ServiceTables {
    fn slot(&self, index: u32) -> Option<u32> {
        self.slots.get(index).map(|s| s.backend)
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.get(id)
    }

    fn stats(&self, id: u32) -> Option<BackendStats> {
        self.stats.get(id)
    }

    fn found(&self, id: u32) -> Option<BackendLoad> {
        self.loads.get(id)
    }

    fn name(&self, service_port: u32) -> Result<Option<String>, MapError> {
        let Some(entry) = self.names.get(&service_port)? else { return Ok(None) };
        let text: Vec<_> = entry.name.into_iter().take_while(|b| *b != 0).collect();
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }
}

/// Reads the frontends, limited to those of `service` (`namespace/name`) if given.
///
/// # Errors
/// A map could not be read.
pub fn gather(pins: &Pins, service: Option<&str>) -> Result<Services, MapError> {
    let maps = ServiceTables {
        slots: SharedArray::open(pins, "slots")?,
        backends: SharedArray::open(pins, "backends")?,
        stats: SharedArray::open(pins, "backend_stats")?,
        loads: SharedArray::open(pins, "backend_loads")?,
        names: PinnedMap::open(pins, "services")?,
    };
    let mut frontends = read::<V4>(pins, "frontends4", &maps)?;
    frontends.extend(read::<V6>(pins, "frontends6", &maps)?);
    if let Some(wanted) = service {
        frontends.retain(|f| f.service == wanted);
    }
    frontends.sort();
    Ok(Services { version: SCHEMA, frontends })
}

fn read<A>(pins: &Pins, name: &str, maps: &ServiceTables) -> Result<Vec<FrontendView>, MapError>
where
    FrontendKey<A>: Pod,
    A: Address + Into<IpAddr>,
{
    let entries = PinnedMap::<FrontendKey<A>, Frontend>::open(pins, name)?.entries()?;
    entries.iter().map(|(key, frontend)| view(key.addr.into(), key.port, key.proto, frontend, maps)).collect()
}

pub(super) fn view(
    address: IpAddr,
    port: u16,
    protocol: u8,
    f: &Frontend,
    maps: &impl Lookup,
) -> Result<FrontendView, MapError> {
    let full = maps.name(f.service_port)?.unwrap_or_else(|| format!("?/{}", f.service_port));
    let (service, port_name) = full.split_once(':').unwrap_or((&full, ""));
    Ok(FrontendView {
        service: service.into(),
        port_name: port_name.into(),
        protocol: protocol_name(protocol),
        address,
        port,
        scheduler: scheduler_name(f.scheduler),
        flags: words(
            u32::from(f.flags),
            &[
                (frontend_flags::NODE_PORT.into(), "node-port"),
                (frontend_flags::EXTERNAL.into(), "external"),
                (frontend_flags::KEEP_CLIENT.into(), "keep-client"),
                (frontend_flags::INTERNAL_DROP.into(), "internal-drop"),
                (frontend_flags::EXTERNAL_DROP.into(), "external-drop"),
                (frontend_flags::HASH_PORT.into(), "hash-port"),
            ],
        ),
        affinity_ticks: f.affinity_ticks,
        backends: backends(f, maps),
    })
}

fn backends(f: &Frontend, maps: &impl Lookup) -> Vec<BackendView> {
    let mut weights: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    let ids = |t: SlotTable| (t.base..t.base.saturating_add(t.len)).map_while(|i| maps.slot(i));
    for id in ids(f.internal) {
        weights.entry(id).or_default().0 += 1;
    }
    for id in ids(f.external) {
        weights.entry(id).or_default().1 += 1;
    }
    let mut all: Vec<_> = weights
        .into_iter()
        .filter_map(|(id, (internal, external))| {
            let b = maps.backend(id)?;
            let stats = maps.stats(id);
            let counted = scheduler::counts_connections(f.scheduler).then(|| stats.zip(maps.found(id))).flatten();
            let load = counted.map(|(stats, found)| ConnectionCounts::new(&stats, &found, b.generation));
            Some(BackendView {
                address: IpAddr::from(b.addr).to_canonical(),
                port: b.port,
                id,
                internal: internal > 0,
                external: external > 0,
                weight: b.weight,
                slots: internal.max(external),
                state: state_words(b.state),
                generation: b.generation,
                connections: stats.map(|stats| stats.connections),
                active: load.map(|l| l.active),
                inactive: load.map(|l| l.inactive),
            })
        })
        .collect();
    all.sort();
    all
}

fn state_words(state: u8) -> Vec<&'static str> {
    words(
        u32::from(state),
        &[
            (backend_state::SERVING.into(), "serving"),
            (backend_state::TERMINATING.into(), "terminating"),
            (backend_state::LOCAL.into(), "local"),
            (backend_state::HOST.into(), "host"),
        ],
    )
}

fn words(bits: u32, names: &[(u32, &'static str)]) -> Vec<&'static str> {
    names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

pub(super) fn protocol_name(number: u8) -> String {
    match number {
        proto::TCP => "TCP".into(),
        proto::UDP => "UDP".into(),
        proto::SCTP => "SCTP".into(),
        other => other.to_string(),
    }
}

fn scheduler_name(number: u8) -> String {
    scheduler::NAMES.get(usize::from(number)).map_or_else(|| format!("scheduler-{number}"), |name| (*name).into())
}

impl View for Services {
    fn text(&self) -> String {
        let mut rows = vec![
            row!["PROT", "FRONTEND", "SCHEDULER", "SERVICE", "FLAGS", ""],
            row!["  ->", "BACKEND", "TRAFFIC", "STATE", "WEIGHT", "GENERATION", "CONNECTIONS", "ACTIVE", "INACTIVE"],
        ];
        for f in &self.frontends {
            let name =
                if f.port_name.is_empty() { f.service.clone() } else { format!("{}:{}", f.service, f.port_name) };
            let mut flags = f.flags.join(",");
            if f.affinity_ticks > 0 {
                flags = if flags.is_empty() { "affinity".into() } else { flags + ",affinity" };
            }
            let flags = if flags.is_empty() { "-".to_owned() } else { flags };
            rows.push(row![f.protocol, SocketAddr::new(f.address, f.port), f.scheduler, name, flags]);
            if f.backends.is_empty() {
                rows.push(row!["  ->", "(none)"]);
            }
            for b in &f.backends {
                let sets = match (b.internal, b.external) {
                    (true, true) => "all",
                    (true, false) => "internal",
                    _ => "external",
                };
                let address = SocketAddr::new(b.address, b.port);
                let state = b.state.join(",");
                let connections = b.connections.map_or_else(|| "-".to_owned(), |n| n.to_string());
                let [active, inactive] = [b.active, b.inactive].map(|n| n.map_or_else(String::new, |n| n.to_string()));
                rows.push(row!["  ->", address, sets, state, b.weight, b.generation, connections, active, inactive]);
            }
        }
        table::render(&rows)
    }
}
