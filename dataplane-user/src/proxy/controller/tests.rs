//! Tests of the controller's core with service maps in memory.

mod external_ips;
mod faults;
mod killed;
mod objects;
mod oracle;
mod ownership;
mod property;
mod reader;
mod report;
mod rounds;
mod sources;
mod view;

use std::net::IpAddr;
use std::time::Duration;

use dataplane_common::types::clock::Clock;
use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::proto;

use super::Core;
use crate::proxy::apply::memory::MemoryMaps;
use crate::proxy::desired::NodeContext;
use crate::proxy::source::object::{DualAddr, Endpoint, ServicePort, SlicePort, endpoint_flags};
use crate::proxy::source::{NodeObject, ObjectKey, ObjectKind, ServiceObject, SliceObject, SourceEvent};

const NOW: Duration = Duration::from_secs(1000);
const CLOCK: Clock = Clock { jiffies_per_second: 250 };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn dual(addresses: &[&str]) -> DualAddr {
    let mut dual = DualAddr::default();
    for a in addresses {
        match ip(a) {
            IpAddr::V4(a) => dual.v4 = Some(a),
            IpAddr::V6(a) => dual.v6 = Some(a),
        }
    }
    dual
}

fn service(cluster_ips: &[&str], ports: &[(&str, u16)]) -> ServiceObject {
    let port =
        |(name, port): &(&str, u16)| ServicePort { name: (*name).into(), port: *port, node_port: 0, proto: proto::TCP };
    ServiceObject {
        cluster_ips: dual(cluster_ips),
        ports: ports.iter().map(port).collect(),
        ..ServiceObject::default()
    }
}

const READY: u8 = endpoint_flags::READY | endpoint_flags::SERVING;

fn slice(service: &str, ports: &[(&str, u16)], endpoints: &[&str]) -> SliceObject {
    let with_flags: Vec<_> = endpoints.iter().map(|e| (*e, READY)).collect();
    slice_of(service, ports, &with_flags)
}

fn slice_of(service: &str, ports: &[(&str, u16)], endpoints: &[(&str, u8)]) -> SliceObject {
    let port = |(name, port): &(&str, u16)| SlicePort { name: (*name).into(), port: *port, proto: proto::TCP };
    let endpoint = |(addr, flags): &(&str, u8)| Endpoint { addr: ip(addr), zones: None, node: 0, flags: *flags };
    let mut endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    endpoints.sort_by_key(|e| e.addr);
    SliceObject {
        service: service.into(),
        ports: ports.iter().map(port).collect(),
        family: endpoints.first().map_or(IpFamily::V4, |e| IpFamily::of(e.addr)),
        endpoints: endpoints.into(),
        triggered: 0,
    }
}

fn node() -> NodeObject {
    NodeObject {
        addresses: [ip("192.0.2.1"), ip("2001:db8::1")].into(),
        pod_cidrs: ["10.1.0.0/16".parse().unwrap(), "fd00:1::/48".parse().unwrap()].into(),
        ..NodeObject::default()
    }
}

fn context() -> NodeContext {
    NodeContext {
        name: "n1".into(),
        addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        primary: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        nodeport_addresses: ["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"].map(ip).into(),
        ipv4: true,
        ipv6: true,
        ..NodeContext::default()
    }
}

/// Returns a core whose lists are complete except those of Services and slices.
fn core(memory: &MemoryMaps, now: Duration) -> Core {
    let mut core = Core::new(memory.tables(), CLOCK, now).unwrap();
    core.set_node_context(context());
    core.handle(SourceEvent::Relist(ObjectKind::Node));
    core.handle(SourceEvent::Node("n1".into(), Some(node())));
    core.handle(SourceEvent::InSync(ObjectKind::Node));
    core
}

fn in_sync(core: &mut Core) {
    core.handle(SourceEvent::InSync(ObjectKind::Service));
    core.handle(SourceEvent::InSync(ObjectKind::Slice));
}

/// Returns a core that has written one Service with two endpoints to the maps.
fn serving(memory: &MemoryMaps) -> Core {
    let mut core = core(memory, NOW);
    core.handle(SourceEvent::Service(key("web"), Some(service(&["10.96.0.10"], &[("http", 80)]))));
    core.handle(SourceEvent::Slice(key("web-1"), Some(slice("web", &[("http", 8080)], &["10.1.0.5", "10.1.0.6"]))));
    in_sync(&mut core);
    core.reconcile(NOW);
    core
}

fn memory() -> MemoryMaps {
    MemoryMaps::new(1000, 1000)
}
