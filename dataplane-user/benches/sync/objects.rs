//! The objects of the benchmark: names as long as real ones, one port and one slice of three
//! endpoints per Service.
//!
//! The same objects for every run, so that results can be compared.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use dataplane_common::types::clock::Clock;
use dataplane_common::types::ip_family::IpFamily;
use dataplane_common::types::service::proto;
use dataplane_user::proxy::desired::NodeContext;
use dataplane_user::proxy::source::object::{DualAddr, Endpoint, ServicePort, SlicePort, endpoint_flags};
use dataplane_user::proxy::source::{NodeObject, ObjectKey, ObjectKind, ServiceObject, SliceObject, SourceEvent};

pub(crate) const SERVICES: usize = 50_000;
pub(crate) const PER_SERVICE: usize = 3;
pub(crate) const ENDPOINTS: usize = SERVICES * PER_SERVICE;
/// The rate of most distributions' kernels.
pub(crate) const CLOCK: Clock = Clock { jiffies_per_second: 250 };

const NAMESPACES: usize = 100;

pub(crate) fn cluster_ip(i: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + 10 + i as u32)
}

/// Returns the address of endpoint `n` of Service `i`.
pub(crate) fn endpoint(i: usize, n: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0000 + (i * 4 + n) as u32)
}

pub(crate) fn name(i: usize) -> String {
    format!("checkout-{i:05}")
}

pub(crate) fn namespace(i: usize) -> String {
    format!("team-{:02}", i % NAMESPACES)
}

fn flags(n: usize) -> u8 {
    let local = if n == 0 { endpoint_flags::LOCAL } else { 0 };
    endpoint_flags::READY | endpoint_flags::SERVING | local
}

pub(crate) fn slice(service: &str, port_name: &Arc<str>, addresses: impl Iterator<Item = Ipv4Addr>) -> SliceObject {
    let endpoint = |(n, a): (usize, Ipv4Addr)| Endpoint { addr: a.into(), zones: None, node: 0, flags: flags(n) };
    let mut endpoints: Vec<_> = addresses.enumerate().map(endpoint).collect();
    endpoints.sort_by_key(|e| e.addr);
    SliceObject {
        service: service.into(),
        ports: [SlicePort { name: port_name.clone(), port: 8080, proto: proto::TCP }].into(),
        endpoints: endpoints.into(),
        triggered: 0,
        family: IpFamily::V4,
    }
}

pub(crate) fn service(cluster_ip: Ipv4Addr, port_name: &Arc<str>) -> ServiceObject {
    ServiceObject {
        cluster_ips: DualAddr { v4: Some(cluster_ip), v6: None },
        ports: [ServicePort { name: port_name.clone(), port: 80, node_port: 0, proto: proto::TCP }].into(),
        ..ServiceObject::default()
    }
}

/// Returns all objects in the order in which a source sends them.
pub(crate) fn events() -> Vec<SourceEvent> {
    let port_name: Arc<str> = "http".into();
    let namespaces: Vec<Arc<str>> = (0..NAMESPACES).map(|i| namespace(i).into()).collect();
    let key =
        move |i: usize, name: String| ObjectKey { namespace: namespaces[i % NAMESPACES].clone(), name: name.into() };
    let (service_key, service_port) = (key.clone(), port_name.clone());
    let services = (0..SERVICES)
        .map(move |i| SourceEvent::Service(service_key(i, name(i)), Some(service(cluster_ip(i), &service_port))));
    let slices = (0..SERVICES).map(move |i| {
        let addresses = (0..PER_SERVICE).map(|n| endpoint(i, n));
        SourceEvent::Slice(key(i, format!("{}-x7k2p", name(i))), Some(slice(&name(i), &port_name, addresses)))
    });
    let begin = ObjectKind::ALL.map(SourceEvent::Relist).into_iter();
    let end = ObjectKind::ALL.map(SourceEvent::InSync).into_iter();
    let node = SourceEvent::Node("node-1".into(), Some(node()));
    begin.chain(services).chain(slices).chain([node]).chain(end).collect()
}

/// Returns an event that replaces one endpoint of Service `i`.
pub(crate) fn change(i: usize, generation: usize) -> SourceEvent {
    let key = ObjectKey::new(&namespace(i), &format!("{}-x7k2p", name(i)));
    let new = Ipv4Addr::from(0x0b00_0000 + generation as u32);
    let addresses = (0..PER_SERVICE - 1).map(|n| endpoint(i, n)).chain([new]);
    SourceEvent::Slice(key, Some(slice(&name(i), &"http".into(), addresses)))
}

fn node() -> NodeObject {
    let range = |text: &str| text.parse().unwrap();
    NodeObject {
        addresses: [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))].into(),
        pod_cidrs: [range("10.128.0.0/9"), range("11.0.0.0/8")].into(),
        ..NodeObject::default()
    }
}

pub(crate) fn context() -> NodeContext {
    let addresses = vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))];
    NodeContext {
        name: "node-1".into(),
        nodeport_addresses: addresses.clone(),
        addresses,
        ipv4: true,
        ipv6: true,
        ..NodeContext::default()
    }
}
